"""Stores and brokers that take nothing for a while: when they are tried again, and what people are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from guideway.producers.batch.stored import Damaged
from guideway.schemas.failures import Refusal

T = TypeVar("T")

LONGEST_REST_S: Final = 30.0
"""Between attempts at a store or at brokers that take nothing."""
STORE_FAILS: Final = "the store cannot be used"
GONE: Final = "what the store should hold of it is gone"
BROKERS_FAIL: Final = "the brokers do not take its rows"
NO_ROWS: Final = "the batcher's store has no rows of it, or is another GUIDEWAY_STORE than the submitter's"


_MOST_NAMED: Final = 3


class Trouble:
    """What keeps a job from going on."""

    def __init__(self) -> None:
        self.said = ""
        """For those who watch; empty: nothing."""
        self._failures = 0
        """Of the brokers, since they took or brought something of the job."""
        self._moved_at = time.monotonic()

    @property
    def still_s(self) -> float:
        """Since when nothing of it has moved."""
        return time.monotonic() - self._moved_at

    def moves(self) -> None:
        """A row was published, or answered."""
        self._moved_at = time.monotonic()
        self.is_carried()

    def is_carried(self) -> None:
        """The brokers carry the job: it is not enough that they let it begin."""
        self._failures = 0
        if self.said.startswith(BROKERS_FAIL):
            self.said = ""

    def is_stored(self) -> None:
        """The store took or gave something."""
        if self.said.startswith(STORE_FAILS):
            self.said = ""

    def brokers_failed(self, error: BaseException) -> float:
        """Returns for how many seconds they are left alone. They may fail once or twice without a word."""
        self._failures += 1
        if self._failures > 2:
            self.said = f"{BROKERS_FAIL}: {said(error)}"
        return rest_after(self._failures)


def silence(endpoints: Sequence[str], *, is_full: bool) -> str:
    """Of endpoints that answer nothing, for people; empty: there are none. is_full: the others wait for them too."""
    if not endpoints:
        return ""
    more = len(endpoints) - _MOST_NAMED
    named = ", ".join(one or "the router" for one in endpoints[:_MOST_NAMED]) + (
        f" and {more} more" if more > 0 else ""
    )
    if is_full:
        return (
            f"nothing is answered by {named}: do workers of their models run? As many endpoints as a job can go on "
            "without wait, so all of its rows do"
        )
    return f"nothing is answered by {named}: do workers of its model run? Its rows wait, and the others go on"


def rest_after(failures: int) -> float:
    """Seconds until the brokers are tried again. failures: in a row, over a night hundreds. Pure."""
    return min(0.2 * float(2 ** min(failures, 16)), LONGEST_REST_S)


def said(error: BaseException) -> str:
    """An error for people: the words of others might quote a row."""
    if isinstance(error, Refusal):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


async def insisted(do: Callable[[], T], missing: str, held_up: Callable[[str], Awaitable[None]]) -> T:
    """Do this in the store, in a thread, however long that takes.

    missing: said where what should be there is not. held_up: is told of each attempt that failed.
    Raises: Damaged; Refusal.
    """
    rest_s = 1.0
    while True:
        try:
            return await asyncio.to_thread(do)
        except (Damaged, Refusal):
            raise
        except FileNotFoundError as error:
            raise Damaged(f"{missing} ({said(error)})") from None
        except Exception as error:
            # Stores have errors of their own. Nothing is lost: what is not written stays in Kafka.
            await held_up(f"{STORE_FAILS} ({said(error)}): it is tried again")
        await asyncio.sleep(rest_s)
        rest_s = min(2 * rest_s, LONGEST_REST_S)
