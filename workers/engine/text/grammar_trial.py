"""Whether a grammar that somebody wrote compiles in reasonable time: tried in a process that may be ended for it.

llguidance bounds most of its work, but not all: to find out whether fourteen patterns of an `allOf` have a text in
common took it 14 s, and twenty take it an hour. Nothing stops a thread that does that, so a process is tried first:
`python -m guideway.workers.engine.text.grammar_trial`. It has no model and no vocabulary, for such time depends on
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
"""Of computing: how busy the machine is does not matter. The largest sound grammars take about one second."""
_MEMORY_BYTES: Final = 2 * 2**30
_LENGTH: Final = struct.Struct(">I")
_DONE: Final = b"."


class GrammarTrial:
    """Owner of the process; it is started when it is first needed, and again after it was ended.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def compiles(self, source: str) -> bool:
        """Whether llguidance comes to an end with it, be it an error, within two seconds and 2 GiB."""
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
    """The one of this process."""
    return GrammarTrial()


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(BrokenPipeError):
        process.communicate()


def main() -> None:
    """Compile what comes until nothing comes; the system ends the process that computes too long at one."""
    import llguidance

    with contextlib.suppress(ValueError, OSError):  # some systems have no such limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    tokenizer = llguidance.LLTokenizer("byte")
    while header := sys.stdin.buffer.read(_LENGTH.size):
        (length,) = _LENGTH.unpack(header)
        source = sys.stdin.buffer.read(length).decode()
        # It reaches into the library as well: what it does by default is to end the process.
        signal.setitimer(signal.ITIMER_PROF, _CPU_S)
        llguidance.LLMatcher(tokenizer, source, log_level=0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(_DONE)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
