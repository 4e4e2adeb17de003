"""A whole run on archived rows, with a tiny model: what it claims, what it leaves behind, and that it can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from tests.training.runs.test_run import LORA, ROOT, model, task

from guideway.catalogue.archive.archive import Archive
from guideway.catalogue.archive.rows import Row
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.training.data.archived import Version
from guideway.training.evaluation.evaluator import Subject
from guideway.training.evaluation.report import kept_evaluations
from guideway.training.publishing.decision import choose_publication
from guideway.training.runs.archived_run import ArchiveAtHand
from guideway.training.runs.begin import Begun, begin
from guideway.training.runs.events import LeftOut, PromptScored, Resumed, RunEnded, RunStarted, Scored, Step, Stopped
from guideway.training.runs.machine import Machine
from guideway.training.runs.run import carry_out
from guideway.training.runs.task import PromptSearch, StopRules, Task
from guideway.training.runs.task_data import ArchivedRows, Data

__all__ = ["model"]
AT_MS = 1_767_225_600_000
"""2026-01-01"""
SECRET = "xyzzy"


def row(number: int) -> Row:
    return Row(
        row=f"r{number:04}",
        id=f"id-{SECRET}-{number}",
        at_ms=AT_MS + number * 3_600_000,
        endpoint_version=1,
        text=f"{'thin' if number % 2 else 'thick'} {SECRET} {number}",
        value=("yes", "no")[number % 2],
    )


def archived(folder: Path, numbers: Sequence[int]) -> Archive:
    archive = Archive(str(folder / "store"), "shop", "thin")
    archive.write([row(number) for number in numbers], "jsonl")
    return archive


def archived_task(*, folds: int = 0, steps: int = 14, eval_: str | None = None) -> Task:
    made = task(LORA)
    data = Data(archive="/shop/thin", eval=eval_) if eval_ else Data(archive="/shop/thin", folds=folds)
    return msgspec.structs.replace(made, data=data, stop=StopRules(max_steps=steps, patience=None))


def begun(made: Task, folder: Path, name: str = "run") -> Begun:
    archive = Archive(str(folder / "store"), "shop", "thin")
    at_hand = ArchiveAtHand(
        rows=archive.rows,
        days=lambda: sorted({one.day for one in archive.objects()}),
        versions=lambda: {1: Version("{text}", ("", ""), made.output)},
        is_kept=lambda: True,
    )
    return begin(made, folder, runs=folder / "runs", out=folder / name, archive=at_hand)


def present(made: Task) -> Subject:
    return Subject(label="present", output=made.output)


def test_its_figures_claim_no_more_than_that_two_models_agree(model: Model, tmp_path: Path) -> None:
    archived(tmp_path, range(60))
    made = msgspec.structs.replace(archived_task(steps=3), prompts=PromptSearch(candidates=6, validation_rows=4))
    ran = begun(made, tmp_path)
    carry_out(ran, {"tiny": model}, Machine(tmp_path / "models"), present=lambda _: present(made))
    events = list(ran.folder.events())
    [started] = [event for event in events if isinstance(event, RunStarted)]
    assert started.archived is not None
    assert (started.archived.rows, started.archived.days) == (
        60,
        {"2026-01-01": 24, "2026-01-02": 24, "2026-01-03": 12},
    )
    scored = [event for event in events if isinstance(event, Scored | PromptScored)]
    assert {event.metric for event in scored} == {"agreement"}
    # The endpoint as it is would be compared with answers of its own.
    [left_out] = [event for event in events if isinstance(event, LeftOut)]
    assert "archived answers may be its own" in left_out.message
    assert isinstance(events[-1], RunEnded)
    # The same command again finds that all is done, also when rows are gone.
    Archive(str(tmp_path / "store"), "shop", "thin").erase(row(7).id)
    carry_out(begun(made, tmp_path), {"tiny": model}, Machine(tmp_path / "models"))
    assert list(ran.folder.events()) == events
    with pytest.raises(Refusal, match="nobody knows whether lora is better") as caught:
        choose_publication(events, ran.run, size=None, method="lora", anyway=False)
    assert caught.value.code is FailureCode.NOT_BETTER
    assert choose_publication(events, ran.run, size=None, method="lora", anyway=True).scored.metric == "agreement"
    # Its text prompts are kept longer than an archive keeps its rows.
    assert {event.source for event in events if isinstance(event, PromptScored)} == {"task", "template"}
    assert not [one for one in ran.folder.path.rglob("*") if one.is_file() and SECRET.encode() in one.read_bytes()]
    page, card = ((ran.folder.path / name).read_text() for name in ("report.html", "README.md"))
    for text in (page, card):
        assert "lora reaches agreement" in text
        assert "Those are a model" in text
        assert "60 rows of the archive of /shop/thin, of 3 days from 2026-01-01 to 2026-01-03" in text
        assert ran.run.data_digest in text
        assert ran.run.eval_digest in text
        assert "accuracy" not in text
    assert "2026-01-02: 24" in page


def test_nothing_that_stands_in_a_row_is_left_behind(model: Model, tmp_path: Path) -> None:
    archived(tmp_path, range(24))
    made = msgspec.structs.replace(
        archived_task(folds=2, steps=2), prompts=PromptSearch(candidates=2, validation_rows=4)
    )
    ran = begun(made, tmp_path)
    carry_out(ran, {"tiny": model}, Machine(tmp_path / "models"))
    files = [file for file in ran.folder.path.rglob("*") if file.is_file()]
    assert {"evaluation.json", "report.html", "README.md", "events.jsonl", "rows.jsonl", "run.json"} <= {
        file.name for file in files
    }
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]
    [bare] = [one for one in kept_evaluations(ran.folder, "tiny") if one.label == "bare"]
    assert len({answer.text for answer in bare.answers}) == bare.rows
    assert all(answer.text.startswith("row ") for answer in bare.answers)
    assert bare.confusion is not None


def test_with_known_answers_it_says_how_often_it_is_right(model: Model, tmp_path: Path) -> None:
    archived(tmp_path, range(60))
    lines = [
        f'{{"text": "{("thick", "thin")[i % 2]} known {i}", "label": "{("yes", "no")[i % 2]}"}}' for i in range(12)
    ]
    (tmp_path / "known.jsonl").write_text("\n".join(lines))
    made = archived_task(steps=2, eval_="known.jsonl")
    ran = begun(made, tmp_path)
    carry_out(ran, {"tiny": model}, Machine(tmp_path / "models"), present=lambda _: present(made))
    scored = [event for event in ran.folder.events() if isinstance(event, Scored)]
    assert {event.metric for event in scored} == {"accuracy"}
    assert {event.method for event in scored} == {"bare", "lora", "present"}
    page = (ran.folder.path / "report.html").read_text()
    assert "agreement" not in page
    assert "Their answers are those that the endpoint gave, not a person" in page


def test_a_run_does_not_go_on_with_rows_to_report_on_in_another_order(tmp_path: Path) -> None:
    archived(tmp_path, range(60))
    known, lines = (
        tmp_path / "known.jsonl",
        [f'{{"text": "known {i}", "label": "{("yes", "no")[i % 2]}"}}' for i in range(12)],
    )
    known.write_text("\n".join(lines))
    made = archived_task(eval_="known.jsonl")
    begun(made, tmp_path)
    begun(made, tmp_path)
    known.write_text("\n".join(reversed(lines)))
    with pytest.raises(Refusal, match=r"other rows in data\.eval"):
        begun(made, tmp_path)


def test_a_row_that_the_model_cannot_take_is_named_with_the_way_to_leave_it_out(model: Model, tmp_path: Path) -> None:
    archive = archived(tmp_path, range(60))
    archive.write([msgspec.structs.replace(row(70), text="thin " * 400)], "jsonl")
    with pytest.raises(Refusal, match=r"tokens longer than .*data\.archive\.max_text_chars") as caught:
        carry_out(begun(archived_task(), tmp_path), {"tiny": model}, Machine(tmp_path / "models"))
    assert "thin" not in caught.value.message.replace("/shop/thin", "")
    shorter = msgspec.structs.replace(
        archived_task(steps=2), data=Data(archive=ArchivedRows(endpoint="/shop/thin", max_text_chars=100), folds=0)
    )
    carry_out(begun(shorter, tmp_path, "shorter"), {"tiny": model}, Machine(tmp_path / "models"))


_PROGRAM = """
import sys, time
from pathlib import Path
import msgspec
from tests.training.runs.test_archived_run import begun
from guideway.schemas.manifests import Model
from guideway.training.runs.events import Step
from guideway.training.runs.machine import Machine
from guideway.training.runs.run import carry_out
from guideway.training.runs.task import Task
folder = Path(sys.argv[1])
made = msgspec.json.decode((folder / "task.json").read_bytes(), type=Task)
model = msgspec.json.decode((folder / "model.json").read_bytes(), type=Model)
def emit(event):
    if isinstance(event, Step) and event.step == 11:
        time.sleep(600)  # Whoever kills it may look late, and 14 steps are done in no time.
