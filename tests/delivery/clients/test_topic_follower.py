"""A topic read whole and then followed, in virtual time on a topic in memory: what is missed, repeated, made anew."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition
from structlog.testing import capture_logs
from tests.delivery.simulation.simulated_kafka import VirtualTime

from guideway.delivery.clients import topic_reader
from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.connection.cluster import Cluster

TOPIC = "t"


class MemoryTopic:
    """A consumer of a topic in memory. A value of None stands for what compaction or a marker left out."""

    def __init__(self, *partitions: Sequence[str | None]) -> None:
        self.partitions = [list(one) for one in partitions]
        self.is_there = True
        self.leaderless: set[int] = set()
        self.positions: dict[TopicPartition, int] = {}
        self.assigned: set[TopicPartition] = set()
        self.errors: list[Exception] = []
        """Each is raised by one `getmany` that has taken records."""
        self.silent = False
        self.asked_ends = 0
        self.searches = 0
        self.running = False
        self._client = self
        self._topics: set[str] = set()

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    async def topics(self) -> set[str]:
        self.searches += 1
        return {TOPIC} if self.is_there else set()

    async def set_topics(self, topics: set[str]) -> None:
        self._topics = topics

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(len(self.partitions)))

    def values(self, tp: TopicPartition) -> list[str | None]:
        return self.partitions[tp.partition]

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.assigned = set(partitions)
        self.positions = {}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        assert tp in self.assigned
        self.positions[tp] = offset

    async def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        assert {*partitions} <= self.assigned
        self.positions |= dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self.asked_ends += 1
        await asyncio.sleep(0.01)
        return {tp: len(self.values(tp)) for tp in partitions}

    async def position(self, tp: TopicPartition) -> int:
        if tp.partition in self.leaderless:
            await asyncio.sleep(1e6)
        if tp not in self.assigned:
            raise IllegalStateError(tp)
        return self.positions[tp]

    async def getmany(self, *partitions: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        until = asyncio.get_running_loop().time() + timeout_ms / 1000
        while not (found := self._next()) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.05)
        if found and self.errors:
            raise self.errors.pop(0)
        return found

    def _next(self) -> dict[TopicPartition, list[Any]]:
        found = {}
        for tp in sorted(self.assigned):
            values = self.values(tp)
            if self.silent or tp.partition in self.leaderless or self.positions[tp] >= len(values):
                continue
            start, self.positions[tp] = self.positions[tp], min(len(values), self.positions[tp] + 2)
            records = [
                ConsumerRecord(tp.topic, tp.partition, start + i, 0, 0, None, value, None, 0, 0, ())
                for i, value in enumerate(values[start : self.positions[tp]])
                if value is not None
            ]
            if records:
                found[tp] = records
        return found


class MemoryTopics(MemoryTopic):
    """Several topics of one partition each."""

    def __init__(self, **named: list[str | None]) -> None:
        super().__init__()
        self.named = named

    async def topics(self) -> set[str]:
        return set(self.named)

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0}

    def values(self, tp: TopicPartition) -> list[str | None]:
        return self.named.get(tp.topic, [])


class Reader:
    """A follower of a topic in memory, and what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, topic: MemoryTopic, **settings: Any) -> None:
        monkeypatch.setattr(topic_reader, "make_consumer", lambda *_, **__: topic)
        self.topic = topic
        self.taken: list[str] = []
        self.reading = TopicReader(
            Cluster("nowhere"), "test", TOPIC, self.take, made_anew=lambda _: self.taken.clear(), **settings
        )
        self.follower = TopicFollower(self.reading)

    def take(self, records: Sequence[Any]) -> None:
        self.taken += [record.value for record in records]

    async def has(self, *values: str) -> None:
        async with asyncio.timeout(1000):
            while sorted(self.taken) != sorted(values):
                await asyncio.sleep(0.1)


