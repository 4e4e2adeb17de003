"""The pipeline on a real broker: once each, in whatever order, over rebalances and failures."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import NewPartitions, RecordsToDelete
from aiokafka.structs import TopicPartition
from structlog.testing import capture_logs
from tests.delivery.made_anew import delete_topic

from guideway.delivery import watchdog
from guideway.delivery.clients.administrator import administrator
from guideway.delivery.clients.kafka_client import as_record
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.partition import Partition
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import MAX_RECORD_BYTES, DeliverySettings
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.infra.topics import TopicDefinition
from guideway.schemas.failures import FailureCode
from guideway.schemas.record import Outgoing, Record

Handle = Callable[[Record], Awaitable[list[Outgoing]]]


class Bench:
    """One input topic, one output topic, on a broker."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.input, self.output, self.dead = f"{name}.in", f"{name}.out", f"{name}.in.dlq"

    async def prepare(self, records: int) -> None:
        definitions = [TopicDefinition(self.input, 3), TopicDefinition(self.output, 2), TopicDefinition(self.dead)]
        await make_topics(self.cluster, definitions)
        await self.send(records)

    async def send(self, records: int) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.cluster.brokers) as producer:
            for number in range(records):
                await producer.send(self.input, str(number).encode(), headers=[("h", None), ("h", b"\xff")])

    def pipeline(self, handle: Handle, **settings: float) -> Pipeline:
        return Pipeline(
            DeliverySettings(cluster=self.cluster, **settings),  # type: ignore[arg-type]
            group=f"{self.name}.group",
            topics=[self.input],
            handle=handle,
        )

    def echo(self, record: Record) -> list[Outgoing]:
        return [Outgoing(topic=self.output, key=record.key, value=record.value, headers=record.headers)]

    async def until_finished(self) -> None:
        """Wait until the group has committed everything that the input holds: of an empty partition, nothing."""
        async with AIOKafkaConsumer(bootstrap_servers=self.cluster.brokers, group_id=f"{self.name}.group") as consumer:
            partitions = [TopicPartition(self.input, number) for number in range(3)]
            ends = await consumer.end_offsets(partitions)
            async with asyncio.timeout(60):
                while [await consumer.committed(tp) or 0 for tp in partitions] != [ends[tp] for tp in partitions]:
                    await asyncio.sleep(0.2)

    async def read(self, expected: int, *read_topics: str) -> list[Record]:
        """All records of the topics: until as many as expected are there and half a second brings no more."""
        found: list[Record] = []
        async with AIOKafkaConsumer(
            *(read_topics or (self.output,)),
            bootstrap_servers=self.cluster.brokers,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        ) as consumer:
            while True:
                batches = await consumer.getmany(timeout_ms=500)
                if not batches and len(found) >= expected:
                    return found
                found += [as_record(one) for batch in batches.values() for one in batch]


@asynccontextmanager
async def running(*pipelines: Pipeline) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(pipeline.run()) for pipeline in pipelines]
    try:
        yield
    finally:
        for pipeline in pipelines:
            pipeline.stop()
        await asyncio.gather(*tasks)


async def test_each_record_gives_one_result_though_work_ends_out_of_order_and_owners_change(
    broker: RunningBroker, unique_name: str
) -> None:
    bench = Bench(broker.cluster, unique_name)
    await bench.prepare(600)
    chance = random.Random(4)
    worked: Counter[bytes] = Counter()

    async def handle(record: Record) -> list[Outgoing]:
        worked[record.value or b""] += 1
        await asyncio.sleep(chance.expovariate(20))
        return bench.echo(record)

    async with running(bench.pipeline(handle)):
        await asyncio.sleep(1)
        async with running(bench.pipeline(handle)):
            await asyncio.sleep(1)
        found = await asyncio.wait_for(bench.read(600), 60)
    assert Counter(record.value for record in found) == Counter(str(number).encode() for number in range(600))
    assert set(worked) == {str(number).encode() for number in range(600)}


async def test_what_was_published_is_not_worked_on_again_after_a_restart(
    broker: RunningBroker, unique_name: str
) -> None:
    bench = Bench(broker.cluster, unique_name)
    await bench.prepare(30)
    stuck = asyncio.Event()

    async def first(record: Record) -> list[Outgoing]:
        if record.value in {b"3", b"17"}:
            await stuck.wait()
        return bench.echo(record)

    async with running(bench.pipeline(first, drain_timeout_s=0.1)):
        await asyncio.wait_for(bench.read(28), 30)
    again: list[bytes | None] = []

    async def second(record: Record) -> list[Outgoing]:
        again.append(record.value)
        return bench.echo(record)

    async with running(bench.pipeline(second)):
        found = await asyncio.wait_for(bench.read(30), 30)
    assert sorted(again, key=str) == [b"17", b"3"], "only the two that were never finished"
    assert len(found) == 30


