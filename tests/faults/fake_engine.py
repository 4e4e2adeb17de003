"""An engine without a model: `python -m tests.faults.fake_engine --fd N`. Each text says how long it takes and more.

`n=17 ms=250` is answered after 250 ms with a digest of the text, of `size=N` characters if told; `do=die` ends the
process, `do=hang` says nothing more.
What is begun is written to the file named by EXECUTED_LOG, so that a test can tell what was done twice.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import select
import socket
import sys
import time

from guideway.schemas.failures import FailureCode
from guideway.workers.messages.every_child import Ready, Refused, Stop
from guideway.workers.messages.frames import HEADER_BYTES, body_length, frame
from guideway.workers.messages.from_engine import Finished, Generated, Progress
from guideway.workers.messages.to_engine import TO_ENGINE, Admit, Cancel, Start, ToEngine

FINGERPRINT = "sha256:" + "f" * 64


def answer_to(text: str) -> str:
    """What the engine answers."""
    size = int(told(text).get("size", "16"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return (digest * (size // len(digest) + 1))[:size]


def told(text: str) -> dict[str, str]:
    """The text's `key=value` words."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


class FakeEngine:
    """Answers what is due."""

    def __init__(self, connection: socket.socket, executed: int) -> None:
        self._connection = connection
        self._executed = executed
        self._inbox = bytearray()
        self._due: list[tuple[float, str, str]] = []
        self._cancelled: set[str] = set()
        self._said_at = 0.0

    def run(self) -> None:
        while True:
            wait_s = max(0.0, self._due[0][0] - time.monotonic()) if self._due else 1.0
            if select.select([self._connection], [], [], min(wait_s, 1.0))[0]:
                received = self._connection.recv(1 << 20)
                if not received:
                    return
                self._inbox += received
                for message in self._messages():
                    if isinstance(message, Stop):
                        return
                    self._take(message)
            self._answer()

    def _messages(self) -> list[ToEngine]:
        found: list[ToEngine] = []
        while len(self._inbox) >= HEADER_BYTES:
            end = HEADER_BYTES + body_length(bytes(self._inbox[:HEADER_BYTES]))
            if len(self._inbox) < end:
                break
            found.append(TO_ENGINE.decode(bytes(self._inbox[HEADER_BYTES:end])))
            del self._inbox[:end]
        return found

    def _take(self, message: ToEngine) -> None:
        match message:
            case Start():
                self._connection.sendall(frame(Ready(fingerprint=FINGERPRINT, load_s=0.0)))
            case Cancel(id=id_):
                self._cancelled.add(id_)
            case Admit(id=id_, request=request):
                text = request.parts[-1].text
                words = told(text)
                os.write(self._executed, f"{words.get('n', '?')}\n".encode())
                match words.get("do"):
                    case "die":
                        os._exit(9)
                    case "hang":
                        time.sleep(3600)
                heapq.heappush(self._due, (time.monotonic() + float(words.get("ms", "0")) / 1000, id_, text))

    def _answer(self) -> None:
        now = time.monotonic()
        out = bytearray()
        while self._due and self._due[0][0] <= now:
            _, id_, text = heapq.heappop(self._due)
            if id_ in self._cancelled:
                self._cancelled.discard(id_)
                out += frame(Refused(id=id_, code=FailureCode.CANCELLED, message="cancelled"))
                continue
            generated = Generated(text=answer_to(text), finish_reason="stop")
            out += frame(Finished(id=id_, samples=[generated], prompt_tokens=1, output_tokens=1))
        if now - self._said_at > 1:
            self._said_at = now
            out += frame(Progress(step=0, running=len(self._due), waiting=0, output_tokens=0, busy_s=0.0))
        if out:
            self._connection.sendall(out)


def main() -> None:
    path = os.environ.get("EXECUTED_LOG", os.devnull)
    executed = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    FakeEngine(socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1])), executed).run()


if __name__ == "__main__":
    main()