def in_virtual_time(test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(test)


MakeReader = Callable[..., Reader]


@pytest.fixture
def reader_of(monkeypatch: pytest.MonkeyPatch) -> MakeReader:
    return lambda topic, **settings: Reader(monkeypatch, topic, **settings)


def test_a_topic_is_read_to_where_it_ends_and_then_followed(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic(["a", "b", None, "c", None], [], ["d", None, None, None]))
        async with reader.follower.followed() as is_there:
            assert is_there
            assert sorted(reader.taken) == ["a", "b", "c", "d"]
            reader.topic.partitions[1].append("e")
            await reader.follower.seen(0, partition=1)
            assert reader.taken[-1] == "e"
        assert not reader.topic.running
        assert asyncio.all_tasks() == {asyncio.current_task()}

    in_virtual_time(test())


def test_one_that_is_never_followed_is_closed_as_well(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic(["a"]))
        with pytest.raises(RuntimeError):
            async with reader.reading:
                raise RuntimeError
        assert not reader.topic.running

    in_virtual_time(test())


def test_of_chosen_partitions_no_other_is_read(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic(["a"], ["b"]), partitions=[0], look_s=1.0)
        async with reader.follower.followed():
            await asyncio.sleep(100)
            assert reader.taken == ["a"]

    in_virtual_time(test())


def test_a_partition_that_is_added_is_read_from_its_beginning_and_no_other_again(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic(["a", "b"]), look_s=5.0)
        async with reader.follower.followed():
            reader.topic.partitions += [["c", "d"], []]
            await reader.has("a", "b", "c", "d")
            reader.topic.partitions[2].append("e")
            reader.topic.partitions[0].append("f")
            await reader.has("a", "b", "c", "d", "e", "f")

    in_virtual_time(test())


def test_a_topic_that_is_missing_is_looked_for_until_it_is_there(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic(["a"]), look_again_s=60.0)
        reader.topic.is_there = False
        async with reader.follower.followed() as is_there:
            assert not is_there
            await asyncio.sleep(599)
            assert reader.topic.searches == 11
            assert reader.taken == []
            reader.topic.is_there = True
            await reader.has("a")

    in_virtual_time(test())


def test_a_topic_whose_partitions_are_not_known_yet_is_not_there(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic())
        async with reader.reading as reading:
            assert not await reading.find()

    in_virtual_time(test())


@pytest.mark.parametrize("error", [KafkaError("gone"), RuntimeError("nobody has thought of this")])
def test_after_an_error_it_goes_on_where_it_stood(reader_of: MakeReader, error: Exception) -> None:
    """The failed call has taken records already; they are not lost."""

    async def test() -> None:
        reader = reader_of(MemoryTopic(["a"], []))
        async with reader.follower.followed():
            reader.topic.errors = [error, error]
            reader.topic.partitions[0] += ["b", "c", "d"]
            reader.topic.partitions[1] += ["e"]
            await reader.has("a", "b", "c", "d", "e")

    with capture_logs() as logs:
        in_virtual_time(test())
    assert [entry["topic"] for entry in logs] == [TOPIC, TOPIC]


@pytest.mark.parametrize("new", [["x"], ["x", "y", "z", "w", "v"]], ids=["shorter", "longer"])
def test_a_topic_made_anew_is_read_from_its_beginning(reader_of: MakeReader, new: list[str]) -> None:
    """noida-db tells nothing of it: the position is beyond the end. Kafka begins the consumer at the first record."""

    async def test() -> None:
        reader = reader_of(MemoryTopic(["a", "b", "c"]), look_s=5.0)
        async with reader.follower.followed():
            reader.topic.partitions = [list(new)]
            if len(new) > 3:
                reader.topic.positions = dict.fromkeys(reader.topic.positions, 0)
            await reader.has(*new)

    with capture_logs():
        in_virtual_time(test())


def of_all(topics: MemoryTopics, monkeypatch: pytest.MonkeyPatch) -> tuple[TopicFollower, dict[str, list[str]]]:
    """A follower of all topics in memory, and what it was given of each."""
    taken: dict[str, list[str]] = {}

    def take(records: Sequence[Any]) -> None:
        taken.setdefault(records[0].topic, []).extend(record.value for record in records)

    async def none(*_: object) -> set[str]:
        return set()

    monkeypatch.setattr(topic_reader, "make_consumer", lambda *_, **__: topics)
    monkeypatch.setattr(topic_reader, "not_readable", none)
    cluster = Cluster("nowhere")
    reader = TopicReader(cluster, "test", lambda _: True, take, made_anew=lambda topic: taken[topic].clear())
    return TopicFollower(reader), taken


def test_one_that_is_made_anew_costs_no_other_what_came_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        topics = MemoryTopics(a=["1", "2"], b=["3"])
        follower, taken = of_all(topics, monkeypatch)
        async with follower.followed(), asyncio.timeout(1000):
            topics.named = {"a": ["x"], "b": ["3", "4"]}
            topics.positions[TopicPartition("a", 0)] = 0
            while taken != topics.named:
                await asyncio.sleep(0.1)

    with capture_logs():
        in_virtual_time(test())


def test_who_waits_for_the_end_of_one_that_is_made_anew_waits_for_that_of_the_new_one(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic(["a", "b"]), look_s=5.0)
        async with reader.follower.followed(), asyncio.timeout(1000):
            reader.topic.silent = True
            reader.topic.partitions = [["a", "b", "c"]]
            waiting = asyncio.create_task(reader.follower.current())
            await asyncio.sleep(1)
            reader.topic.partitions = [["x"]]
            reader.topic.silent = False
            await waiting
            assert reader.taken == ["x"]

    with capture_logs():
        in_virtual_time(test())


def test_one_that_is_made_anew_while_it_is_read_is_read_to_where_the_new_one_ends(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic([str(number) for number in range(10)]))
        async with reader.reading as reading:
            assert await reading.find()
            async for _ in reading.catching_up():
                if len(reader.taken) == 4:
                    reader.topic.partitions = [["x", "y"]]
                    reader.topic.positions = dict.fromkeys(reader.topic.positions, 0)
            assert reader.taken == ["x", "y"]

    with capture_logs():
        in_virtual_time(test())


def test_one_that_another_finds_gone_while_it_is_read_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        topics = MemoryTopics(a=["1"], b=["2"])
        follower, taken = of_all(topics, monkeypatch)
        plain, now = topics.position, asyncio.get_running_loop().time

        async def position(tp: TopicPartition) -> int:
            # As where it is not known at once, and who waits for a topic looks for it meanwhile.
            if tp.topic == "b" and "b" not in topics.named and now() > 32:
                await follower.find()
            return await plain(tp)

        monkeypatch.setattr(topics, "position", position)
        async with follower.followed(), asyncio.timeout(1000):
            await asyncio.sleep(1)
            topics.named = {"a": ["1"]}
            await follower.find()
            while follower.topics != {"a"}:
                await asyncio.sleep(0.1)
            topics.named["a"].append("3")
            await follower.seen(1, topic="a")
            assert taken == {"a": ["1", "3"], "b": []}

    with capture_logs() as logs:
        in_virtual_time(test())
    assert [entry["event"] for entry in logs] == ["topics are gone; what they said is forgotten"]


def test_who_waits_for_the_first_topic_of_a_kind_does_not_wait_for_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        topics = MemoryTopics()
        follower, taken = of_all(topics, monkeypatch)
        async with follower.followed():
            await asyncio.sleep(1)
            topics.named = {"a": ["1"]}
            await follower.current()
            assert taken == topics.named
            assert asyncio.get_running_loop().time() < 10

    with capture_logs():
        in_virtual_time(test())


def test_where_nothing_comes_it_does_not_wait_for_ever(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic(["a"]))
        async with reader.reading as reading:
            assert await reading.find()
            reader.topic.silent = True
            with pytest.raises(TimeoutError):
                await reading.catch_up()
            assert 19 < asyncio.get_running_loop().time() < 25

    in_virtual_time(test())


def test_a_long_topic_may_take_its_time(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic([str(number) for number in range(100)]))
        plain = reader.topic.getmany

        async def slow(*partitions: TopicPartition, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
            await asyncio.sleep(15)
            return await plain(*partitions, timeout_ms=timeout_ms)

        reader.topic.getmany = slow  # type: ignore[method-assign]
        async with reader.reading as reading:
            assert await reading.find()
            await reading.catch_up()
            assert len(reader.taken) == 100
            assert asyncio.get_running_loop().time() > 700

    in_virtual_time(test())


def test_a_partition_without_a_leader_holds_up_no_other(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic(["a"], ["b"]))
        reader.topic.leaderless = {1}
        async with reader.follower.followed(timeout_s=1, is_needed=False):
            await reader.has("a")
            reader.topic.partitions[0].append("c")
            await reader.has("a", "c")
            reader.topic.leaderless = set()
            await reader.has("a", "b", "c")

    in_virtual_time(test())


def test_many_who_ask_whether_all_is_read_share_the_question(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic(["a"]), look_s=1e6)
        async with reader.follower.followed():
            before = reader.topic.asked_ends

            async def ask() -> None:
                reader.topic.partitions[0].append("b")
                asked_at = len(reader.topic.partitions[0])
                await reader.follower.current()
                assert len(reader.taken) >= asked_at

            await asyncio.gather(*(ask() for _ in range(50)))
            assert reader.topic.asked_ends - before <= 2

    in_virtual_time(test())


def test_a_question_that_is_not_answered_is_asked_again_by_the_next(reader_of: MakeReader) -> None:
    async def test() -> None:
        reader = reader_of(MemoryTopic(["a"]), look_s=1e6)
        async with reader.follower.followed():
            plain = reader.topic.end_offsets

            async def fails(partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
                raise KafkaError("gone")

            reader.topic.end_offsets = fails  # type: ignore[method-assign]
            for _ in range(2):
                with pytest.raises(KafkaError):
                    await reader.follower.current()
            reader.topic.end_offsets = plain  # type: ignore[method-assign]
            with contextlib.suppress(KafkaError):
                await reader.follower.current()
            assert reader.taken == ["a"]

    in_virtual_time(test())
