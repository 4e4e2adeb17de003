"""A broker for one machine: the cluster that the environment names, else Apache Kafka, else noida-db."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, assert_never

import msgspec

from guideway.delivery.connection.cluster import Cluster
from guideway.infra import apache_kafka, caretaker, noida
from guideway.infra.processes import Process, end
from guideway.infra.starting import Progress

FOLDER = Path(".guideway/broker")
"""The folder with the broker's state, data and logs, relative to the current directory."""

Kind = Literal["external", "apache-kafka", "noida-db"]


@dataclass(frozen=True)
class External:
    """A cluster that already runs. It is not started or ended here."""

    cluster: Cluster


@dataclass(frozen=True)
class ApacheKafka:
    """Apache Kafka, started here from the jars under `home`."""

    home: Path


@dataclass(frozen=True)
class Noida:
    """noida-db, started here."""


@dataclass(frozen=True)
class RunningBroker:
    """A broker that clients can use. `pid` and `caretaker_pid` are None if we started no such process."""

    kind: Kind
    cluster: Cluster
    folder: Path
    pid: int | None = None
    caretaker_pid: int | None = None

    @property
    def bootstrap(self) -> str:
        """The addresses alone."""
        return self.cluster.brokers


@dataclass(frozen=True)
class _State:
    kind: Kind
    bootstrap: str
    broker: Process
    caretaker: Process | None = None


def choose(environ: Mapping[str, str]) -> External | ApacheKafka | Noida:
    """The broker to use: the cluster that the environment names, else Apache Kafka by KAFKA_HOME, else noida-db.

    Raises Refusal(invalid_setting) if what the environment says can be no cluster.
    """
    if (named := Cluster.from_environ(environ)) is not None:
        return External(named)
    if home := environ.get("KAFKA_HOME", "").strip():
        return ApacheKafka(Path(home).expanduser())
    return Noida()


def up(
    folder: Path = FOLDER, *, environ: Mapping[str, str] = os.environ, progress: Progress = lambda _line: None
) -> RunningBroker:
    """The broker to use, started in `folder` unless it already runs there. Returns when it serves clients.

    Raises Refusal: INVALID_SETTING if no broker can be started here, BROKER_UNREACHABLE if it does not start.
    An external cluster is not contacted.
    """
    choice = choose(environ)
    if isinstance(choice, External):
        return RunningBroker("external", choice.cluster, folder)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        state = _read(folder)
        if state is None or not state.broker.alive:
            _end(state)
            state = _start(choice, folder, environ, progress)
            _write(folder, state)
        if state.kind == "noida-db" and not (state.caretaker and state.caretaker.alive):
            state = replace(state, caretaker=caretaker.start(folder, state.bootstrap, state.broker, environ))
            _write(folder, state)
    return _running(state, folder)


def down(folder: Path = FOLDER, *, wipe: bool = False, patience_s: float = 30) -> bool:
    """End what `up` started in `folder`; returns whether a broker ran there. Afterwards nothing of it runs.

    patience_s: after so many seconds the broker is killed. wipe: delete the records of Apache Kafka, which otherwise
    stay for the next `up`; those of noida-db are always deleted.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        return False
    with _locked(folder):
        state = _read(folder)
        ended = _end(state, patience_s)
        _state_file(folder).unlink(missing_ok=True)
        noida.forget(folder / "noida-db")
        if wipe:
            shutil.rmtree(folder / "apache-kafka", ignore_errors=True)
    return ended


def status(folder: Path = FOLDER) -> RunningBroker | None:
    """The broker that runs in `folder`, or None. Starts, ends and waits for nothing."""
    folder = folder.resolve()
    state = _read(folder)
    return _running(state, folder) if state is not None and state.broker.alive else None


def _start(choice: ApacheKafka | Noida, folder: Path, environ: Mapping[str, str], progress: Progress) -> _State:
    match choice:
        case ApacheKafka(home):
            started = apache_kafka.start(folder / "apache-kafka", home.resolve(), environ=environ, progress=progress)
            return _State("apache-kafka", started.bootstrap, started.process)
        case Noida():
            started = noida.start(folder / "noida-db", environ=environ, progress=progress)
            return _State("noida-db", started.bootstrap, started.process)
        case _:
            assert_never(choice)


def _end(state: _State | None, patience_s: float = 30) -> bool:
    if state is None:
        return False
    # The caretaker first: it would log that the broker is missing.
    if state.caretaker is not None:
        end(state.caretaker, patience_s=min(2, patience_s))
    return end(state.broker, patience_s=patience_s)


def _running(state: _State, folder: Path) -> RunningBroker:
    caretaker_pid = state.caretaker.pid if state.caretaker is not None else None
    return RunningBroker(state.kind, Cluster(state.bootstrap), folder, state.broker.pid, caretaker_pid)


def _state_file(folder: Path) -> Path:
    return folder / "state.json"


def _read(folder: Path) -> _State | None:
    try:
        return msgspec.json.decode(_state_file(folder).read_bytes(), type=_State)
    except (OSError, msgspec.DecodeError):
        return None


def _write(folder: Path, state: _State) -> None:
    # Written in one step: `status` takes no lock and must never read half of it.
    fresh = _state_file(folder).with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(state))
    fresh.replace(_state_file(folder))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Only one `up` or `down` runs at a time. The lock ends with its process."""
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
