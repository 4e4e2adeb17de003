"""A guard over aiokafka's consumer for noida-db, which lists transactions as aborted that ended long before the fetch.

noida-db 0.2.3 answers a fetch at offset P with *every* aborted transaction of the partition, also those whose abort
marker lies before P; Apache Kafka leaves these out. A reader then takes the producer's next committed records for
aborted ones: with read_committed they are never seen. (`transactional_id`s keep their producer id over restarts, so
one kill -9 in a transaction hides all later results of that input partition from those who read along.)

What tells them apart is in the same answer: the first marker of that producer at or after P ends the transaction that
was open at P. If it commits, no aborted transaction was open, and the entry is stale.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import aiokafka
from aiokafka.consumer.fetcher import PartitionRecords

VERSION: Final = "0.14.0"

Aborted = tuple[int, int]
"""(producer id, first offset) of an aborted transaction, as a broker lists it."""

_plain_init = PartitionRecords.__init__
_plain_contains_abort_marker = PartitionRecords._contains_abort_marker


def without_stale(aborted: Iterable[Aborted], fetch_offset: int, first_marker_aborts: dict[int, bool]) -> list[Aborted]:
    """The transactions that are aborted at or after `fetch_offset`; those without a marker yet are kept."""
    return [
        (producer, first)
        for producer, first in aborted
        if first >= fetch_offset or first_marker_aborts.get(producer, True)
    ]


def decided(producers: Sequence[int | None], doubtful: set[int]) -> int:
    """How many batches can be read before the first of a producer in doubt; all, where that one is the very first.

    `producers` has the producer id of each transactional batch, None for any other. The rest is fetched again, then
    with more of what follows.
    """
    cut = next((i for i, producer in enumerate(producers) if producer in doubtful), len(producers))
    return cut or len(producers)


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
    self._records = _Batches(batches[: decided(producers, doubtful - first_marker_aborts.keys())])


def _contains_abort_marker(self: Any, batch: Any) -> bool:
    known: bool | None = self._aborting_markers.get(batch.base_offset)
    return bool(_plain_contains_abort_marker(self, batch)) if known is None else known


def install() -> None:
    """Put the guard in place; harmless when repeated, and no change of behaviour on Apache Kafka.

    Raises RuntimeError on any other version of aiokafka.
    """
    if aiokafka.__version__ != VERSION:
        raise RuntimeError(
            f"aiokafka {aiokafka.__version__} is installed, and infra/stale_aborts.py mends {VERSION}: "
            f"install aiokafka=={VERSION}, or check the guard against the new version"
        )
    PartitionRecords.__init__ = _init
    PartitionRecords._contains_abort_marker = _contains_abort_marker
