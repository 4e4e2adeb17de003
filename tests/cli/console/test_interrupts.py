"""Ctrl-C, at real processes: each ends within seconds, with 130 and in a sentence, and leaves no process behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
from aiokafka.structs import TopicPartition

from guideway.cli.console import interrupts, output
from guideway.delivery.clients.kafka_client import make_consumer, started
from guideway.delivery.guards.fetch_guards import know_topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.processes import birth
from guideway.schemas.names.topics import event_topic

ROOT = Path(__file__).resolve().parents[3]
STUCK = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)"
"""In C, for minutes."""


@pytest.fixture(autouse=True)
def heeds_interrupts() -> Iterator[None]:
    """Who runs tests in the background of a script has them ignore Ctrl-C, and processes inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def running(arguments: Sequence[str], folder: Path, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process; whatever it started ends with the test."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "GUIDEWAY_HOME": str(folder / "home"), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        for one in _descendants(process.pid):
            os.kill(one, signal.SIGKILL)
        process.kill()
        process.communicate()


def interrupted(process: subprocess.Popen[str], *, presses: int = 1) -> str:
    """What it said at its end."""
    below = _descendants(process.pid)
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert _are_gone(below)
    return said


def until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not is_so():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def _descendants(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for one, parent, state in (line.split() for line in listed.splitlines()):
        if not state.startswith("Z"):
            children.setdefault(int(parent), []).append(int(one))
    found, waiting = [], children.get(pid, [])
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def _are_gone(pids: Sequence[int]) -> bool:
    for _ in range(60):
        if not any(birth(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def program(folder: Path, body: str, patience_s: float) -> list[str]:
    """A command of ours that says that it is `ready`, and then does something."""
    (folder / "program.py").write_text(
        "import pathlib, sys, time\n"
        "from guideway import cli\n"
        "from guideway.cli import interrupts\n"
        f"interrupts.PATIENCE_S = {patience_s}\n"
        "def app():\n"
        "    interrupts.keeps('all is kept')\n"
        "    interrupts.at_the_end(lambda: pathlib.Path('ended').write_text('x'))\n"
        "    pathlib.Path('ready').write_text('x')\n"
        f"    exec({body!r}, globals())\n"
        "cli.app = app\n"
        "cli.main()\n"
    )
    return [str(folder / "program.py")]


@pytest.mark.parametrize(
    "body",
    [
        STUCK,
        f"import threading; threading.Thread(target=lambda: exec({STUCK!r})).start(); time.sleep(300)",
        "import asyncio\nasync def work(): await asyncio.to_thread(time.sleep, 300)\nasyncio.run(work())",
        "while True:\n try: time.sleep(300)\n except KeyboardInterrupt: pass",
    ],
    ids=["in C", "a thread in C", "a thread that is waited for", "who does not listen"],
)
def test_whatever_a_process_is_at_it_ends_after_its_patience(tmp_path: Path, body: str) -> None:
    with running(program(tmp_path, body, 0.7), tmp_path) as process:
        until((tmp_path / "ready").exists, process)
        said = interrupted(process)
    assert said.count("interrupted: all is kept") == 1
    assert (tmp_path / "ended").exists()


def test_the_second_ends_at_once(tmp_path: Path) -> None:
    with running(program(tmp_path, STUCK, 300), tmp_path) as process:
        until((tmp_path / "ready").exists, process)
        assert interrupted(process, presses=2).rstrip().endswith("interrupted: all is kept")


@pytest.mark.parametrize("after_s", [0.02, 0.3, 1.0])
def test_a_command_that_is_being_imported_ends_without_a_stack_trace(tmp_path: Path, after_s: float) -> None:
    with running(["-m", "guideway", "tail", "/a/b"], tmp_path, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9") as process:
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    # The interpreter itself has not begun, or the command has ended by itself.
    assert process.returncode in (130, 1, -signal.SIGINT), said
    assert "guideway" not in said or "Traceback" not in said


@pytest.mark.parametrize(("presses", "listens"), [(1, True), (1, False), (2, False)])
def test_a_supervisor_ends_its_child(tmp_path: Path, presses: int, listens: bool) -> None:
    child = (
        "time.sleep(300)" if listens else "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(300)"
    )
    (tmp_path / "child.py").write_text(f"import pathlib, time\npathlib.Path('child').write_text('x')\n{child}\n")
    body = (
        "import subprocess, guideway.usecases.supervise as s\n"
        "from guideway.cli.console import services\n"
        "s._start = lambda _: subprocess.Popen([sys.executable, 'child.py'], process_group=0, stderr=-3)\n"
        "sys.exit(services.supervised([]))"
    )
    with running(program(tmp_path, body, 0.5 if presses == 1 else 300), tmp_path) as process:
        until((tmp_path / "child").exists, process)
        interrupted(process, presses=presses)


@pytest.mark.parametrize("command", ["endpoints", "trainer"])
def test_services_end_and_leave_their_group(broker: RunningBroker, tmp_path: Path, command: str) -> None:
    apply(broker, tmp_path)
    log = tmp_path / "log"
    with log.open("wb") as file, running(["-m", "guideway", command], tmp_path, **_of(broker)) as process:
        reader = subprocess.Popen(["cat"], stdin=process.stderr, stdout=file)
        try:
            until(lambda: b"partitions assigned" in log.read_bytes(), process)
            below = _descendants(process.pid)
            assert below
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert _are_gone(below)
        finally:
            reader.wait(20)
    said = log.read_text()
    assert "Traceback" not in said
    assert "interrupted: " in said.splitlines()[-1]


def test_sending_says_which_lines_are_answered(broker: RunningBroker, tmp_path: Path) -> None:
    """To an endpoint that nobody serves: none is."""
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\n")
    apply(broker, tmp_path)
    send = ["-m", "guideway", "send", "/t/unserved", "-f", "lines.txt"]
    with running(send, tmp_path, **_of(broker)) as process:
        until(lambda: asyncio.run(_sent(broker)) == 3, process)
        said = interrupted(process)
    assert said.rstrip().endswith("interrupted: no line is answered yet; the same command sends them again")


@pytest.fixture
def broker(broker_of_kind: Callable[[str], RunningBroker]) -> RunningBroker:
    """Of one kind: what a signal does is the same on any."""
    return broker_of_kind("noida-db")


async def _sent(broker: RunningBroker) -> int:
    """How many events the endpoint's topic has."""
    topic = event_topic("t", "unserved")
    async with started(make_consumer(broker.cluster, "test"), broker.cluster) as consumer:
        await know_topics(consumer, [topic])
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        return sum((await consumer.end_offsets(partitions)).values())


def apply(broker: RunningBroker, folder: Path) -> None:
    """An endpoint whose model size nobody serves."""
    (folder / "m.yaml").write_text(
        f"kind: model/v1\nnamespace: public\nname: tiny\nsource: a/b\nfingerprint: sha256:{'0' * 64}\n---\n"
        "kind: endpoint/v1\nnamespace: t\nname: unserved\nmodel_size: tiny\noutput: {type: text}\n"
    )
    command = [sys.executable, "-m", "guideway", "apply", "-f", "m.yaml"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **_of(broker)}
    subprocess.run(command, cwd=folder, env=environ, timeout=60, capture_output=True, check=True)


def _of(broker: RunningBroker) -> dict[str, str]:
    return {"KAFKA_BOOTSTRAP_SERVERS": broker.cluster.brokers}


def test_an_interruption_is_known_to_whoever_meets_with_it_before_it_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interrupts, "_state", interrupts._State())

    async def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit):
        output.run(work())
    assert interrupts.asked()
