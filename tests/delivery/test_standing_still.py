"""A partition, or a topic, that takes nothing is its own affair: it is told and tried again, and others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka.errors import TransactionalIdAuthorizationFailed
from aiokafka.structs import OffsetAndMetadata
from structlog.testing import capture_logs
from tests.delivery.simulation.simulated_kafka import VirtualTime
from tests.delivery.test_partition import TP, FewLines, closed

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.partition import Partition, Phase
from guideway.delivery.publishing.slow_topics import SlowTopics
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.record import Outgoing, Record

SETTINGS = DeliverySettings(cluster=Cluster("b"))


def record(offset: int, value: bytes) -> Record:
    return Record(topic="in", partition=0, offset=offset, timestamp_ms=0, key=None, value=value)


async def to_its_value(record: Record) -> list[Outgoing]:
    return [Outgoing(topic=(record.value or b"").decode(), value=b"v")]


class Topics(FewLines):
    """With some topics; `stuck` ones exist and take nothing."""

    def __init__(self, topics: Mapping[str, int], stuck: frozenset[str] = frozenset()) -> None:
        super().__init__(OffsetAndMetadata(0, ""), 0, 99)
        self.topics, self.stuck = dict(topics), set(stuck)
        self.visible: list[tuple[str, float]] = []
        self._sent: list[str] = []

    async def partitions(self, topic: str) -> int:
        return self.topics.get(topic, 0)

    async def begin_transaction(self) -> None:
        self._sent = []

    async def send(self, topic: str, **_: Any) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        if topic not in self.stuck:
            self._sent.append(topic)
            future.set_result(None)
        return future

    async def commit_transaction(self) -> None:
        self.visible += [(topic, asyncio.get_running_loop().time()) for topic in self._sent]


async def owned(kafka: Any) -> Partition:
    partition = Partition(TP, group="g", kafka=kafka, settings=SETTINGS, handle=to_its_value)
    partition.own()
    while partition.phase is not Phase.OPEN:
        await asyncio.sleep(0)
    return partition


async def _without_topics() -> tuple[float | None, list[dict[str, Any]], list[tuple[str, float]]]:
    kafka = Topics({})
    with capture_logs() as logs:
        partition = await owned(kafka)
        partition.take(record(0, b"out"))
        await asyncio.sleep(600)
        owes = partition.owes_since
    kafka.topics = {"in.dlq": 1}
    await asyncio.sleep(SETTINGS.max_hold_s + 5)
    await closed(partition)
    return owes, [dict(one) for one in logs if one["event"] == "dead letters are held back"], kafka.visible


def test_without_reply_and_dead_letter_topic_it_waits_and_owes_nothing_to_the_watchdog() -> None:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        owes, told, visible = runner.run(_without_topics())
    assert owes is None, "to end the process would stop everybody else"
    assert 5 < len(told) < 20, "told, and less and less often"
    assert "in.dlq does not exist" in told[0]["why"][0]
    assert [topic for topic, _ in visible] == ["in.dlq"], "sent as soon as it can be"


async def _with_a_stuck_topic() -> tuple[list[tuple[str, float]], float]:
    kafka = Topics({"in.dlq": 1, "out": 1, "stuck": 1}, frozenset({"stuck"}))
    with capture_logs():
        partition = await owned(kafka)
        for offset in range(40):
            partition.take(record(offset, b"stuck" if offset % 10 == 0 else b"out"))
            await asyncio.sleep(5)
        kafka.stuck = set()
        healed = asyncio.get_running_loop().time()
        await asyncio.sleep(120)
        await closed(partition)
    return kafka.visible, healed


def test_a_topic_that_takes_nothing_does_not_hold_up_what_goes_to_others() -> None:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        visible, healed = runner.run(_with_a_stuck_topic())
    others = [at for topic, at in visible if topic == "out"]
    assert len(others) == 36
    assert sum(at < healed for at in others) >= 30, "answered meanwhile"
    assert len([at for topic, at in visible if topic == "stuck"]) == 4, "each once, in the end"


class Denied(FewLines):
    """Does not allow the transactional id."""

    async def start(self) -> None:
        raise TransactionalIdAuthorizationFailed


async def _denied() -> float | None:
    partition = Partition(
        TP, group="g", kafka=Denied(OffsetAndMetadata(0, ""), 0, 1), settings=SETTINGS, handle=to_its_value
    )
    with capture_logs() as logs:
        partition.own()
        await asyncio.sleep(300)
        owes = partition.owes_since
        await closed(partition)
    assert 20 < len(logs) < 40
    return owes


def test_a_partition_that_may_not_be_opened_owes_nothing_to_the_watchdog() -> None:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        assert runner.run(_denied()) is None


def test_a_slow_topic_is_tried_alone_and_less_and_less_often() -> None:
    slow, due = SlowTopics(5), {offset: ["slow"] for offset in range(12)} | {20: ["out"], 21: ["slow", "out"]}
    assert slow.waited_for(["slow"], 0) == []
    assert slow.chosen(due, list, 0) == due, "once may be chance"
    assert slow.waited_for(["slow"], 20) == ["slow"]
    assert list(slow.chosen(due, list, 24)) == [20]
    assert list(slow.chosen(due, list, 25)) == list(range(8))
    slow.waited_for(["slow"], 45)
    assert list(slow.chosen(due, list, 54)) == [20]
    slow.took(["slow"])
    assert slow.chosen(due, list, 54) == due
