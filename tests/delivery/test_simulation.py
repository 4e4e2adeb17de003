"""The real pipeline on a simulated Kafka with faults: once each, whatever happens, and red without each of its steps.

Every mutation takes away one thing that the guarantee rests on. If one stays green, the faults here are too tame.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from aiokafka.structs import OffsetAndMetadata
from structlog.testing import capture_logs
from tests.delivery.simulated_kafka import INPUT, OUTPUT, Broker, Faults, Group, Member, Producer, Topics, VirtualTime

from guideway.delivery import pipeline
from guideway.delivery.partition import Partition
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.delivery.tracker import Commit, OffsetTracker
from guideway.schemas.record import Outgoing, Record

PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("process")
FAULTY_S, HEALED_S = 60.0, 900.0
SEEDS = int(os.environ.get("GUIDEWAY_SIMULATIONS", "30"))
"""Runs of the unmutated pipeline; more than a few hundred belong on an idle machine."""


@dataclass(eq=False)
class Process:
    """One process of the group, until it is killed."""

    number: int
    broker: Broker
    group: Group
    worked: list[bytes]
    member: Member | None = None

    async def run(self) -> None:
        PROCESS.set(self)
        settings = DeliverySettings(bootstrap="simulated", capacity=12, partition_capacity=40, max_metadata_chars=120)
        self.pipeline = Pipeline(settings, group="g", topics=[INPUT], handle=self.handle)
        await self.pipeline.run()

    async def handle(self, record: Record) -> list[Outgoing]:
        value = record.value or b""
        self.worked.append(value)
        slow = self.broker.chance.random() < 0.1
        await asyncio.sleep(self.broker.chance.expovariate(0.2 if slow else 20))
        return [Outgoing(topic=OUTPUT, value=value)]

    def kill(self) -> None:
        if self.member is not None:
            self.member.link.dead = True


async def _scenario(broker: Broker) -> tuple[int, int, bool]:
    """(lost, doubled, whether anything was worked on twice) after faults and healing."""
    group, worked = Group(broker), list[bytes]()
    loop, chance = asyncio.get_running_loop(), broker.chance
    tasks = [asyncio.create_task(group.run())]
    processes: list[Process] = []

    def start() -> None:
        processes.append(Process(len(processes), broker, group, worked))
        tasks.append(loop.create_task(processes[-1].run()))

    for _ in range(3):
        start()
    while loop.time() < FAULTY_S:
        await asyncio.sleep(chance.expovariate(0.4))
        victim = chance.choice(processes[-3:])
        match chance.choice(["kill", "cut", "cut", "rebalance", "rebalance", "rebalance"]):
            case "kill":
                victim.kill()
                processes.remove(victim)
                start()
            case "cut" if victim.member is not None:
                victim.member.link.cut_until = loop.time() + chance.expovariate(1 / 12)
            case "rebalance":
                group.wanted = True
    for process in processes:
        if process.member is not None:
            process.member.link.cut_until = 0
    while not broker.finished() and loop.time() < HEALED_S:
        await asyncio.sleep(1)
    await asyncio.sleep(20)  # stragglers
    results = broker.results()
    lost = len(broker.partitions) * len(broker.offsets()) - len(results)
    return lost, results.total() - len(results), len(worked) > len(set(worked))


def simulate(seed: int, faults: Faults) -> tuple[int, int, bool]:
    """As `_scenario`, in virtual time."""
    broker = Broker(4, 70, random.Random(seed), faults)
    loop = VirtualTime()
    try:
        with capture_logs():
            return loop.run_until_complete(_scenario(broker))
    finally:
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        loop.close()


class NoWatchdog:
    def __init__(self, *_: Any) -> None:
        pass

    def start(self) -> None:
        pass

    stop = start


@pytest.fixture(autouse=True)
def _simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_consumer(*_: Any, **__: Any) -> Member:
        process = PROCESS.get()
        process.member = Member(process.broker, process.group, process.pipeline)
        return process.member

    monkeypatch.setattr(pipeline, "make_consumer", make_consumer)
    monkeypatch.setattr(pipeline, "PartitionClient", lambda consumer, *_: consumer)
    monkeypatch.setattr(pipeline, "TopicDirectory", lambda *_: Topics())
    monkeypatch.setattr(pipeline, "Watchdog", NoWatchdog)


ALL_FAULTS = Faults(lost_end=0.1, late_offsets=0.1, refused_record=0.01, lost_commit_lookup=0.1)


def test_once_each_whatever_happens() -> None:
    again = 0
    for seed in range(SEEDS):
        lost, doubled, worked_twice = simulate(seed, replace(ALL_FAULTS))
        assert (lost, doubled) == (0, 0), f"seed {seed}"
        again += worked_twice
    assert again, "no record was worked on twice: the faults were too tame to prove anything"


# Mutations -----------------------------------------------------------------------------------------------------------


class ReadsBeforeFencing(Partition):
    """The committed offset is read before the producer is initialised, so that an earlier owner may still commit."""

    async def _open(self, producer: Any) -> None:
        early = await self._kafka.committed(self.tp)

        async def committed(_: Any) -> OffsetAndMetadata | None:
            return early

        plain = self._kafka
        self._kafka = _With(plain, committed=committed)
        try:
            await super()._open(producer)
        finally:
            self._kafka = plain


class SendsMoreThanItCommits(Partition):
    """Results that are finished while a transaction is being made ride along, and the offsets omit them."""

    async def _transact(self, producer: Any, batch: dict[int, list[Outgoing]], commit: OffsetAndMetadata) -> None:
        late: set[int] = set()

        async def commit_transaction() -> None:
            late.update(self._ready.keys() - batch.keys())
            out = [out for offset in late for out in self._ready[offset].outgoing]
            await asyncio.gather(*[await producer.send(one.topic, value=one.value) for one in out])
            await producer.commit_transaction()

        await super()._transact(_With(producer, commit_transaction=commit_transaction), batch, commit)
        for offset in late:
            del self._ready[offset]


class DoesNotGather(Partition):
    """Nobody looks whether the records of a transaction were taken."""

    async def _all_taken(self, batch: Any, sent: dict[int, list[asyncio.Future[Any]]]) -> None:
        await asyncio.gather(*(one for futures in sent.values() for one in futures), return_exceptions=True)


class _With:
    """Something with some of its methods replaced."""

    def __init__(self, plain: Any, **replaced: Any) -> None:
        self._plain = plain
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


Mutate = Callable[[pytest.MonkeyPatch], None]


def _partition(kind: type[Partition]) -> Mutate:
    return lambda patch: patch.setattr(pipeline, "Partition", kind)


def _one_id_per_process(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Member, "producer", lambda self, id_: Producer(self.link, f"{id_}.{id(self)}"))


def _forgets_what_is_done(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Commit, "metadata", property(lambda commit: ""))


def _drops_done_at_low(patch: pytest.MonkeyPatch) -> None:
    plain = OffsetTracker.commit_of

    def commit_of(self: OffsetTracker, finishing: Any) -> Commit:
        commit = plain(self, finishing)
        low = min([*(set(self.pending) - set(finishing)), *commit.done], default=commit.low)
        return Commit(min(low, commit.low), commit.done - {low})

    patch.setattr(OffsetTracker, "commit_of", commit_of)


def _keeps_what_is_reused(patch: pytest.MonkeyPatch) -> None:
    """Running work is kept though somebody else has finished it."""
    patch.setattr(OffsetTracker, "adopt", lambda self, offset: self._pending.add(offset) or True)


def _nothing(_: pytest.MonkeyPatch) -> None:
    pass


MUTATIONS: dict[str, tuple[Mutate, Faults]] = {
    "B: reads the committed offset before it initialises the producer": (_partition(ReadsBeforeFencing), ALL_FAULTS),
    "C: repeats EndTxn on the same epoch (no guard 3)": (_nothing, replace(ALL_FAULTS, ends_again_on_same_epoch=True)),
    "repeats TxnOffsetCommit on the same epoch (no guard 3)": (
        _nothing,
        replace(ALL_FAULTS, sends_offsets_again_on_same_epoch=True),
    ),
    "D: commits without the completed-set": (_forgets_what_is_done, ALL_FAULTS),
    "E: sends results that its offsets omit": (_partition(SendsMoreThanItCommits), ALL_FAULTS),
    "F: one transactional id per process": (_one_id_per_process, ALL_FAULTS),
    "H: no transactions": (_nothing, replace(ALL_FAULTS, transactions=False)),
    "I: drops a done offset at the low watermark": (_drops_done_at_low, ALL_FAULTS),
    "no gather": (_partition(DoesNotGather), ALL_FAULTS),
    "no guard 1: a failed OffsetFetch reads as nothing committed": (
        _nothing,
        replace(ALL_FAULTS, looks_up_nothing=True),
    ),
    "adopts what others have finished": (_keeps_what_is_reused, ALL_FAULTS),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_without_this_step_results_are_lost_or_doubled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, faults = MUTATIONS[name]
    mutate(monkeypatch)
    found = next((bad for seed in range(60) if sum((bad := simulate(seed, replace(faults))[:2]))), None)
    assert found is not None, "nothing was lost or doubled in 60 runs: the faults are too tame"
