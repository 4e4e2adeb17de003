"""Speaks the engine's side of the protocol, without a model: answers with the input, dies, waits or tells on demand."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import BinaryIO

from guideway.catalogue.artefacts.contents import Altered, read_fetched
from guideway.schemas.failures import FailureCode
from guideway.workers.messages.every_child import Broken, Ready, Refused, Stop
from guideway.workers.messages.frames import HEADER_BYTES, body_length, frame
from guideway.workers.messages.from_engine import Finished, FromEngine, Generated
from guideway.workers.messages.to_engine import TO_ENGINE, Admit, Cancel, Start


class FakeEngine:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting: dict[str, str] = {}
        self._admitted: list[str] = []
        self._cancelled: list[str] = []

    def serve(self) -> None:
        while header := self._stream.read(HEADER_BYTES):
            message = TO_ENGINE.decode(self._stream.read(body_length(header)))
            match message:
                case Start(model=model):
                    if model.source == "crash":
                        os._exit(9)
                    if model.source == "loads for ever":
                        continue
                    broken = Broken(code=FailureCode.UNKNOWN_MODEL_SIZE, message="no such model")
                    self._send(broken if model.source == "broken" else Ready(fingerprint="f", load_s=0.1))
                case Admit():
                    self._admit(message)
                case Cancel(id=id_) if id_ in self._waiting:
                    self._cancelled.append(self._waiting.pop(id_))
                    self._send(Refused(id=id_, code=FailureCode.CANCELLED, message="cancelled"))
                case Stop():
                    return

    def _admit(self, admit: Admit) -> None:
        text = admit.request.parts[-1].text
        told = f"admitted {' '.join(self._admitted)}, cancelled {' '.join(self._cancelled)}"
        self._admitted.append(admit.request.id)
        match text:
            case "die":
                os._exit(9)
            case "hang":
                time.sleep(3600)
            case "wait":
                self._waiting[admit.id] = admit.request.id
            case "refuse":
                self._send(Refused(id=admit.id, code=FailureCode.TEXT_TOO_LONG, message="too long"))
            case "load":
                try:
                    for artefact in admit.artefacts:
                        read_fetched(Path(artefact.folder), artefact.digest)
                except Altered as found:
                    self._send(Refused(id=admit.id, code=found.code, message=found.message, altered=found.digest))
                else:
                    generated = Generated(text="loaded", finish_reason="stop")
                    self._send(Finished(id=admit.id, samples=[generated], prompt_tokens=1, output_tokens=1))
            case _:
                answer = told if text == "what was there?" else text
                generated = Generated(text=answer, finish_reason="stop")
                for one in [*self._waiting, admit.id]:
                    self._send(Finished(id=one, samples=[generated], prompt_tokens=1, output_tokens=1))
                self._waiting.clear()

    def _send(self, message: FromEngine) -> None:
        self._stream.write(frame(message))
        self._stream.flush()


if __name__ == "__main__":
    connection = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    FakeEngine(connection.makefile("rwb")).serve()  # type: ignore[arg-type]
