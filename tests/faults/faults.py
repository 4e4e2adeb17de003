"""The faults: what is done to a running group, and what has to have been seen for a run to count."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from aiokafka.admin import NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from tests.faults.kafka.frames import Api, offset_fetch_empty, offset_fetch_error
from tests.faults.kafka.questions import await_in_sync, group_coordinator, leaders, transaction_coordinator

from guideway.delivery.clients.administrator import administrator
from guideway.delivery.clients.kafka_client import make_producer
from guideway.delivery.watchdog import EXIT_STALLED
from guideway.schemas.names.groups import transactional_id

from .bench import PARTITIONS, usual_text
from .run import Fault, Situation
from .worker_process import BLOCK_LOOP, KILL_AFTER_END, KILL_BEFORE_END

Harm = Callable[[Situation], Awaitable[None]]

# Workers -------------------------------------------------------------------------------------------------------------


async def kill_workers(situation: Situation) -> None:
    for step in range(1, 4):
        for number, worker in enumerate(situation.bench.workers):
            await situation.until(0.1 * step + 0.05 * number)
            worker.send(signal.SIGKILL)


def kill_at(hook: str) -> Harm:
    async def harm(situation: Situation) -> None:
        for step in range(1, 4):
            await situation.until(0.15 * step)
            situation.bench.token(hook)

    return harm


def suspend(seconds: float) -> Harm:
    async def harm(situation: Situation) -> None:
        for step, worker in enumerate(situation.bench.workers[:2]):
            await situation.until(0.1 + 0.2 * step)
            worker.send(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            worker.send(signal.SIGCONT)
            await asyncio.sleep(1)

    return harm


async def block_loop(situation: Situation) -> None:
    await situation.until(0.2)
    situation.bench.token(BLOCK_LOOP)
    async with asyncio.timeout(60):
        while not any(EXIT_STALLED in worker.ended for worker in situation.bench.workers):
            await asyncio.sleep(0.2)


async def rolling_restart(situation: Situation) -> None:
    for _ in range(2):
        for worker in situation.bench.workers:
            before = len(worker.ended)
            worker.send(signal.SIGTERM)
            async with asyncio.timeout(60):
                while len(worker.ended) == before:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(3)


async def rebalance_storm(situation: Situation) -> None:
    """Of five workers three come and go, for twenty seconds."""
    for _ in range(8):
        comers = situation.bench.start_workers(3)
        await asyncio.sleep(2)
        await asyncio.gather(*(worker.stop() for worker in comers))


# Brokers -------------------------------------------------------------------------------------------------------------


async def _bounce(situation: Situation, broker: int, *, hard: bool) -> None:
    cluster = situation.cluster
    await asyncio.to_thread(cluster.kill if hard else cluster.stop, broker)
    await asyncio.sleep(3)
    await asyncio.to_thread(cluster.start, broker)
    await await_in_sync(situation.bench.inside)


def bounce_coordinator(of: str) -> Harm:
    """Of the group or of a transaction: killed twice, stopped once."""

    async def harm(situation: Situation) -> None:
        bench = situation.bench
        for hard in (True, False, True):
            if of == "group":
                broker = await group_coordinator(bench.inside, bench.group)
            else:
                broker = await transaction_coordinator(bench.inside, transactional_id(bench.group, bench.requests, 0))
            await _bounce(situation, broker, hard=hard)

    return harm


async def bounce_leaders(situation: Situation) -> None:
    for topic in (situation.bench.requests, situation.bench.replies, situation.bench.requests):
        await _bounce(situation, (await leaders(situation.bench.inside, topic))[0], hard=True)


async def roll_brokers(situation: Situation) -> None:
    for broker in situation.cluster.brokers:
        await _bounce(situation, broker, hard=False)


async def kill_all_brokers(situation: Situation) -> None:
    cluster = situation.cluster
    await asyncio.gather(*(asyncio.to_thread(cluster.kill, broker) for broker in cluster.brokers))
    await asyncio.sleep(3)
    await asyncio.to_thread(cluster.start, *cluster.brokers)


async def pause_broker(situation: Situation) -> None:
    broker = await group_coordinator(situation.bench.inside, situation.bench.group)
    situation.cluster.pause(broker)
    await asyncio.sleep(30)
    situation.cluster.resume(broker)


# Network -------------------------------------------------------------------------------------------------------------


def cut_off(*roles: str) -> Harm:
    """One worker is cut off from all brokers: with all its clients, or with those of some roles."""

    async def harm(situation: Situation) -> None:
        for step in range(2):
            await situation.until(0.1 + 0.2 * step)
            pid = situation.bench.workers[step].pid
            splits = [situation.proxy.partition(client=f"guideway-{role}-{pid}") for role in roles]
            await asyncio.sleep(15)
            for split in splits:
                situation.proxy.heal(split)
            await asyncio.sleep(2)

    return harm


def some_long(number: int, chance: random.Random) -> str:
    """A third of the requests take so long that they end after their worker's session."""
    return f"n={number} ms={chance.uniform(5_000, 12_000) if number % 3 == 0 else chance.uniform(20, 100):.0f}"