async def test_what_cannot_be_published_becomes_a_dead_letter_and_holds_nobody_up(
    broker: RunningBroker, unique_name: str
) -> None:
    bench = Bench(broker.cluster, unique_name)
    await bench.prepare(6)

    async def handle(record: Record) -> list[Outgoing]:
        match record.value:
            case b"0":
                raise KeyError("a bug")
            case b"1":
                return [Outgoing(topic=f"{unique_name}.nowhere", value=b"x")]
            case b"2":
                return [Outgoing(topic=bench.output, value=b"x", partition=9)]
            case b"3":
                return [Outgoing(topic=bench.output, value=b"x" * (MAX_RECORD_BYTES + 1))]
        return bench.echo(record)

    async with running(bench.pipeline(handle)):
        found = await asyncio.wait_for(bench.read(6, bench.output, bench.dead), 30)
    assert sorted(record.value or b"" for record in found if record.topic == bench.output) == [b"4", b"5"]
    dead = {record.value: record for record in found if record.topic == bench.dead}
    codes = {value: (one.header("guideway_dlq_code") or b"").decode() for value, one in dead.items()}
    assert codes == {
        b"0": FailureCode.INTERNAL_ERROR,
        b"1": FailureCode.REPLY_ADDRESS_REFUSED,
        b"2": FailureCode.REPLY_ADDRESS_REFUSED,
        b"3": FailureCode.REPLY_TOO_LARGE,
    }
    assert dead[b"0"].header("guideway_dlq_topic") == bench.input.encode()
    assert list(dead[b"0"].headers[:2]) == [("h", None), ("h", b"\xff")], "the record's own headers, as they were"


async def test_a_hijacked_lock_is_taken_back_without_a_tug_of_war(broker: RunningBroker, unique_name: str) -> None:
    bench = Bench(broker.cluster, unique_name)
    await bench.prepare(40)

    async def handle(record: Record) -> list[Outgoing]:
        await asyncio.sleep(0.2)
        return bench.echo(record)

    pipeline = bench.pipeline(handle, capacity=10)
    async with running(pipeline):
        await pipeline.assigned.joined.wait()
        await asyncio.sleep(1)
        # Another process takes the lock of one partition, as a new owner would.
        async with AIOKafkaProducer(
            bootstrap_servers=bench.cluster.brokers, transactional_id=f"{unique_name}.group.{bench.input}.0"
        ):
            found = await asyncio.wait_for(bench.read(40), 60)
    assert Counter(record.value for record in found) == Counter(str(number).encode() for number in range(40))
    assert TopicPartition(bench.input, 0) in {one.tp for one in pipeline.assigned.all()}


async def test_a_missing_dead_letter_topic_holds_up_that_letter_only(broker: RunningBroker, unique_name: str) -> None:
    bench = Bench(broker.cluster, unique_name)
    await make_topics(bench.cluster, [TopicDefinition(bench.input), TopicDefinition(bench.output)])
    await bench.send(20)

    async def handle(record: Record) -> list[Outgoing]:
        return [Outgoing(topic=f"{unique_name}.nowhere", value=b"x")] if record.value == b"0" else bench.echo(record)

    async with running(bench.pipeline(handle, hold_s=0.5)):
        assert len(await asyncio.wait_for(bench.read(19), 30)) == 19
        await make_topics(bench.cluster, [TopicDefinition(bench.dead)])
        (letter,) = await asyncio.wait_for(bench.read(1, bench.dead), 30)
    assert letter.value == b"0"


async def with_small_topics(broker: RunningBroker, name: str) -> Bench:
    """What is written there goes to topics that take 20,000 bytes at once."""
    if broker.kind == "noida-db":
        pytest.skip("noida-db does not enforce max.message.bytes")
    bench = Bench(broker.cluster, name)
    small = {"max.message.bytes": "20000"}
    definitions = [TopicDefinition(bench.output, configs=small), TopicDefinition(bench.dead, configs=small)]
    await make_topics(bench.cluster, [TopicDefinition(bench.input), *definitions])
    return bench


async def test_a_broker_that_takes_smaller_records_than_usual_gets_a_dead_letter(
    broker: RunningBroker, unique_name: str
) -> None:
    bench = await with_small_topics(broker, unique_name)
    await bench.send(3)
    async with AIOKafkaProducer(bootstrap_servers=bench.cluster.brokers) as producer:
        await producer.send_and_wait(bench.input, b"large" + b"x" * 100_000)

    async def handle(record: Record) -> list[Outgoing]:
        if record.value == b"1":
            return [Outgoing(topic=bench.output, value=b"y" * 50_000)]
        return bench.echo(record)

    async with running(bench.pipeline(handle)):
        found = await asyncio.wait_for(bench.read(4, bench.output, bench.dead), 60)
    assert sorted(record.value or b"" for record in found if record.topic == bench.output) == [b"0", b"2"]
    dead = {one.header("guideway_dlq_offset"): one for one in found if one.topic == bench.dead}
    assert [one.value for one in dead.values()].count(b"1") == 1, "the record of the too large result, whole"
    assert [one.header("guideway_dlq_omitted") for one in dead.values()].count(b"value") == 1


