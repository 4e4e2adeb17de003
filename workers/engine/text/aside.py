"""Long calls into libraries that compute without the interpreter: made beside the steps, with what these leave over."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

T = TypeVar("T")
_LONG_S: Final = 0.25
"""A call that has taken so long keeps no other from being made: somebody else may have asked for that one."""
_AT_LONG: Final = 3
"""So many threads more for each that makes calls may be at such ones."""
LOW_PRIORITY: Final = 10
"""Niceness: beside a thread of the model's step that wants the same core, such a thread gets a tenth of it."""
_here: Final = threading.local()
"""Where `places` are those of which the thread has one."""


class Calls(Protocol):
    """Makes calls for others."""

    def __call__(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises."""


def here(call: Callable[[], T]) -> T:
    """Make a call in the thread that asks for it."""
    return call()


class Aside:
    """Owner of threads of low priority, in which long calls are made while their callers wait.

    A step of the model has as many threads as there are cores. One more that computes at the same priority takes half
    of a core from one of them, and the others wait for that one: the step takes up to twice as long. Only calls that
    compute without the interpreter belong here: a thread of low priority that has it would let all others wait.
    """

    def __init__(self, threads: int) -> None:
        """threads: so many calls are made at the same time, beside those that have taken long already, and there are as
        many places for callers at work.
        """
        most = threads * (1 + _AT_LONG)
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="aside", initializer=lower_thread)
        self._calls = Places(threads)
        self._places = Places(threads)

    def __call__(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. Whoever waits for it gives its place to others meanwhile."""
        with waiting():
            self._calls.take()
            try:
                future = self._threads.submit(call)
                concurrent.futures.wait([future], _LONG_S)
            finally:
                self._calls.give()
            return future.result()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A context in which this thread has one of the places for those at work; waits for it."""
        self._places.take()
        _here.places = self._places
        try:
            yield
        finally:
            _here.places = None
            self._places.give()


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """A context in which this thread only waits: its place among those at work, if it has one, is for others."""
    places: Places | None = getattr(_here, "places", None)
    if places is None:
        yield
        return
    places.give()
    try:
        yield
    finally:
        places.take(first=True)


class Places:
    """Owner of a number of places. A place that is given goes to whoever waits; no one overtakes."""

    def __init__(self, places: int) -> None:
        self._turn = threading.Lock()
        self._free = places
        self._waiting: deque[threading.Event] = deque()

    def take(self, *, first: bool = False) -> None:
        """Wait for a place; `first`, before all others that wait."""
        with self._turn:
            if self._free:
                self._free -= 1
                return
            called = threading.Event()
            if first:
                self._waiting.appendleft(called)
            else:
                self._waiting.append(called)
        called.wait()

    def give(self) -> None:
        """Give a place to whoever is next."""
        with self._turn:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


def lower_thread() -> None:
    """Give this thread a low priority, where the system has one for each thread."""
    if sys.platform == "linux":
        lower(threading.get_native_id())


def lower(id_: int) -> None:
    """Give a process, or on Linux a thread, a low priority; nothing changes where it has a lower one, or is gone."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, id_, max(LOW_PRIORITY, os.getpriority(os.PRIO_PROCESS, id_)))
