"""A process that reads topics of compressed records by one kind of consumer, and says how much memory it took.

`python -m tests.delivery.guards.inflated_reader BOOTSTRAP KIND RECORDS TOPIC...` ends after so many records and prints
JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Outgoing, Record, Withheld


class Seen:
    """What was read."""

    def __init__(self, records: int) -> None:
        self.left = records
        self.withheld = self.read = 0
        self.left_for_others = 0
        """How many were still to be read when the last record of the last topic came."""
        self.done = asyncio.Event()

    def note(self, *, withheld: bool) -> None:
        self.withheld += withheld
        self.read += not withheld
        self.left -= 1
        if not self.left:
            self.done.set()


async def by_pipeline(cluster: Cluster, topics: list[str], seen: Seen) -> None:
    async def handle(record: Record) -> list[Outgoing]:
        await asyncio.sleep(0.01)
        seen.note(withheld=False)
        if record.topic == topics[-1]:
            seen.left_for_others = seen.left
        return [dead_letter(record, FailureCode.INTERNAL_ERROR, "as large as what was read")]

    async def refuse(record: Record, refusal: Refusal) -> list[Outgoing]:
        seen.note(withheld=True)
        return [dead_letter(record, refusal.code, refusal.message)]

    group = f"{topics[0]}.group"
    pipeline = Pipeline(DeliverySettings(cluster=cluster), group=group, topics=topics, handle=handle, refuse=refuse)
    running = asyncio.create_task(pipeline.run())
    await asyncio.wait([running, asyncio.create_task(seen.done.wait())], return_when="FIRST_COMPLETED")
    pipeline.stop()
    await running


async def by_getmany(cluster: Cluster, topics: list[str], seen: Seen) -> None:
    async with started(make_consumer(cluster, "follower", auto_offset_reset="earliest"), cluster) as consumer:
        consumer.assign([TopicPartition(topic, number) for topic in topics for number in range(3)])
        await consumer.seek_to_beginning()
        while seen.left:
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                for record in batch:
                    seen.note(withheld=isinstance(record.value, Withheld))


async def by_iteration(cluster: Cluster, topics: list[str], seen: Seen) -> None:
    async with started(make_consumer(cluster, "reader", auto_offset_reset="earliest"), cluster) as consumer:
        consumer.assign([TopicPartition(topic, number) for topic in topics for number in range(3)])
        await consumer.seek_to_beginning()
        async for record in consumer:
            seen.note(withheld=isinstance(record.value, Withheld))
            if not seen.left:
                return


KINDS = {"pipeline": by_pipeline, "getmany": by_getmany, "iteration": by_iteration}


def _mebibytes(name: str) -> int:
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{name}:")]
    return int(line.split()[1]) // 1024


async def main(brokers: str, kind: str, records: str, *topics: str) -> None:
    seen, before = Seen(int(records)), _mebibytes("VmRSS")
    async with asyncio.timeout(300):  # a guard against hanging: alone it takes 10 s, on a busy machine 110
        await KINDS[kind](Cluster(brokers), list(topics), seen)
    told = {"withheld": seen.withheld, "read": seen.read, "left_for_others": seen.left_for_others}
    print(json.dumps({**told, "mebibytes": _mebibytes("VmHWM") - before}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
