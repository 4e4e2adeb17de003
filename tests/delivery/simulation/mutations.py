"""The delivery with one of its steps taken away, each of which has to turn the suites red.

The letters are those of the model in which each step was first seen to carry weight. `MUTATIONS[name](patch)` makes the
change, where `patch(object, name, value)` is `setattr` or a monkeypatch's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.producer.sender import (
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    BaseHandler,
    EndTxnHandler,
    TxnOffsetCommitHandler,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery import partition, pipeline
from guideway.delivery.clients import kafka_client, partition_client
from guideway.delivery.guards import group_guards, transaction_guards
from guideway.delivery.offsets.tracker import Commit, OffsetTracker
from guideway.delivery.partition import Partition
from guideway.delivery.publishing.publisher import Publisher, Sending
from guideway.schemas.record import Outgoing

Patch = Callable[[Any, str, Any], None]


class With:
    """Something with some of its methods replaced."""

    def __init__(self, plain: Any, **replaced: Any) -> None:
        self._plain = plain
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


class ReadsBeforeFencing(Partition):
    """The committed offset is read before the producer is initialised, so that an earlier owner may still commit."""

    async def _open(self, producer: Any) -> None:
        early = await self._kafka.committed(self.tp)

        async def committed(_: Any) -> OffsetAndMetadata | None:
            return early

        plain = self._kafka
        self._kafka = With(plain, committed=committed)
        try:
            await super()._open(producer)
        finally:
            self._kafka = plain


class SendsMoreThanItCommits(Publisher):
    """Results that are finished while a transaction is being made ride along, and the offsets omit them."""

    async def transact(self, producer: Any, records: Mapping[int, list[Outgoing]], offsets: OffsetAndMetadata) -> None:
        late: set[int] = set()

        async def commit_transaction() -> None:
            late.update(self._work.ready.keys() - records.keys())
            out = [out for offset in late for out in self._work.ready[offset].outgoing]
            await asyncio.gather(
                *[
                    await producer.send(one.topic, key=one.key, value=one.value, headers=list(one.headers))
                    for one in out
                ]
            )
            await producer.commit_transaction()

        await super().transact(With(producer, commit_transaction=commit_transaction), records, offsets)
        for offset in late:
            self._work.published(offset)


class DoesNotCheck(Publisher):
    """Nobody looks whether the records of a transaction were taken."""

    def _check_all_taken(self, sending: Sending) -> None:
        list(sending.failed())


def _partition(kind: type[Partition]) -> Callable[[Patch], None]:
    return lambda patch: patch(pipeline, "Partition", kind)


def _publisher(kind: type[Publisher]) -> Callable[[Patch], None]:
    return lambda patch: patch(partition, "Publisher", kind)


async def _keeps_the_epoch(producer: Any) -> None:
    pass


def _one_epoch_for_many_transactions(patch: Patch) -> None:
    patch(transaction_guards, "renew_epoch", _keeps_the_epoch)


def _repeats_on_the_same_epoch(patch: Patch) -> None:
    _one_epoch_for_many_transactions(patch)
    patch(transaction_guards, "do_once", BaseHandler.do)
    for handler in (AddPartitionsToTxnHandler, AddOffsetsToTxnHandler, TxnOffsetCommitHandler, EndTxnHandler):
        patch(handler, "do", BaseHandler.do)


def _forgets_what_is_done(patch: Patch) -> None:
    patch(Commit, "metadata", property(lambda commit: ""))


def _one_id_per_process(patch: Patch) -> None:
    plain = partition_client.PartitionClient.producer
    patch(partition_client.PartitionClient, "producer", lambda self, id_: plain(self, f"{id_}.{os.getpid()}"))


def _no_transactions(patch: Patch) -> None:
    def producer(self: partition_client.PartitionClient, transactional_id: str) -> Any:
        plain = kafka_client.make_producer(self._settings.cluster, "delivery")

        async def nothing() -> None:
            pass

        async def commit(offsets: Mapping[TopicPartition, OffsetAndMetadata], _: str) -> None:
            await self._consumer.commit(offsets)

        return With(plain, begin_transaction=nothing, commit_transaction=nothing, send_offsets_to_transaction=commit)

    _one_epoch_for_many_transactions(patch)
    patch(partition_client.PartitionClient, "producer", producer)


def _drops_done_at_low(patch: Patch) -> None:
    plain = OffsetTracker.commit_of

    def commit_of(self: OffsetTracker, finishing: Any) -> Commit:
        commit = plain(self, finishing)
        low = min([*(set(self.pending) - set(finishing)), *commit.done], default=commit.low)
        return Commit(min(low, commit.low), commit.done - {low})

    patch(OffsetTracker, "commit_of", commit_of)


def _keeps_what_others_finished(patch: Patch) -> None:
    patch(OffsetTracker, "adopt", lambda self, offset: self._pending.add(offset) or True)


def _without_guard_1(patch: Patch) -> None:
    plain = group_guards._plain_send_req
    patch(group_guards, "send_req", plain)
    patch(GroupCoordinator, "_send_req", plain)


MUTATIONS: Final[Mapping[str, Callable[[Patch], None]]] = {
    "B: reads the committed offset before it fences": _partition(ReadsBeforeFencing),
    "C: repeats requests on the same epoch (no guard 3, no new epochs)": _repeats_on_the_same_epoch,
    "one epoch for many transactions": _one_epoch_for_many_transactions,
    "D: commits without the completed-set": _forgets_what_is_done,
    "E: sends results that its offsets omit": _publisher(SendsMoreThanItCommits),
    "F: one transactional id per process": _one_id_per_process,
    "H: no transactions": _no_transactions,
    "I: drops a done offset at the low watermark": _drops_done_at_low,
    "no gather": _publisher(DoesNotCheck),
    "no guard 1": _without_guard_1,
    "adopts what others have finished": _keeps_what_others_finished,
}
