"""Brokers started, found again and ended, of both kinds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import guideway
from guideway.infra import local_broker, noida
from guideway.infra.local_broker import RunningBroker
from guideway.infra.processes import birth
from guideway.infra.starting import brokers_at
from guideway.schemas.failures import Refusal


def processes_of(folder: Path) -> list[str]:
    """Command lines that mention the folder or, for a caretaker, its broker's address."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            except OSError:
                continue
            if str(folder) in command:
                found.append(command)
    return found


def port(broker: RunningBroker) -> int:
    return int(broker.cluster.brokers.rpartition(":")[2])


def ended(broker: RunningBroker) -> bool:
    pids = [pid for pid in (broker.pid, broker.caretaker_pid) if pid is not None]
    return bool(pids) and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_up_finds_the_running_broker_and_down_leaves_nothing(tmp_path: Path, broker_environ: dict[str, str]) -> None:
    said: list[str] = []
    try:
        first = local_broker.up(tmp_path, environ=broker_environ, progress=said.append)
        assert said[-1].startswith("starting")
        assert brokers_at(port(first)) == 1
        assert local_broker.up(tmp_path, environ=broker_environ) == first
        assert local_broker.status(tmp_path) == first
        assert (first.caretaker_pid is not None) == (first.kind == "noida-db")
        assert processes_of(tmp_path)
    finally:
        was_there = local_broker.down(tmp_path)
    assert was_there
    assert ended(first)
    assert processes_of(tmp_path) == []
    assert local_broker.status(tmp_path) is None
    assert local_broker.down(tmp_path) is False


def test_two_at_once_start_one_broker(tmp_path: Path, broker_environ: dict[str, str]) -> None:
    try:
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda _: local_broker.up(tmp_path, environ=broker_environ), range(2))
        assert first == second
    finally:
        local_broker.down(tmp_path)
    assert processes_of(tmp_path) == []


def test_it_outlives_the_process_that_started_it(tmp_path: Path, broker_environ: dict[str, str]) -> None:
    program = (
        f"from pathlib import Path; from guideway.infra import local_broker; local_broker.up(Path({str(tmp_path)!r}))"
    )
    environ = {**broker_environ, "PYTHONPATH": str(Path(guideway.__file__).parents[1])}
    try:
        subprocess.run([sys.executable, "-c", program], check=True, env=environ, timeout=120)
        found = local_broker.status(tmp_path)
        assert found is not None
        assert brokers_at(port(found)) == 1
    finally:
        assert local_broker.down(tmp_path)
    assert birth(found.pid or 0) is None
    assert processes_of(tmp_path) == []


def test_after_a_kill_the_stale_state_is_replaced(own_broker: RunningBroker, broker_environ: dict[str, str]) -> None:
    assert own_broker.pid is not None
    os.kill(own_broker.pid, signal.SIGKILL)
    os.waitpid(own_broker.pid, 0)
    assert local_broker.status(own_broker.folder) is None
    again = local_broker.up(own_broker.folder, environ=broker_environ)
    assert again.pid != own_broker.pid
    assert brokers_at(port(again)) == 1
    # Clients of the killed Apache Kafka find it where it was.
    assert own_broker.kind == "noida-db" or again.cluster == own_broker.cluster
    assert own_broker.caretaker_pid is None or birth(own_broker.caretaker_pid) is None


def test_a_lost_caretaker_is_started_again(tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("KAFKA_")}
    try:
        first = local_broker.up(tmp_path, environ=environ)
        assert first.caretaker_pid is not None
        os.kill(first.caretaker_pid, signal.SIGKILL)
        os.waitpid(first.caretaker_pid, 0)
        again = local_broker.up(tmp_path, environ=environ)
        assert again.pid == first.pid
        assert again.caretaker_pid != first.caretaker_pid
    finally:
        local_broker.down(tmp_path)
    assert ended(again)


def test_a_caretaker_ends_with_its_broker(tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("KAFKA_")}
    try:
        broker = local_broker.up(tmp_path, environ=environ)
        assert broker.pid is not None
        assert broker.caretaker_pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        os.waitpid(broker.pid, 0)
        os.waitpid(broker.caretaker_pid, 0)
    finally:
        local_broker.down(tmp_path)


def test_a_broken_state_file_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"kind": "noida-db"')
    assert local_broker.status(tmp_path) is None
    assert local_broker.down(tmp_path) is False


def test_a_start_that_fails_shows_the_end_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noida, "binary", lambda: Path("/bin/false"))
    with pytest.raises(Refusal, match="noida-db ended while it was starting"):
        local_broker.up(tmp_path, environ={})
    assert local_broker.status(tmp_path) is None