async def publish_while_the_next_initialises(situation: Situation) -> None:
    """A worker whose heartbeats do not arrive publishes on, while its successor has begun and has not the lock yet."""
    for step in range(2):
        await situation.until(0.1 + 0.2 * step)
        expelled, successor = situation.bench.workers[step], situation.bench.workers[1 - step]
        rule = situation.proxy.delay(Api.INIT_PRODUCER_ID, 4.0, client=f"guideway-delivery-{successor.pid}")
        split = situation.proxy.partition(client=f"guideway-consumer-{expelled.pid}")
        await asyncio.sleep(14)
        situation.proxy.remove(rule)
        situation.proxy.heal(split)
        await asyncio.sleep(4)


async def break_transactions(situation: Situation) -> None:
    """EndTxn and TxnOffsetCommit late, twice, lost, and their answers lost."""
    proxy = situation.proxy
    rules = [
        rule
        for api in (Api.END_TXN, Api.TXN_OFFSET_COMMIT)
        for rule in (
            proxy.deliver_late(api, 0.3, share=0.1),
            proxy.deliver_late(api, 3.0, share=0.05),
            proxy.duplicate(api, 0.1, share=0.2),
            proxy.drop(api, share=0.05),
            proxy.drop(api, on="response", share=0.1),
        )
    ]
    await situation.until(0.7)
    for rule in rules:
        proxy.remove(rule)
    await proxy.settled()
    situation.notes.append(f"{sum(rule.hits for rule in rules)} requests harmed")


async def break_produces(situation: Situation) -> None:
    proxy = situation.proxy
    rules = [
        proxy.duplicate(Api.PRODUCE, 0.1, share=0.1, client="guideway-delivery"),
        proxy.drop(Api.PRODUCE, share=0.05, client="guideway-delivery"),
        proxy.drop(Api.PRODUCE, on="response", share=0.05, client="guideway-delivery"),
        proxy.deliver_late(Api.PRODUCE, 1.0, share=0.05, client="guideway-delivery"),
    ]
    await situation.until(0.7)
    for rule in rules:
        proxy.remove(rule)
    await proxy.settled()
    situation.notes.append(f"{sum(rule.hits for rule in rules)} requests harmed")


async def break_offset_lookups(situation: Situation) -> None:
    """The coordinator answers with errors, and with nothing, while workers are killed and partitions move."""
    proxy = situation.proxy
    edits = [*(offset_fetch_error(code) for code in (14, 15, 16, 30)), offset_fetch_empty]
    rules = [proxy.answer(Api.OFFSET_FETCH, edit, share=0.3) for edit in edits]
    for step in range(1, 5):
        await situation.until(0.12 * step)
        situation.bench.workers[step % 2].send(signal.SIGKILL)
    await situation.until(0.6)
    for rule in rules:
        proxy.remove(rule)
    situation.notes.append(f"{sum(rule.hits for rule in rules)} answers changed")


