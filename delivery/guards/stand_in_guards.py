"""Guards over aiokafka 0.14.0 for noida-db 0.2.3, the stand-in for a broker. On Apache Kafka they change nothing.

Stale aborts. noida-db answers a fetch at offset P with *every* aborted transaction of the partition, also those whose
abort marker lies before P; Apache Kafka leaves these out. A reader then takes the producer's next committed records
for aborted ones: with read_committed they are never seen. (`transactional_id`s keep their producer id over restarts,
so one kill -9 in a transaction hides all later results of that input partition from those who read along.) What tells
them apart is in the same answer: the first marker of that producer at or after P ends the transaction that was open at
P. If it commits, no aborted transaction was open, and the entry is stale. Where that marker is not in the answer, the
records are left for the next fetch.

Empty answers. noida-db answers a fetch that finds nothing at once instead of waiting `fetch_max_wait_ms`, and the
client asks again at once: a consumer that waits keeps half a core busy. The guard waits a little in the broker's place.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from aiokafka.consumer.fetcher import Fetcher, PartitionRecords

EMPTY_FETCH_S: Final = 0.015
"""The least that a fetch without records takes: what a waiting consumer costs against how soon it sees a record."""

DOUBT_S: Final = 2.0
"""How long the marker of a producer's first batch is waited for; then it is read as aiokafka would."""

Aborted = tuple[int, int]
"""(producer id, first offset) of an aborted transaction, as a broker lists it."""

_plain_init = PartitionRecords.__init__
_plain_proc_fetch_request = Fetcher._proc_fetch_request
_plain_contains_abort_marker = PartitionRecords._contains_abort_marker


def without_stale(aborted: Iterable[Aborted], fetch_offset: int, first_marker_aborts: dict[int, bool]) -> list[Aborted]:
    """The transactions that are aborted at or after `fetch_offset`; those without a marker yet are kept."""
    return [
        (producer, first)
        for producer, first in aborted
        if first >= fetch_offset or first_marker_aborts.get(producer, True)
    ]


def decided(producers: Sequence[int | None], doubtful: set[int]) -> int:
    """How many batches can be read before the first of a producer in doubt.

    `producers` has the producer id of each transactional batch, None for any other. The rest is fetched again, then
    with more of what follows.
    """
    return next((i for i, producer in enumerate(producers) if producer in doubtful), len(producers))


class _Doubt:
    """Since when each position has been in doubt: a marker that does not come is not waited for for ever."""

    def __init__(self) -> None:
        self._since: dict[tuple[Any, int], float] = {}

    def is_worth_waiting(self, tp: Any, offset: int, now: float) -> bool:
        """Whether the marker may still come; `now` as of `time.monotonic`."""
        self._since = {at: since for at, since in self._since.items() if now - since < 10 * DOUBT_S}
        return now - self._since.setdefault((tp, offset), now) < DOUBT_S


_doubt = _Doubt()


class _Batches:
    """Batches that have been looked at already, read like aiokafka's MemoryRecords."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = deque(batches)

    def has_next(self) -> bool:
        return bool(self._batches)

    def next_batch(self) -> Any:
        return self._batches.popleft()


def _init(
    self: Any, tp: Any, records: Any, aborted_transactions: Any, fetch_offset: int, *rest: Any, **named: Any
) -> None:
    _plain_init(self, tp, records, aborted_transactions, fetch_offset, *rest, **named)
    self._aborting_markers = {}
    doubtful = {producer for producer, first in self._aborted_transactions if first < fetch_offset}
    if not doubtful:
        return
    batches = []
    first_marker_aborts: dict[int, bool] = {}
    while records.has_next():
        batch = records.next_batch()
        batches.append(batch)
        if batch.is_control_batch:
            # Reading a marker uses it up, so that it has to be remembered.
            aborts = self._aborting_markers[batch.base_offset] = _plain_contains_abort_marker(self, batch)
            if batch.base_offset >= fetch_offset:
                first_marker_aborts.setdefault(batch.producer_id, aborts)
    self._aborted_transactions = without_stale(self._aborted_transactions, fetch_offset, first_marker_aborts)
    producers = [b.producer_id if b.is_transactional and not b.is_control_batch else None for b in batches]
    certain = decided(producers, doubtful - first_marker_aborts.keys())
    if batches and not certain and not _doubt.is_worth_waiting(tp, fetch_offset, time.monotonic()):
        certain = len(batches)
    self._records = _Batches(batches[:certain])


def _contains_abort_marker(self: Any, batch: Any) -> bool:
    known: bool | None = self._aborting_markers.get(batch.base_offset)
    return bool(_plain_contains_abort_marker(self, batch)) if known is None else known


async def _proc_fetch_request(self: Any, assignment: Any, node_id: int, request: Any) -> bool:
    began = time.monotonic()
    found = bool(await _plain_proc_fetch_request(self, assignment, node_id, request))
    rest_s = EMPTY_FETCH_S - (time.monotonic() - began)
    if not found and rest_s > 0:
        try:
            await asyncio.sleep(rest_s)
        except asyncio.CancelledError:
            # The assignment changes or the fetcher closes; like the plain one, it then just ends.
            return False
    return found


def install() -> None:
    """Put the guards in place; harmless when repeated. `aiokafka_guards.install` checks the version."""
    PartitionRecords.__init__ = _init
    PartitionRecords._contains_abort_marker = _contains_abort_marker
    Fetcher._proc_fetch_request = _proc_fetch_request