async def test_results_that_are_too_many_for_a_topic_at_once_reach_it_all_the_same(
    broker: RunningBroker, unique_name: str
) -> None:
    bench = await with_small_topics(broker, unique_name)
    await bench.send(60)
    all_here, begun = asyncio.Event(), Counter[bytes]()

    async def handle(record: Record) -> list[Outgoing]:
        begun[record.value or b""] += 1
        if len(begun) == 60:
            all_here.set()
        await all_here.wait()
        return [Outgoing(topic=bench.output, value=(record.value or b"") + b" " + b"y" * 1000)]

    async with running(bench.pipeline(handle)):
        found = await asyncio.wait_for(bench.read(60, bench.output, bench.dead), 60)
    assert [one for one in found if one.topic == bench.dead] == []
    said = Counter((one.value or b"").partition(b" ")[0] for one in found)
    assert said == Counter(str(number).encode() for number in range(60))


async def test_records_deleted_before_they_were_answered_are_passed_over_loudly(
    broker: RunningBroker, unique_name: str
) -> None:
    if broker.kind == "noida-db":
        pytest.skip("noida-db has no DeleteRecords")
    bench = Bench(broker.cluster, unique_name)
    await bench.prepare(60)
    first = asyncio.Event()

    async def handle(record: Record) -> list[Outgoing]:
        first.set()
        await asyncio.sleep(0.1)
        return bench.echo(record)

    async with running(bench.pipeline(handle, capacity=2)):
        await first.wait()
    async with administrator(bench.cluster) as admin:
        await admin.delete_records({TopicPartition(bench.input, number): RecordsToDelete(-1) for number in range(3)})
    await bench.send(30)
    with capture_logs() as logs:
        async with running(bench.pipeline(handle)):
            await bench.until_finished()
    assert any("deleted before they were answered" in one["event"] for one in logs)


async def test_a_topic_made_anew_is_read_from_its_beginning(broker: RunningBroker, unique_name: str) -> None:
    if broker.kind == "noida-db":
        pytest.skip("noida-db keeps a deleted topic's records")
    bench = Bench(broker.cluster, unique_name)
    await bench.prepare(30)

    async def handle(record: Record) -> list[Outgoing]:
        return bench.echo(record)

    async with running(bench.pipeline(handle)):
        await asyncio.wait_for(bench.read(30), 30)
        await delete_topic(bench.cluster, bench.input)
        await bench.prepare(3)
        found = await asyncio.wait_for(bench.read(33), 60)
    assert Counter(record.value for record in found)[b"2"] == 2, "the old one and the new one"


async def test_partitions_added_while_running_are_read_too(broker: RunningBroker, unique_name: str) -> None:
    if broker.kind == "noida-db":
        pytest.skip("noida-db adds no partitions")
    bench = Bench(broker.cluster, unique_name)
    await bench.prepare(30)

    async def handle(record: Record) -> list[Outgoing]:
        return bench.echo(record)

    async with running(bench.pipeline(handle)):
        await asyncio.wait_for(bench.read(30), 30)
        async with administrator(bench.cluster) as admin:
            await admin.create_partitions({bench.input: NewPartitions(total_count=6)})
        await asyncio.sleep(6)
        async with AIOKafkaProducer(bootstrap_servers=bench.cluster.brokers) as producer:
            for number in range(30, 60):
                await producer.send(bench.input, str(number).encode(), partition=number % 6)
        found = await asyncio.wait_for(bench.read(60), 60)
    assert Counter(record.value for record in found) == Counter(str(number).encode() for number in range(60))


async def test_records_are_read_however_callers_compress_them(broker: RunningBroker, unique_name: str) -> None:
    bench = Bench(broker.cluster, unique_name)
    await bench.prepare(0)
    kinds = ["gzip", "snappy", "lz4", "zstd"]
    for kind in kinds:
        async with AIOKafkaProducer(bootstrap_servers=bench.cluster.brokers, compression_type=kind) as producer:
            await producer.send_and_wait(bench.input, kind.encode() * 100)

    async def handle(record: Record) -> list[Outgoing]:
        return bench.echo(record)

    async with running(bench.pipeline(handle)):
        found = await asyncio.wait_for(bench.read(4), 30)
    assert {record.value for record in found} == {kind.encode() * 100 for kind in kinds}