carry_out(begun(made, folder, "broken"), {"tiny": model}, Machine(folder / "models"), emit=emit)
"""


def test_a_run_that_is_killed_goes_on_with_the_rows_it_began_with(model: Model, tmp_path: Path) -> None:
    """kill -9 in mid-training, while the endpoint goes on answering."""
    archive, made, machine = archived(tmp_path, range(40)), archived_task(), Machine(tmp_path / "models")
    whole = begun(made, tmp_path, "whole")
    (tmp_path / "task.json").write_bytes(msgspec.json.encode(made))
    (tmp_path / "model.json").write_bytes(msgspec.json.encode(model))
    environ = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    events = tmp_path / "broken" / "events.jsonl"
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, str(tmp_path)], env=environ) as process:
        try:
            deadline = time.monotonic() + 120
            while not (events.exists() and events.read_bytes().count(b'"event":"step"') >= 4):
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            process.kill()
    archive.write([row(number) for number in range(40, 200)], "jsonl")
    broken = begun(made, tmp_path, "broken")
    assert not any(isinstance(event, Stopped) for event in broken.folder.events())
    assert broken.examples.order_digest == whole.examples.order_digest
    carry_out(broken, {"tiny": model}, machine)
    told = list(broken.folder.events())
    [resumed] = [event for event in told if isinstance(event, Resumed)]
    assert resumed.step >= 3
    assert isinstance(told[-1], RunEnded)
    assert sum(isinstance(event, Step) for event in told) >= 14
