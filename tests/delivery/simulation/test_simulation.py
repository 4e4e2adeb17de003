"""The real pipeline on a simulated Kafka with faults: once each, whatever happens, and red without each of its steps.

Every mutation takes away one thing that the guarantee rests on. If one stays green, the faults here are too tame.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs
from tests.delivery.simulation.mutations import MUTATIONS
from tests.delivery.simulation.simulated_kafka import INPUT, OUTPUT, Broker, Faults, Group, Member, Topics, VirtualTime

from guideway.delivery import pipeline
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.offsets.crash_history import FATAL
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.record import Outgoing, Record

T = TypeVar("T")
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
    deadly: bytes | None = None
    """The record that kills every process that works on it."""
    killed: Callable[[Process], None] = lambda process: None
    long: bytes | None = None
    """The record that takes until `done`."""
    rests: bool = False
    """Whether the deadly and the long record wait for room, as a call for its lane, before they are worked on."""
    done: asyncio.Event = field(default_factory=asyncio.Event)
    member: Member | None = None

    async def run(self) -> None:
        PROCESS.set(self)
        settings = DeliverySettings(
            cluster=Cluster("simulated"), capacity=12, partition_capacity=40, max_metadata_chars=120
        )
        self.pipeline = Pipeline(settings, group="g", topics=[INPUT], handle=self.handle)
        await self.pipeline.run()

    async def handle(self, record: Record) -> list[Outgoing]:
        value = record.value or b""
        self.worked.append(value)
        if value in (self.deadly, self.long):
            if self.rests:
                async with self.pipeline.assigned.resting(record):
                    await (self.done.wait() if value == self.long else asyncio.sleep(1))
            elif value == self.long:
                await self.done.wait()
        if value == self.deadly:
            self.killed(self)
            await asyncio.Event().wait()
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
    return in_virtual_time(_scenario(broker))


def in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    """Run until it is done, then end whatever it has started."""
    loop = VirtualTime()
    try:
        with capture_logs():
            return loop.run_until_complete(work)
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


ALL_FAULTS = Faults(lost_end=0.1, doubled_end=0.1, late_offsets=0.1, refused_record=0.01, lost_commit_lookup=0.1)


def test_once_each_whatever_happens() -> None:
    again = 0
    for seed in range(SEEDS):
        lost, doubled, worked_twice = simulate(seed, replace(ALL_FAULTS))
        assert (lost, doubled) == (0, 0), f"seed {seed}"
        again += worked_twice
    assert again, "no record was worked on twice: the faults were too tame to prove anything"


async def _deadly_scenario(broker: Broker, *, rests: bool) -> tuple[int, int]:
    """(deaths of processes, how often the deadly record was begun) until everything is answered."""
    group, worked = Group(broker), list[bytes]()
    tasks = [asyncio.create_task(group.run())]
    deaths = 0

    def killed(process: Process) -> None:
        nonlocal deaths
        deaths += 1
        process.kill()
        start()

    def start() -> None:
        process = Process(0, broker, group, worked, deadly=b"1:30", killed=killed, rests=rests)
        tasks.append(asyncio.get_running_loop().create_task(process.run()))

    for _ in range(3):
        start()
    while not broker.finished() and asyncio.get_running_loop().time() < 3_000:
        await asyncio.sleep(1)
    return deaths, worked.count(b"1:30")


@pytest.mark.parametrize("rests", [False, True], ids=["at once", "after a rest"])
@pytest.mark.parametrize("seed", range(8))
def test_a_record_that_kills_every_process_is_refused_and_all_others_are_answered(seed: int, *, rests: bool) -> None:
    broker = Broker(4, 70, random.Random(seed), Faults())
    deaths, begun = in_virtual_time(_deadly_scenario(broker, rests=rests))
    results = broker.results()
    assert broker.finished(), "what others sent is answered"
    assert set(results.values()) == {1}
    assert ("in.dlq", b"1:30") in broker.visible, "the deadly one as a dead letter"
    assert deaths <= 12, "a bounded number of processes died of it"
    # While it rests, its partition may be handed over.
    assert begun == deaths or (rests and begun > deaths)


HANDOVERS = 100


async def _slow_handovers(broker: Broker) -> int:
    """How often a record that takes longer than all this was begun, while partitions are handed over in haste."""
    group, worked = Group(broker), list[bytes]()
    tasks = [asyncio.create_task(group.run())]
    done = asyncio.Event()
    processes = [Process(number, broker, group, worked, long=b"1:30", done=done) for number in range(3)]
    for process in processes:
        tasks.append(asyncio.create_task(process.run()))
    for number in range(HANDOVERS):
        await asyncio.sleep(25)
        group.wanted = True
        if number % 10 == 9 and (member := processes[number % 3].member) is not None:
            # Expelled, and back again.
            member.link.cut_until = asyncio.get_running_loop().time() + 20
    await asyncio.sleep(60)
    done.set()
    while not broker.finished() and asyncio.get_running_loop().time() < 10_000:
        await asyncio.sleep(1)
    return worked.count(b"1:30")


@pytest.mark.parametrize("seed", range(2))
def test_an_innocent_record_is_not_refused_for_slow_handovers(seed: int) -> None:
    broker = Broker(4, 70, random.Random(seed), Faults(slow_handover_s=4.0))
    begun = in_virtual_time(_slow_handovers(broker))
    assert begun > HANDOVERS / 3, "it went from owner to owner"
    assert broker.finished()
    assert {topic for topic, _ in broker.visible} == {OUTPUT}, "nobody died of it"


KILLS = 20


async def _kills_beside_a_rest(broker: Broker) -> int:
    """How often a record that only waits for room was begun, while processes die of something else."""
    group, worked = Group(broker), list[bytes]()
    tasks = [asyncio.create_task(group.run())]
    done, processes = asyncio.Event(), list[Process]()

    def start() -> None:
        processes.append(Process(len(processes), broker, group, worked, long=b"1:30", done=done, rests=True))
        tasks.append(asyncio.get_running_loop().create_task(processes[-1].run()))

    for _ in range(3):
        start()
    for _ in range(KILLS):
        await asyncio.sleep(25)
        # Whoever has the record, too.
        for process in processes[-3:]:
            process.kill()
            start()
    await asyncio.sleep(60)
    done.set()
    while not broker.finished() and asyncio.get_running_loop().time() < 10_000:
        await asyncio.sleep(1)
    return worked.count(b"1:30")


@pytest.mark.parametrize("seed", range(4))
def test_a_record_that_waits_for_room_is_not_refused_for_deaths_of_something_else(seed: int) -> None:
    broker = Broker(4, 70, random.Random(seed), Faults())
    begun = in_virtual_time(_kills_beside_a_rest(broker))
    assert begun > FATAL, "it was begun anew after each death"
    assert broker.finished()
    assert {topic for topic, _ in broker.visible} == {OUTPUT}, "nobody died of it"


# Mutations -----------------------------------------------------------------------------------------------------------

IN_THE_SIMULATION: dict[str, tuple[str, Faults]] = {
    # What the client library does wrong without its guard, and how the simulated one does it.
    "C: repeats EndTxn on the same epoch (no guard 3, no new epochs)": (
        "",
        replace(ALL_FAULTS, doubled_end=0, ends_again_on_same_epoch=True, renews=False),
    ),
    "C: repeats TxnOffsetCommit on the same epoch (no guard 3, no new epochs)": (
        "",
        replace(ALL_FAULTS, doubled_end=0, sends_offsets_again_on_same_epoch=True, renews=False),
    ),
    "one epoch for many transactions": ("", replace(ALL_FAULTS, renews=False)),
    "F: one transactional id per process": ("", replace(ALL_FAULTS, one_id_per_process=True)),
    "H: no transactions": ("", replace(ALL_FAULTS, transactions=False)),
    "no guard 1: a failed OffsetFetch reads as nothing committed": ("", replace(ALL_FAULTS, looks_up_nothing=True)),
    **{
        name: (name, ALL_FAULTS)
        for name in MUTATIONS
        if name[:2] in {"B:", "D:", "E:", "I:"} or name.startswith(("no gather", "adopts"))
    },
}


@pytest.mark.parametrize("name", IN_THE_SIMULATION)
def test_without_this_step_results_are_lost_or_doubled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation, faults = IN_THE_SIMULATION[name]
    if mutation:
        MUTATIONS[mutation](monkeypatch.setattr)
    found = next((bad for seed in range(60) if sum((bad := simulate(seed, replace(faults))[:2]))), None)
    assert found is not None, "nothing was lost or doubled in 60 runs: the faults are too tame"
