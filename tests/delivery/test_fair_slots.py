"""The real pipeline in virtual time: a party whose work never ends, and others who are worked on all the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Hashable

import pytest
from aiokafka.structs import TopicPartition
from tests.delivery.simulation.simulated_kafka import OUTPUT, Broker, Faults, Group
from tests.delivery.simulation.test_simulation import PROCESS, Process, _simulated, in_virtual_time

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.intake import UNBOUNDED, Intake, Limit
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.record import Outgoing, Record

__all__ = ["_simulated"]
SLOTS = 12


class ByTopic:
    """Each topic is a party; `held` may have so many in hand."""

    def __init__(self, **held: int) -> None:
        self.held = held

    def party(self, topic: str) -> Hashable:
        return topic

    def limits(self, holding: Collection[Hashable]) -> Limit:
        return lambda topic: self.held.get(str(topic), UNBOUNDED)


class Sharing(Process):
    """Works for ever on what the topic `stuck` holds, and at once on all else."""

    intake: Intake | None = None

    async def run(self) -> None:
        PROCESS.set(self)
        settings = DeliverySettings(cluster=Cluster("simulated"), capacity=SLOTS, partition_capacity=200)
        self.pipeline = Pipeline(settings, group="g", topics=[], handle=self.handle, intake=self.intake)
        await self.pipeline.run()

    async def handle(self, record: Record) -> list[Outgoing]:
        if record.topic == "stuck":
            await asyncio.Event().wait()
        return [Outgoing(topic=OUTPUT, value=record.topic.encode())]


async def answered(intake: Intake | None, topics: Collection[str]) -> dict[str, int]:
    """How many results of each topic are to be seen after two minutes, of 60 records in each of their partitions."""
    broker = Broker(0, 70, random.Random(1), Faults())
    broker.partitions = [TopicPartition(topic, number) for topic in topics for number in range(4)]
    group = Group(broker)
    process = Sharing(0, broker, group, [])
    process.intake = intake
    tasks = [asyncio.create_task(group.run()), asyncio.create_task(process.run())]
    await asyncio.sleep(120)
    assert not any(task.done() for task in tasks)
    results = broker.results()
    return {topic: results[topic.encode()] for topic in topics}


def test_work_that_never_ends_leaves_slots_to_others() -> None:
    records = 4 * 60
    assert in_virtual_time(answered(ByTopic(), ["stuck", "a", "b"])) == {"stuck": 0, "a": records, "b": records}


def test_without_shares_it_takes_them_all() -> None:
    found = in_virtual_time(answered(None, ["stuck", "a", "b"]))
    assert found["a"] + found["b"] < 2 * 4 * 60


@pytest.mark.parametrize("room", [0, 5])
def test_what_is_held_back_holds_up_nobody_and_comes_when_there_is_room(room: int) -> None:
    async def scenario() -> None:
        intake = ByTopic(a=room)
        broker = Broker(0, 70, random.Random(1), Faults())
        broker.partitions = [TopicPartition(topic, number) for topic in "ab" for number in range(2)]
        process = Sharing(0, broker, group := Group(broker), [])
        process.intake = intake
        tasks = [asyncio.create_task(group.run()), asyncio.create_task(process.run())]
        while broker.results()[b"b"] < 2 * 60:
            await asyncio.sleep(1)
        if not room:
            assert broker.results()[b"a"] == 0
            assert {tp.topic for tp in process.pipeline.held_back()} == {"a"}
        del intake.held["a"]
        process.pipeline.look_again()
        while broker.results()[b"a"] < 2 * 60:
            await asyncio.sleep(1)
        assert not any(task.done() for task in tasks)

    in_virtual_time(asyncio.wait_for(scenario(), 600))
