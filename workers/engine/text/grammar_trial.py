"""Whether a grammar compiles in reasonable time: tried in a process of its own, which is ended if it does not.

llguidance bounds most of its work, but not all: to find out whether fourteen patterns of an `allOf` have a text in
common took it 14 s, and twenty would take an hour. A thread that does that cannot be stopped, so a process tries first:
`python -m guideway.workers.engine.text.grammar_trial`. It has no model and no vocabulary, because the time depends on
neither.

A trial that is not over at once goes on at low priority, so that it takes little from the steps of the model, and the
next one begins in another process, so that nobody waits for it. Only few of these go on at the same time; further ones
wait, and then begin again. Where a model makes steps beside, all processes have a low priority from their start.
"""

from __future__ import annotations

import contextlib
import hashlib
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from functools import cache
from typing import IO, Final

from guideway.workers.engine.text.aside import lower, waiting

_CPU_S: Final = 2.0
"""Processor time, so that a busy machine makes no difference. The largest sound grammars take about one second."""
_AT_ONCE_S: Final = 0.05
_LONG_TRIALS: Final = 2
"""So many go on at the same time that are not over at once."""
_REMEMBERED: Final = 1024
_MEMORY_BYTES: Final = 2 * 2**30
_LENGTH: Final = struct.Struct(">I")
_DONE: Final = b"."


class GrammarTrial:
    """Owner of the processes: one that waits for the next trial, started when it is first needed, and those of trials
    that take long, which are ended after them.

    Threads may share it. One whose trial takes long gives its place among those at work to others meanwhile.
    """

    def __init__(self, *, beside_steps: bool = False) -> None:
        self._beside_steps = beside_steps
        self._turn = threading.Lock()
        self._waits: _Process | None = None
        self._long = threading.Semaphore(_LONG_TRIALS)
        self._sound: OrderedDict[bytes, None] = OrderedDict()
        """Digests of what took long and compiles: it is not tried again."""

    def compiles(self, source: str) -> bool:
        """Whether llguidance is done with it, be it with an error, within two seconds of computing and 2 GiB."""
        digest = hashlib.sha256(source.encode()).digest()
        with self._turn:
            if digest in self._sound:
                return True
            process, self._waits = self._waits, None
        process = process or _Process(low=self._beside_steps)
        process.begin(source.encode())
        if not process.says_something(_AT_ONCE_S):
            with waiting():
                compiles = self._compiles_slowly(process, source)
            with self._turn:
                if compiles:
                    self._sound[digest] = None
                if len(self._sound) > _REMEMBERED:
                    self._sound.popitem(last=False)
            return compiles
        done = process.is_done()
        with self._turn:
            if done and self._waits is None:
                self._waits = process
                return True
        process.end()
        return done

    def _compiles_slowly(self, process: _Process, source: str) -> bool:
        process.lower()
        if not (is_in_turn := self._long.acquire(blocking=False)):
            process.end()
            self._long.acquire()
        try:
            if not is_in_turn:
                process = _Process(low=True)
                process.begin(source.encode())
            return process.is_done()
        finally:
            process.end()
            self._long.release()


class _Process:
    """One process for trials, one after the other."""

    def __init__(self, *, low: bool) -> None:
        """low: it has a low priority from its start."""
        # In a session of its own: Ctrl-C is for whoever asks.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.end = weakref.finalize(self, _ended, self._process)
        if low:
            self.lower()
        # It has to load the library first, and that is no part of a trial.
        self.is_done()

    def begin(self, body: bytes) -> None:
        """Let it compile this grammar."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(_LENGTH.pack(len(body)) + body)
            self._stdin.flush()

    def says_something(self, within_s: float) -> bool:
        """Whether it is done, or has ended, after so many seconds."""
        return bool(select.select([self._stdout], [], [], within_s)[0])

    def is_done(self) -> bool:
        """Wait until it is done. False if it has ended instead."""
        return self._stdout.read(len(_DONE)) == _DONE

    def lower(self) -> None:
        """Give it a low priority, which is for good: no process may raise its own again."""
        lower(self._process.pid)

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None, "it has pipes"
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None, "it has pipes"
        return self._process.stdout


@cache
def grammar_trial(*, beside_steps: bool = False) -> GrammarTrial:
    """The trial that all of this process share. beside_steps: a model makes steps in it."""
    return GrammarTrial(beside_steps=beside_steps)


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
    _say_done()
    while header := sys.stdin.buffer.read(_LENGTH.size):
        (length,) = _LENGTH.unpack(header)
        source = sys.stdin.buffer.read(length).decode()
        # A timer that ends the process also works while the library computes.
        signal.setitimer(signal.ITIMER_PROF, _CPU_S)
        llguidance.LLMatcher(tokenizer, source, log_level=0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say_done()


def _say_done() -> None:
    sys.stdout.buffer.write(_DONE)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