async def test_a_topic_without_its_dead_letter_topic_stops_nobody_else(
    broker: RunningBroker, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, lone = Bench(broker.cluster, unique_name), f"{unique_name}.lone"
    await bench.prepare(0)
    await make_topics(broker.cluster, [TopicDefinition(lone, 1)])
    ended: list[str] = []
    monkeypatch.setattr(watchdog, "end_process", ended.append)

    async def handle(record: Record) -> list[Outgoing]:
        return (
            [dead_letter(record, FailureCode.UNDECODABLE_EVENT, "why")] if record.topic == lone else bench.echo(record)
        )

    # A busy machine takes some seconds to join the group, which counts as well.
    settings = DeliverySettings(cluster=bench.cluster, stall_s=10, hold_s=0.5, max_hold_s=1)
    pipeline = Pipeline(settings, group=f"{unique_name}.group", topics=[bench.input, lone], handle=handle)
    async with AIOKafkaProducer(bootstrap_servers=bench.cluster.brokers) as producer:
        await producer.send_and_wait(lone, b"cannot be answered")
    with capture_logs() as logs:
        async with running(pipeline):
            await asyncio.sleep(13)
            await bench.send(20)
            found = await asyncio.wait_for(bench.read(20), 30)
            await make_topics(broker.cluster, [TopicDefinition(f"{lone}.dlq")])
            letters = await asyncio.wait_for(bench.read(1, f"{lone}.dlq"), 30)
    assert (len(found), len(letters)) == (20, 1)
    assert not ended, "the watchdog looks at the process"
    assert any("run `guideway topics apply`" in str(one.get("why")) for one in logs)


async def test_owners_that_hand_over_in_haste_are_members_still_and_have_not_died(
    broker: RunningBroker, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A last flush that takes longer than a revocation gives it, as where brokers are slow."""
    flush = Partition._note_end

    async def slow_flush(self: Partition, producer: object) -> None:
        await asyncio.sleep(0.3)
        await flush(self, producer)

    monkeypatch.setattr(Partition, "_note_end", slow_flush)
    bench, begun, done = Bench(broker.cluster, unique_name), Counter[bytes | None](), asyncio.Event()
    await bench.prepare(3)

    async def handle(record: Record) -> list[Outgoing]:
        begun[record.value] += 1
        await done.wait()
        return bench.echo(record)

    def handed_over() -> list[int]:
        return [one["deaths"] for one in logs if one["event"].startswith("the owner before")]

    first, second = (bench.pipeline(handle, revoke_timeout_s=0.1, drain_timeout_s=0.1) for _ in range(2))
    with capture_logs() as logs:
        async with running(first, second):
            await asyncio.wait_for(asyncio.gather(first.assigned.joined.wait(), second.assigned.joined.wait()), 60)
            assert await first._client.alive() >= {first._token, second._token}
            for _ in range(12):
                async with running(third := bench.pipeline(handle, revoke_timeout_s=0.1, drain_timeout_s=0.1)):
                    await asyncio.wait_for(third.assigned.joined.wait(), 60)
                    await asyncio.sleep(1)
                if len(handed_over()) >= 4:
                    break
            done.set()
            found = await asyncio.wait_for(bench.read(3), 60)
    assert len(found) == 3
    assert len(handed_over()) >= 4, "the flushes were too fast to prove anything"
    assert set(handed_over()) == {0}


async def test_who_is_told_to_end_while_the_group_does_not_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs it would kill it, or wait until the watchdog does."""
    done = []
    ending, ended = asyncio.Event(), asyncio.Event()

    class Waiting:
        """A consumer that waits for its partitions, as long as another member or a broker is not heard of."""

        def subscribe(self, **_: object) -> None:
            done.append("subscribe")

        async def start(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await ended.wait()

        async def stop(self) -> None:
            done.append("stop")

    async def nothing() -> None:
        pass

    monkeypatch.setattr("guideway.delivery.pipeline.make_consumer", lambda *_, **__: Waiting())
    bench = Bench(Cluster("127.0.0.1:1"), "quiet")
    pipeline = bench.pipeline(_never)
    monkeypatch.setattr(pipeline.topics, "start", nothing)
    running = asyncio.create_task(pipeline.run())
    while not done:
        await asyncio.sleep(0.01)
    pipeline.stop()
    async with asyncio.timeout(20):
        await ending.wait()
        # As at Ctrl-C after SIGTERM.
        pipeline.stop(0)
        ended.set()
        await running
    assert done == ["subscribe", "stop"]


async def test_who_is_told_to_end_before_it_begins_asks_nobody() -> None:
    """As where what goes before it takes long: brokers that are away are nothing to it any more."""
    pipeline = Bench(Cluster("127.0.0.1:1"), "quiet").pipeline(_never)
    pipeline.stop()
    async with asyncio.timeout(20):
        await pipeline.run()


async def _never(record: Record) -> list[Outgoing]:
    raise AssertionError(record)
