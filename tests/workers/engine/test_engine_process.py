"""The engine process over a real socket: a tiny model on disk, started as the I/O process starts it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, tiny_llama, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from guideway.schemas.failures import FailureCode
from guideway.schemas.manifests import Model
from guideway.workers.engine.model import base_model
from guideway.workers.engine.model.fingerprint import identify
from guideway.workers.messages.every_child import Broken, Ready, Refused, Stop
from guideway.workers.messages.frames import HEADER_BYTES, body_length, frame
from guideway.workers.messages.from_engine import FROM_ENGINE, BatchReport, Finished, FromEngine, Progress
from guideway.workers.messages.to_engine import Cancel, EngineSettings, Start, ToEngine

TIMEOUT_S = 60.0
SECRET = "the-secret-text"


class EngineProcess:
    """A started engine process and our end of its socket."""

    def __init__(self, log: Path) -> None:
        self.connection, theirs = socket.socketpair()
        self.connection.settimeout(TIMEOUT_S)
        self.log = log
        with theirs, log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "guideway.workers.engine_process", "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stderr=stream,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )

    def send(self, message: ToEngine) -> None:
        self.connection.sendall(frame(message))

    def receive(self) -> FromEngine:
        return FROM_ENGINE.decode(self._exactly(body_length(self._exactly(HEADER_BYTES))))

    def receive_until(self, kind: type[FromEngine]) -> list[FromEngine]:
        messages = [self.receive()]
        while not isinstance(messages[-1], kind):
            messages.append(self.receive())
        return messages

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            received = self.connection.recv(size - len(data))
            if not received:
                raise EOFError(self.log.read_text())
            data += received
        return data


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer: PreTrainedTokenizerFast = tiny_tokenizer()
    folder = tmp_path_factory.mktemp("tiny")
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[], EngineProcess]]:
    processes: list[EngineProcess] = []

    def started() -> EngineProcess:
        processes.append(EngineProcess(tmp_path / f"log-{len(processes)}"))
        return processes[-1]

    yield started
    for one in processes:
        one.connection.close()
        one.process.kill()
        one.process.wait()


def start(folder: Path, **settings: Any) -> Start:
    model = Model(namespace="public", name="tiny", source=str(folder), dtype="float32", **settings)
    return Start(model=model, settings=EngineSettings(threads=1, model_cache=str(folder / "cache")))


def test_requests_run_and_the_process_ends_when_told_to(
    started: Callable[[], EngineProcess], folder: Path, make_admit: MakeAdmit, make_lora: MakeArtefact
) -> None:
    engine = started()
    identity = base_model.fingerprint(folder)
    engine.send(start(folder, fingerprint=identity))
    ready = engine.receive()
    assert isinstance(ready, Ready)
    assert ready.fingerprint == identity
    lora = make_lora("a/b@1")
    plain, guided = make_admit(SECRET, max_tokens=5), make_admit(SECRET, artefacts=[lora], max_tokens=300)
    engine.send(guided)
    assert isinstance(engine.receive_until(BatchReport)[-1], BatchReport)
    for number in (signal.SIGTERM, signal.SIGINT):
        engine.process.send_signal(number)  # as a service manager does to the whole group
    engine.send(plain)
    finished = engine.receive_until(Finished)[-1]
    assert isinstance(finished, Finished)
    assert finished.id == plain.id
    engine.send(Cancel(id=guided.id))
    refused = engine.receive_until(Refused)[-1]
    assert isinstance(refused, Refused)
    assert (refused.id, refused.code) == (guided.id, FailureCode.CANCELLED)
    progress = engine.receive_until(Progress)[-1]
    assert isinstance(progress, Progress)
    assert progress.running == 0
    engine.send(Stop())
    assert engine.process.wait(TIMEOUT_S) == 0
    assert SECRET not in engine.log.read_text()


def test_it_ends_when_the_other_end_closes_even_while_rows_run(
    started: Callable[[], EngineProcess], folder: Path, make_admit: MakeAdmit
) -> None:
    engine = started()
    engine.send(start(folder))
    engine.send(make_admit(max_tokens=400))
    engine.receive_until(BatchReport)
    engine.connection.close()
    assert engine.process.wait(TIMEOUT_S) == 0


def test_another_model_than_the_declared_one_is_not_served(started: Callable[[], EngineProcess], folder: Path) -> None:
    engine = started()
    engine.send(start(folder, fingerprint="sha256:" + "0" * 64))
    broken = engine.receive()
    assert isinstance(broken, Broken)
    assert broken.code == FailureCode.UNKNOWN_MODEL_SIZE
    assert base_model.fingerprint(folder) in broken.message
    assert engine.process.wait(TIMEOUT_S) == 1


def test_a_model_declared_by_its_former_fingerprint_is_told_its_new_one(
    started: Callable[[], EngineProcess], folder: Path
) -> None:
    engine = started()
    identity = identify(folder)
    engine.send(start(folder, fingerprint=identity.former))
    broken = engine.receive()
    assert isinstance(broken, Broken)
    assert "the former way" in broken.message
    assert identity.fingerprint in broken.message
    assert engine.process.wait(TIMEOUT_S) == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"pad_token": "<|not there|>"}, id="a token of which the model knows nothing"),
        pytest.param({"chat_template": "{{ nothing.at.all }}"}, id="a template that cannot be filled"),
    ],
)
def test_a_model_that_no_engine_can_run_is_told_and_is_no_crash(
    change: dict[str, str], started: Callable[[], EngineProcess], folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    engine = started()
    engine.send(start(copy))
    broken = engine.receive()
    assert isinstance(broken, Broken)
    assert broken.code == FailureCode.UNSUPPORTED_MODEL
    assert engine.process.wait(TIMEOUT_S) == 1


def test_a_model_that_is_not_there_is_told(started: Callable[[], EngineProcess], folder: Path) -> None:
    engine = started()
    engine.send(start(folder / "elsewhere"))
    broken = engine.receive()
    assert isinstance(broken, Broken)
    assert "elsewhere" in broken.message


def test_it_ends_when_its_parent_dies_though_the_socket_stays_open(folder: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT_S)
    # A parent that starts the engine and dies, while we hold the socket's other end.
    code = (
        "import subprocess, sys; "
        "subprocess.Popen([sys.executable, '-m', 'guideway.workers.engine_process', '--fd', sys.argv[1]], "
        "pass_fds=[int(sys.argv[1])]); sys.stdin.read(1)"
    )
    command = [sys.executable, "-c", code, str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.PIPE) as parent:
        theirs.close()
        ours.sendall(frame(start(folder)))
        body = ours.recv(body_length(ours.recv(HEADER_BYTES)))
        assert isinstance(FROM_ENGINE.decode(body), Ready)
        parent.kill()
        assert ours.recv(1) == b""
