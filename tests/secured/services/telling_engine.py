"""The worst of all models: whoever asks it is told all that it was shown, and the bytes of all guidance.

Its answer is JSON: `parts`, `guidance`, and what the files of the artefacts hold. A text may also say `do=die`,
`do=wait` (until it is cancelled) or `ms=NUMBER`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from guideway.schemas.failures import FailureCode
from guideway.workers.messages.every_child import Ready, Refused, Stop
from guideway.workers.messages.frames import HEADER_BYTES, body_length, frame
from guideway.workers.messages.from_engine import Finished, FromEngine, Generated
from guideway.workers.messages.to_engine import TO_ENGINE, Admit, Cancel, Start


class TellingEngine:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._waiting: set[str] = set()

    def serve(self) -> None:
        while header := self._stream.read(HEADER_BYTES):
            match TO_ENGINE.decode(self._stream.read(body_length(header))):
                case Start(model=model):
                    self._send(Ready(fingerprint=model.fingerprint or "", load_s=0.0))
                case Admit() as admit:
                    self._admit(admit)
                case Cancel(id=id_) if id_ in self._waiting:
                    self._waiting.remove(id_)
                    self._send(Refused(id=id_, code=FailureCode.CANCELLED, message="cancelled"))
                case Stop():
                    return

    def _admit(self, admit: Admit) -> None:
        text = admit.request.parts[-1].text
        if "do=die" in text:
            os._exit(9)
        if "do=wait" in text:
            self._waiting.add(admit.id)
            return
        took = re.search(r"ms=(\d+)", text)
        threading.Thread(target=self._answer, args=(admit, int(took[1]) / 1000 if took else 0), daemon=True).start()

    def _answer(self, admit: Admit, after_s: float) -> None:
        time.sleep(after_s)
        held = {
            one.name: {
                file.name: file.read_bytes()[:2000].decode("latin-1")
                for file in Path(one.folder).iterdir()
                if file.is_file()
            }
            for one in admit.artefacts
        }
        told = {
            "parts": [[one.kind, one.source, one.text] for one in admit.request.parts],
            "guidance": [str(one) for one in admit.request.guidance],
            "artefacts": held,
        }
        generated = Generated(text=json.dumps(told), finish_reason="stop")
        self._send(Finished(id=admit.id, samples=[generated], prompt_tokens=1, output_tokens=1))

    def _send(self, message: FromEngine) -> None:
        with self._lock:
            self._stream.write(frame(message))
            self._stream.flush()


if __name__ == "__main__":
    connection = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    TellingEngine(connection.makefile("rwb")).serve()  # type: ignore[arg-type]