async def slow_network(situation: Situation) -> None:
    rule = situation.proxy.delay(None, 0.1)
    await situation.until(0.4)
    situation.bench.workers[0].send(signal.SIGKILL)
    await situation.until(0.7)
    situation.proxy.remove(rule)


# Locks, results, input -----------------------------------------------------------------------------------------------


async def hijack(situation: Situation) -> None:
    """Another process initialises transactional ids of ours, in mid-flush."""
    bench = situation.bench
    for step in range(4):
        await situation.until(0.1 + 0.1 * step)
        id_ = transactional_id(bench.group, bench.requests, step % PARTITIONS)
        async with make_producer(bench.inside, "test", transactional_id=id_):
            await asyncio.sleep(1)


def some_large(number: int, chance: random.Random) -> str:
    """One of fifty results is larger than what can be published."""
    return usual_text(number, chance) + (" size=1200000" if number % 50 == 0 else "")


def some_longer(number: int, chance: random.Random) -> str:
    """One of fifty results is longer than what `small_limit` lets the reply topic take."""
    return usual_text(number, chance) + (" size=60000" if number % 50 == 0 else "")


async def small_limit(situation: Situation) -> None:
    async with administrator(situation.bench.inside) as admin:
        limit = ConfigResource(ConfigResourceType.TOPIC, situation.bench.replies, {"max.message.bytes": "30000"})
        await admin.alter_configs([limit])
    await kill_workers(situation)


def stuck_heads(number: int, chance: random.Random) -> str:
    """A few requests take half a minute, and of the others every second one is slower than its neighbours."""
    return f"n={number} ms={30_000 if number % 800 == 5 else (5 if number % 2 else 400)}"


async def watch_metadata(situation: Situation) -> None:
    for _ in range(20):
        await situation.look_at_metadata()
        await asyncio.sleep(0.5)
    situation.bench.workers[0].send(signal.SIGKILL)
    for _ in range(20):
        await situation.look_at_metadata()
        await asyncio.sleep(0.5)


def some_deadly(number: int, chance: random.Random) -> str:
    """Two requests end the engine, one makes it hang."""
    return usual_text(number, chance) + _DEEDS.get(number, "")


_DEEDS: Final = {101: " do=die", 202: " do=die", 303: " do=hang"}
POISON: Final = (b"\xff\xfe\x00", b"[" * 100_000, b"{}", b"")


async def poison(situation: Situation) -> None:
    """Records that are no requests, beside requests that kill the engine."""
    bench = situation.bench
    async with make_producer(bench.inside, "test") as producer:
        for number, value in enumerate(POISON):
            await producer.send_and_wait(bench.requests, key=b"poison%d" % number, value=value)
    async with asyncio.timeout(240):
        while sum(id_.startswith("beside") for _, id_ in bench.seen) < len(_DEEDS):
            await asyncio.sleep(0.5)


