"""Speaks the engine's side of the protocol, without a model: answers with the input, dies, waits or tells on demand."""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from pathlib import Path
from typing import BinaryIO

from guideway.catalogue.artefacts.contents import Altered, read_fetched
from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Choice, weighs
from guideway.workers.messages.every_child import Broken, Ready, Refused, Stop
from guideway.workers.messages.frames import HEADER_BYTES, body_length, frame
from guideway.workers.messages.from_engine import Branch, Finished, FromEngine, Generated, Piece, Pieces
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
        if isinstance(admit.request.output, Choice) and (admit.partings or weighs(admit.request.output)):
            (self._choose if admit.partings else self._weigh)(admit, admit.request.output.labels)
            return
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
            case _ if text.startswith("tell "):
                self._tell(admit, text.removeprefix("tell "))
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

    def _tell(self, admit: Admit, text: str) -> None:
        """Tells each word by itself, where it is asked to. `FILE: WORDS`: at first it makes the file and dies."""
        file, colon, rest = text.partition(": ")
        words = (rest if colon else text).split()
        first = bool(colon) and not Path(file).exists()
        for number, word in enumerate(words):
            if admit.partial:
                told = f"begun-{word} " if first else f"{word} "
                self._send(Pieces(pieces=[Piece(id=admit.id, sample=0, text=told)]))
            if first and number == 1:
                Path(file).touch()
                os._exit(9)
        generated = Generated(text="".join(f"{word} " for word in words), finish_reason="stop")
        self._send(Finished(id=admit.id, samples=[generated], prompt_tokens=1, output_tokens=len(words)))

    def _weigh(self, admit: Admit, labels: list[str]) -> None:
        """The first label has the probability that the input says, the others share the rest."""
        first, *others = labels
        sure = float(admit.request.parts[-1].text)
        told = {first: sure, **dict.fromkeys(others, (1 - sure) / len(others))}
        generated = Generated(text=first, finish_reason="stop", probabilities=told)
        self._send(Finished(id=admit.id, samples=[generated], prompt_tokens=1, output_tokens=1))

    def _choose(self, admit: Admit, labels: list[str]) -> None:
        """The label that stands in the input has 0.9, all others alike; without one, all have the same."""
        text = admit.request.parts[-1].text
        if "die" in text.split():
            os._exit(9)
        named = next((label for label in labels if label in text.split()), None)
        rest = 1 / len(labels) if named is None else 0.1 / max(1, len(labels) - 1)
        branches = [Branch(labels=[one], log_share=math.log(0.9 if one == named else rest)) for one in labels]
        generated = Generated(text=named or labels[0], finish_reason="stop", partings=[branches])
        self._send(Finished(id=admit.id, samples=[generated], prompt_tokens=1, output_tokens=1))

    def _send(self, message: FromEngine) -> None:
        self._stream.write(frame(message))
        self._stream.flush()


if __name__ == "__main__":
    connection = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    FakeEngine(connection.makefile("rwb")).serve()  # type: ignore[arg-type]
