"""A child process from its start to its end, on a real socket and without a model."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from guideway.schemas.failures import FailureCode
from guideway.schemas.manifests import Model
from guideway.schemas.retrieval import Retrieval, SetRef
from guideway.workers.messages.every_child import Broken, Ready, Stop
from guideway.workers.messages.frames import HEADER_BYTES, body_length, frame
from guideway.workers.messages.from_retrieval import FROM_RETRIEVAL, Found, FromRetrieval
from guideway.workers.messages.to_retrieval import Lookup, StartRetrieval
from guideway.workers.retrieval.settings import RetrievalSettings

TIMEOUT_S = 60
LOOKUP = Lookup(id="1", wanted=Retrieval(sets=[SetRef(namespace="a", name="b", version=1)], query="q"), artefacts=[])


class Started:
    """The process and our end of its socket."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        self.connection.settimeout(TIMEOUT_S)
        program = [sys.executable, str(Path(__file__).with_name("echo_process.py")), "--fd", str(theirs.fileno())]
        with theirs:
            self.process = subprocess.Popen(program, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)

    def send(self, *messages: msgspec.Struct) -> None:
        for message in messages:
            self.connection.sendall(frame(message))

    def receive(self) -> FromRetrieval:
        stream = self.connection.makefile("rb", buffering=0)
        return FROM_RETRIEVAL.decode(stream.read(body_length(stream.read(HEADER_BYTES))))

    def end(self) -> tuple[int, str]:
        """Exit status and stderr."""
        _, log = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, log


@pytest.fixture
def started() -> Iterator[Started]:
    one = Started()
    yield one
    one.connection.close()
    with contextlib.suppress(ProcessLookupError):
        one.process.kill()
    one.process.communicate()


def start(embedding: str = "fine") -> StartRetrieval:
    model = Model(namespace="public", name="small", source="x")
    return StartRetrieval(settings=RetrievalSettings(embedding=embedding), model=model, model_cache="models")


def test_it_says_that_it_is_ready_serves_and_ends_when_told_to(started: Started) -> None:
    started.send(start())
    ready = started.receive()
    assert isinstance(ready, Ready)
    assert (ready.fingerprint, ready.former_fingerprint) == ("fingerprint of fine", "former")
    for number in (signal.SIGTERM, signal.SIGINT):
        started.process.send_signal(number)  # as a service manager does to the whole group
    started.send(LOOKUP)
    found = started.receive()
    assert isinstance(found, Found)
    assert found.passages[0].text == "q"
    started.send(Stop())
    assert started.end()[0] == 0


def test_what_cannot_be_loaded_is_told(started: Started) -> None:
    started.send(start("refused"))
    assert started.receive() == Broken(code=FailureCode.SET_WRONG_EMBEDDING, message="no such model")
    assert started.end()[0] == 1


@pytest.mark.parametrize(
    ("message", "said"),
    [(start("fails"), "nobody has thought of this"), (LOOKUP, "is Lookup and must be StartRetrieval")],
    ids=["load fails", "no start"],
)
def test_what_nobody_has_thought_of_is_a_crash(started: Started, message: msgspec.Struct, said: str) -> None:
    started.send(message)
    status, log = started.end()
    assert status == 1
    assert said in log


def test_it_may_be_told_to_stop_before_it_begins(started: Started) -> None:
    started.send(Stop())
    assert started.end()[0] == 0


@pytest.mark.parametrize("messages", [[], [start()]], ids=["before it begins", "while it serves"])
def test_it_ends_when_nobody_is_at_the_other_end_any_more(started: Started, messages: list[msgspec.Struct]) -> None:
    started.send(*messages)
    if messages:
        started.receive()
    started.connection.close()
    assert started.end()[0] == 0
