"""The process of one job: one message in, one out, and an exit code that says whether the result is final."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Choice
from guideway.settings import Settings
from guideway.training.jobs.job_run import JobRun
from guideway.training.jobs.messages import Job
from guideway.training.jobs.process_messages import ORDER, RESULT, CarryOut, Done, NotPublished, Refused
from guideway.training.runs.interruption import Interrupted
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import Data
from guideway.usecases.studio import job_process

COMMAND = [sys.executable, "-m", "guideway.usecases.studio.job_process"]
TASK = Task(
    namespace="shop",
    endpoint="mood",
    model_sizes=["small"],
    models="/nowhere.yaml",
    data=Data(train="/nowhere.jsonl"),
    output=Choice(["a", "b"]),
)


def order(folder: Path, *, publish: bool = False) -> CarryOut:
    return CarryOut(task=TASK, folder=str(folder / "job" / "run"), device="cpu", publish=publish)


def started(home: Path, command: list[str], said: bytes) -> subprocess.CompletedProcess[bytes]:
    environ = os.environ | {"GUIDEWAY_HOME": str(home)}
    return subprocess.run(command, input=said, env=environ, capture_output=True, timeout=60, check=False)


def with_work(body: str) -> list[str]:
    """The process, whose work is this function body."""
    program = (
        "import os, sys, time\n"
        "from guideway.usecases.studio import job_process\n"
        "from guideway.training.jobs.process_messages import Done\n"
        "from guideway.training.runs.interruption import Interrupted\n"
        f"def work(settings, order, should_end):\n    {body}\n"
        "job_process.carry_out_job = work\n"
        "sys.exit(job_process.main())\n"
    )
    return [sys.executable, "-c", program]


def test_a_refusal_is_a_final_result(tmp_path: Path) -> None:
    ended = started(tmp_path, COMMAND, ORDER.encode(order(tmp_path)))
    result = RESULT.decode(ended.stdout)
    assert isinstance(result, Refused)
    assert (ended.returncode, result.code) == (0, FailureCode.INVALID_DATA)
    assert "/nowhere.jsonl" in result.message


def test_files_are_read_in_the_folder_of_their_namespace_only_when_they_are_opened(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "rival.jsonl").write_text('{"text": "secret", "label": "a"}\n' * 20)
    train = tmp_path / "shop" / "rows.jsonl"
    # In the place of the file that the trainer has looked at.
    train.symlink_to(tmp_path / "rival.jsonl")
    task = msgspec.structs.replace(TASK, data=Data(train=str(train)))
    given = JobRun(
        Job(id="a", task=task), tmp_path / "job", [], device="cpu", patience_s=lambda: 1, within=tmp_path / "shop"
    )._order
    result = RESULT.decode(started(tmp_path, COMMAND, ORDER.encode(given)).stdout)
    assert isinstance(result, Refused)
    assert result.code is FailureCode.INVALID_DATA
    assert "it does not lie in" in result.message


def test_what_libraries_print_is_no_part_of_the_result(tmp_path: Path) -> None:
    noise = "print('noise', flush=True); os.system('echo more noise'); return Done()"
    ended = started(tmp_path, with_work(noise), ORDER.encode(order(tmp_path)))
    assert (ended.returncode, RESULT.decode(ended.stdout)) == (0, Done())
    assert ended.stderr.split() == [b"noise", b"more", b"noise"]


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (
            "raise OSError(28, 'No space left on device')",
            74,
            "invalid_setting: No space left on device: free some room",
        ),
        ("return {}['secret']", 70, "internal_error: KeyError at "),
    ],
)
def test_what_nobody_has_foreseen_is_not_final(tmp_path: Path, body: str, code: int, says: str) -> None:
    ended = started(tmp_path, with_work(body), ORDER.encode(order(tmp_path)))
    result = RESULT.decode(ended.stdout)
    assert isinstance(result, Refused)
    assert ended.returncode == code
    assert f"{result.code.value}: {result.message}".startswith(says)


def test_an_order_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    ended = started(tmp_path, COMMAND, b"")
    assert ended.returncode == 70
    assert isinstance(RESULT.decode(ended.stdout), Refused)


def test_sigterm_ends_the_work_and_no_result_is_written(tmp_path: Path) -> None:
    wait = "print('ready', flush=True)\n    while not should_end(): time.sleep(0.01)\n    raise Interrupted"
    with subprocess.Popen(
        with_work(wait), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(ORDER.encode(order(tmp_path)))
        process.stdin.close()
        assert process.stderr.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
        assert process.stdout is not None
        assert process.stdout.read() == b""


@pytest.fixture
def publishing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], None]:
    """A run that is done at once, whose publishing ends as said."""

    async def prepare(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(begun=SimpleNamespace(folder=None))

    def ends_with(error: Exception | None) -> None:
        async def publish_run(*_: object) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(job_process, "publish_run", publish_run)

    monkeypatch.setattr(job_process, "prepare", prepare)
    monkeypatch.setattr(job_process, "carry_out", lambda *_, **__: None)
    return ends_with


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, None), (Refusal(FailureCode.NOT_BETTER, "it is not better"), "not_better"), (KeyError(), "internal_error")],
)
def test_a_run_that_is_done_is_not_failed_by_its_publishing(
    tmp_path: Path, publishing: Callable[[Exception | None], None], error: Exception | None, code: str | None
) -> None:
    publishing(error)
    settings = Settings(home=tmp_path, store=str(tmp_path))
    result = job_process.carry_out_job(settings, order(tmp_path, publish=True), lambda: False)
    assert (result.code if isinstance(result, NotPublished) else None) == code
    assert isinstance(job_process.carry_out_job(settings, order(tmp_path), lambda: False), Done)


def test_nothing_is_published_by_who_is_to_end(tmp_path: Path, publishing: Callable[[Exception | None], None]) -> None:
    publishing(AssertionError("it is not asked"))
    settings = Settings(home=tmp_path, store=str(tmp_path))
    with pytest.raises(Interrupted):
        job_process.carry_out_job(settings, order(tmp_path, publish=True), lambda: True)
