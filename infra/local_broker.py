"""A broker for one machine: the cluster that is named, else Apache Kafka, else noida-db."""

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

from guideway.infra import apache_kafka, caretaker, noida
from guideway.infra.cluster import brokers_in
from guideway.infra.processes import Process, end
from guideway.infra.starting import Progress

FOLDER = Path(".guideway/broker")
"""Where state, data and logs of the broker are kept, relative to the current directory."""

Kind = Literal["external", "apache-kafka", "noida-db"]


@dataclass(frozen=True)
class External:
    """A cluster that runs already and is not ours to start or end."""

    bootstrap: str


@dataclass(frozen=True)
class ApacheKafka:
    """Apache Kafka, started here from the jars under `home`."""

    home: Path


@dataclass(frozen=True)
class Noida:
    """noida-db, started here."""


@dataclass(frozen=True)
class RunningBroker:
    """A broker that clients can use. `pid` and `caretaker_pid` are None where no such process is ours."""

    kind: Kind
    bootstrap: str
    folder: Path
    pid: int | None = None
    caretaker_pid: int | None = None


@dataclass(frozen=True)
class _State:
    kind: Kind
    bootstrap: str
    broker: Process
    caretaker: Process | None = None


def choose(environ: Mapping[str, str]) -> External | ApacheKafka | Noida:
    """Which broker to use: KAFKA_BOOTSTRAP_SERVERS wins, then KAFKA_HOME, else noida-db.

    Raises Refusal(invalid_setting) where KAFKA_BOOTSTRAP_SERVERS is no list of brokers.
    """
    if bootstrap := environ.get("KAFKA_BOOTSTRAP_SERVERS", "").strip():
        return External(brokers_in(bootstrap))
    if home := environ.get("KAFKA_HOME", "").strip():
        return ApacheKafka(Path(home).expanduser())
    return Noida()


def up(
    folder: Path = FOLDER, *, environ: Mapping[str, str] = os.environ, progress: Progress = lambda _line: None
) -> RunningBroker:
    """Return the broker to use, started in `folder` unless it runs there already; blocks until it serves clients.

    Raises Refusal: INVALID_SETTING when none can be started here, BROKER_UNREACHABLE when one does not come up.
    An external cluster is not contacted.
    """
    choice = choose(environ)
    if isinstance(choice, External):
        return RunningBroker("external", choice.bootstrap, folder)
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
    """End what `up` started in `folder`; returns whether a broker ran there. Nothing of it runs afterwards.

    patience_s: what the broker has for it before it is killed.

    Apache Kafka's records stay for the next `up` unless `wipe`; noida-db's never do.
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
    """The broker that runs in `folder`, or None; starts, ends and waits for nothing."""
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
    # The caretaker first: it would complain about the broker it misses.
    if state.caretaker is not None:
        end(state.caretaker, patience_s=min(2, patience_s))
    return end(state.broker, patience_s=patience_s)


def _running(state: _State, folder: Path) -> RunningBroker:
    caretaker_pid = state.caretaker.pid if state.caretaker is not None else None
    return RunningBroker(state.kind, state.bootstrap, folder, state.broker.pid, caretaker_pid)


def _state_file(folder: Path) -> Path:
    return folder / "state.json"


def _read(folder: Path) -> _State | None:
    try:
        return msgspec.json.decode(_state_file(folder).read_bytes(), type=_State)
    except (OSError, msgspec.DecodeError):
        return None


def _write(folder: Path, state: _State) -> None:
    # In one step, so that `status`, which takes no lock, never sees half of it.
    fresh = _state_file(folder).with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(state))
    fresh.replace(_state_file(folder))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One `up` or `down` at a time; the lock goes with the process that holds it."""
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
