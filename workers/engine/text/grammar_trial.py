"""Whether a grammar compiles in reasonable time: tried in a process of its own, which is ended if it does not.

llguidance bounds most of its work, but not all: to find out whether fourteen patterns of an `allOf` have a text in
common took it 14 s, and twenty would take an hour. A thread that does that cannot be stopped, so a process tries first:
`python -m guideway.workers.engine.text.grammar_trial`. It has no model and no vocabulary, because the time depends on
neither.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import struct
import subprocess
import sys
import threading
import weakref
from functools import cache
from typing import IO, Final

_CPU_S: Final = 2.0
"""Processor time, so that a busy machine makes no difference. The largest sound grammars take about one second."""
_MEMORY_BYTES: Final = 2 * 2**30
_LENGTH: Final = struct.Struct(">I")
_DONE: Final = b"."


class GrammarTrial:
    """Owner of the process, which is started when it is first needed, and again after it was ended.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def compiles(self, source: str) -> bool:
        """Whether llguidance is done with it, be it with an error, within two seconds of computing and 2 GiB."""
        body = source.encode()
        with self._turn:
            stdin, stdout = self._pipes()
            with contextlib.suppress(BrokenPipeError):
                stdin.write(_LENGTH.pack(len(body)) + body)
                stdin.flush()
                if stdout.read(len(_DONE)) == _DONE:
                    return True
            self._end()
            return False

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None:
            # In a session of its own: Ctrl-C is for whoever asks.
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._finalizer = weakref.finalize(self, _ended, self._process)
        process = self._process
        assert process.stdin is not None, "it has pipes"
        assert process.stdout is not None, "it has pipes"
        return process.stdin, process.stdout

    def _end(self) -> None:
        self._finalizer()
        self._process = None


@cache
def grammar_trial() -> GrammarTrial:
    """The trial that all of this process share."""
    return GrammarTrial()


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(BrokenPipeError):
        process.communicate()


def main() -> None:
    """Compile each grammar that comes, until none comes. The system ends the process if one takes too long."""
    import llguidance

    with contextlib.suppress(ValueError, OSError):  # some systems have no such limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    tokenizer = llguidance.LLTokenizer("byte")
    while header := sys.stdin.buffer.read(_LENGTH.size):
        (length,) = _LENGTH.unpack(header)
        source = sys.stdin.buffer.read(length).decode()
        # A timer that ends the process also works while the library computes.
        signal.setitimer(signal.ITIMER_PROF, _CPU_S)
        llguidance.LLMatcher(tokenizer, source, log_level=0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(_DONE)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