async def add_partitions(situation: Situation) -> None:
    async with administrator(situation.bench.inside) as admin:
        await admin.create_partitions({situation.bench.requests: NewPartitions(total_count=PARTITIONS + 3)})
    await situation.bench.submit(situation.requests // 4)
    await situation.until(0.6)
    situation.bench.workers[0].send(signal.SIGKILL)


def _fenced(situation: Situation) -> bool:
    return "another process took the partition's lock" in situation.bench.logs()


def _some_stalled(situation: Situation) -> bool:
    return any(EXIT_STALLED in worker.ended for worker in situation.bench.workers)


def _harmed(situation: Situation) -> bool:
    return bool(situation.notes) and not situation.notes[0].startswith("0 ")


def _little_repeated(situation: Situation) -> bool:
    repeated = sum(count > 1 for count in situation.bench.executed().values())
    return repeated < 0.2 * situation.requests


ALL: Final = ("consumer", "delivery", "directory", "catalogue")
ON_ONE_BROKER: Final = [
    Fault(name="kill -9 in mid-generation, each worker 3 times", harm=kill_workers),
    Fault(name="kill -9 between the last produce and EndTxn, 3 times", harm=kill_at(KILL_BEFORE_END)),
    Fault(name="kill -9 between EndTxn and its answer, 3 times", harm=kill_at(KILL_AFTER_END)),
    Fault(name="SIGSTOP for longer than the session (a zombie), twice", harm=suspend(12), proof=_fenced),
    Fault(name="SIGSTOP for less than the session, twice", harm=suspend(3), repeats=False, once_each=True),
    Fault(name="event loop blocked", harm=block_loop, config={"stall_s": 8.0}, proof=_some_stalled),
    Fault(name="rolling restart by SIGTERM, twice", harm=rolling_restart, repeats=False),
    Fault(name="rebalance storm", harm=rebalance_storm, repeats=False, proof=_little_repeated),
    Fault(name="transactional ids hijacked, 4 times", harm=hijack, repeats=False, proof=_fenced),
    Fault(name="results too large to publish", harm=kill_workers, text_of=some_large),
    Fault(name="heads that are stuck, adversarial order", harm=watch_metadata, text_of=stuck_heads),
    Fault(
        name="poison: bytes, depth, engine killed and hung",
        harm=poison,
        text_of=some_deadly,
        config={"engine_silence_s": 4.0},
        extra=len(POISON) + len(_DEEDS),
    ),
]
ON_APACHE_KAFKA: Final = [
    Fault(name="partitions added while running", harm=add_partitions),
    Fault(name="reply topic that takes small records only", harm=small_limit, text_of=some_longer),
]
THROUGH_A_PROXY: Final = [
    Fault(name="a worker cut off from the brokers, twice", harm=cut_off(*ALL), proxied=True),
    Fault(name="a worker's consumer cut off, its producers not", harm=cut_off("consumer"), proxied=True),
    Fault(name="a worker's producers cut off, its consumer not", harm=cut_off("delivery"), proxied=True, repeats=False),
    Fault(
        name="a worker cut off publishes while the next owner initialises",
        harm=publish_while_the_next_initialises,
        proxied=True,
        text_of=some_long,
        scale=0.1,
    ),
    Fault(
        name="EndTxn and TxnOffsetCommit late, twice, lost",
        harm=break_transactions,
        proxied=True,
        repeats=False,
        proof=_harmed,
    ),
    Fault(name="Produce late, twice, lost", harm=break_produces, proxied=True, repeats=False, proof=_harmed),
    Fault(name="OffsetFetch answered by errors or by nothing", harm=break_offset_lookups, proxied=True, proof=_harmed),
    Fault(name="100 ms more for every request, and a kill -9", harm=slow_network, proxied=True),
]
ON_THREE_BROKERS: Final = [
    Fault(name="group coordinator bounced, 3 times", harm=bounce_coordinator("group"), brokers=3, repeats=False),
    Fault(
        name="transaction coordinator bounced, 3 times",
        harm=bounce_coordinator("transaction"),
        brokers=3,
        repeats=False,
    ),
    Fault(name="leaders of requests and replies killed, 3 times", harm=bounce_leaders, brokers=3, repeats=False),
    Fault(name="rolling restart of the brokers", harm=roll_brokers, brokers=3, repeats=False),
    Fault(name="all brokers killed at once", harm=kill_all_brokers, brokers=3, repeats=False),
    Fault(name="a broker paused for 30 s", harm=pause_broker, brokers=3, repeats=False),
]
FAULTS: Final = [*ON_ONE_BROKER, *ON_APACHE_KAFKA, *THROUGH_A_PROXY, *ON_THREE_BROKERS]
