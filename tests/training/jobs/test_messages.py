"""Jobs as messages: paths that hold anywhere, news that come once however often they are told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Choice
from guideway.schemas.wire import Undecodable
from guideway.training.jobs.job_run import _result
from guideway.training.jobs.messages import (
    JOB,
    JOB_NEWS,
    Followed,
    Job,
    JobEnded,
    JobEvent,
    unread_job_ended,
    with_absolute_paths,
)
from guideway.training.jobs.process_messages import RESULT, Done, NotPublished, Refused
from guideway.training.runs.events import RunEnded, RunEvent
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import ArchivedRows, Data

TASK = Task(
    namespace="shop",
    endpoint="mood",
    model_sizes=["small"],
    models="../models.yaml",
    data=Data(train="rows.jsonl"),
    output=Choice(["a", "b"]),
)


def news(number: int, event: RunEvent | None = None, *, job: str = "j") -> JobEvent:
    return JobEvent(job=job, number=number, event=event or RunEnded(at=number))


def test_a_job_reads_as_it_was_written() -> None:
    job = Job(id="j", task=TASK, publish=True)
    assert JOB.decode(JOB.encode(job)) == job
    for one in (news(3), JobEnded(job="j", outcome="failed", run="/r", code="invalid_data", message="m")):
        assert JOB_NEWS.decode(JOB_NEWS.encode(one)) == one


def test_paths_are_absolute_before_a_task_travels(tmp_path: Path) -> None:
    made = with_absolute_paths(TASK, tmp_path / "tasks")
    assert made.models == str(tmp_path / "models.yaml")
    assert made.data.train == str(tmp_path / "tasks" / "rows.jsonl")
    assert made.data.eval is None
    wanted = ArchivedRows(endpoint="/shop/mood", corrections="right.csv")
    archived = msgspec.structs.replace(TASK, data=Data(archive=wanted, eval="known.jsonl"))
    data = with_absolute_paths(archived, tmp_path / "tasks").data
    assert data.files == [str(tmp_path / "tasks" / name) for name in ("known.jsonl", "right.csv")]
    plain = msgspec.structs.replace(TASK, data=Data(archive="/shop/mood"))
    job = Job(id="j", task=with_absolute_paths(plain, tmp_path))
    assert JOB.decode(JOB.encode(job)) == job
    assert job.task.data == plain.data


def test_what_a_second_trainer_tells_again_is_seen_once() -> None:
    followed = Followed("j")
    told = [news(1), news(2), news(2, job="other"), news(1), news(2), news(3)]
    assert [one.number for one in told if followed.is_new(one)] == [1, 2, 3]
    ended = JobEnded(job="j", outcome="done", run="/r")
    assert followed.is_new(ended)
    assert not followed.is_new(ended)
    assert not followed.is_new(news(4))


def test_a_process_that_says_nothing_has_failed() -> None:
    refused = Refused(code=FailureCode.INVALID_DATA, message="row 3: correct it")
    for said in (Done(), refused, NotPublished(code=FailureCode.NOT_BETTER, message="it is not better")):
        assert _result(0, RESULT.encode(said)) == said
    for unclear in (b"", b"no json\n", b'{"type":"refused","code":"made up","message":""}', b"[1]"):
        found = _result(-9, unclear)
        assert isinstance(found, Refused)
        assert found.code is FailureCode.INTERNAL_ERROR
        assert "exit code -9" in found.message


@pytest.mark.parametrize("id_", ["../../x", "a/b", "", ".", "a\n", "-a", "A" * 3, "a" * 201])
def test_a_jobs_id_is_the_name_of_a_folder(id_: str) -> None:
    with pytest.raises(Undecodable):
        JOB.decode(JOB.encode(Job(id=id_, task=TASK)))
    assert unread_job_ended(id_.encode(), "why") is None


def test_a_job_that_cannot_be_read_ends_as_well() -> None:
    ended = unread_job_ended(b"shop-mood-1c2d3e4f", "no field `magic`")
    assert ended is not None
    assert (ended.job, ended.outcome, ended.code) == ("shop-mood-1c2d3e4f", "failed", "undecodable_event")
    assert "no field `magic`" in ended.message
    assert unread_job_ended(None, "why") is None
    assert unread_job_ended(b"\xff", "why") is None
