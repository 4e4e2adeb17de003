"""Results of a job that has ended, copied out of the store."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from tests.producers.gateway.openai.made import reply

from guideway.producers.batch.files.row import OWN, AnswerForm
from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.jobs import Job
from guideway.producers.batch.results.answer import Answer
from guideway.producers.batch.results.lines import line_of
from guideway.schemas.failures import Refusal
from guideway.schemas.services.batch import BatchEnded, BatchJob, Counts
from guideway.settings import Settings
from guideway.usecases.batch import results


def ended(tmp_path: Path) -> tuple[Settings, Job]:
    settings = Settings.from_environ({"GUIDEWAY_STORE": str(tmp_path / "store"), "GUIDEWAY_HOME": str(tmp_path)})
    job = BatchJob(id="j", rows=2, pieces=1, index="0" * 64, secret="0" * 32, submitted_ms=1, deadline_ms=2)
    with JobFolder(settings.store, "shop", "j").writing("output.jsonl") as (out,):
        for line, form in enumerate((OWN, AnswerForm("chat", "shop/write")), start=1):
            said = reply("Hi" if line == 1 else [1])
            told = Answer(line=line, id=f"r{line}", endpoint="/shop/write", form=form, request_id="j.1", reply=said)
            out.write(line_of(told, created_s=7))
    news = BatchEnded(job="j", at_ms=3, outcome="done", counts=Counts(completed=2), output="output.jsonl")
    return settings, Job(namespace="shop", job=job, ended=news)


def test_results_never_take_the_place_of_another_file(tmp_path: Path) -> None:
    settings, job = ended(tmp_path)
    out = tmp_path / "out.jsonl"
    results.write(settings, job, out)
    assert [json.loads(line)["line"] for line in out.read_bytes().splitlines()] == [1, 2]
    with pytest.raises(Refusal, match=r"out\.jsonl is there already"):
        results.write(settings, job, out)
    with pytest.raises(Refusal, match=r"are JSONL: name a file \.jsonl"):
        results.write(settings, job, tmp_path / "out.parquet")


def test_what_cannot_be_written_whole_leaves_no_file_behind(tmp_path: Path) -> None:
    """The same command goes on after an interruption, so nothing of its own may be in its way."""
    settings, job = ended(tmp_path)
    assert job.ended is not None
    news = msgspec.structs.replace(
        job.ended, errors="errors.jsonl", counts=Counts(completed=2, failures={"cancelled": 1})
    )
    folder = JobFolder(settings.store, "shop", "j")
    with folder.writing("errors.jsonl") as (errors,):
        errors.write(b"{}\n")
    gone = msgspec.structs.replace(news, output="gone.jsonl")
    with pytest.raises(Refusal, match="they were removed"):
        results.write(settings, msgspec.structs.replace(job, ended=gone), tmp_path / "out.jsonl")
    assert not [one.name for one in tmp_path.iterdir() if "out" in one.name]
    assert folder.is_to_be_taken(news.output)
    results.write(settings, msgspec.structs.replace(job, ended=news), tmp_path / "out.jsonl")
    assert (tmp_path / "out.errors.jsonl").read_bytes() == b"{}\n"
    assert not folder.is_to_be_taken(news.output)


def test_results_are_not_written_into_a_file_called_as_standard_output_is() -> None:
    with pytest.raises(Refusal, match="not printed: name one"):
        results.require_free(Path("-"))


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl.gz", "out.json"])
def test_results_are_not_written_into_a_file_that_promises_another_form(name: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"name a file \.jsonl or \.parquet"):
        results.require_free(tmp_path / name)
