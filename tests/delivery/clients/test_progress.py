"""A group's progress, seen from outside of it, on a real broker."""

from __future__ import annotations

import asyncio

from aiokafka.structs import TopicPartition
from tests.delivery.test_pipeline import Bench, running

from guideway.delivery.clients.progress import GroupProgress, Progress
from guideway.infra.local_broker import RunningBroker
from guideway.schemas.record import Outgoing, Record


async def test_what_a_group_has_finished_is_told_to_who_is_not_in_it(broker: RunningBroker, unique_name: str) -> None:
    bench = Bench(broker.cluster, unique_name)
    await bench.prepare(30)
    partitions = [TopicPartition(bench.input, number) for number in range(3)]
    let_go = asyncio.Event()

    async def handle(record: Record) -> list[Outgoing]:
        if record.value == b"3":
            await let_go.wait()
        return bench.echo(record)

    group = GroupProgress(broker.cluster, f"{unique_name}.group")
    try:
        assert await group.members() == 0
        assert set((await group.of(partitions)).values()) == {Progress(0, (), 0)}, "nothing was ever committed"
        async with running(bench.pipeline(handle)):
            assert len(await bench.read(29)) == 29
            found = await group.of(partitions)
            assert sum(one.end for one in found.values()) == 30
            assert sum(one.lag for one in found.values()) == 1, "finished ones above it are finished"
            assert await group.members() == 1, "whoever asks does not count"
            let_go.set()
            await bench.until_finished()
            assert sum(one.lag for one in (await group.of(partitions)).values()) == 0
    finally:
        await group.stop()
