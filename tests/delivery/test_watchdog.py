"""When a process is seen to stand still."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from guideway.delivery import pipeline as pipeline_module
from guideway.delivery import watchdog as watchdog_module
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.delivery.watchdog import EXIT_STALLED, Signs, Watchdog, stalled
from guideway.schemas.record import Outgoing, Record

NEVER = float("-inf")
FINE = Signs(polled_at=100, heartbeat_at=100, fetched_at=100, owing_since={})


def test_a_process_that_moves_is_left_alone() -> None:
    assert stalled(FINE, 110, 10) is None
    assert stalled(replace(FINE, owing_since={"t/0": 105.0}), 110, 10) is None
    assert stalled(replace(FINE, fetched_at=float("inf")), 105, 10) is None, "there is nothing to fetch"


@pytest.mark.parametrize(
    ("signs", "why"),
    [
        (replace(FINE, polled_at=99), "event loop"),
        (replace(FINE, heartbeat_at=NEVER), "heartbeat"),
        (replace(FINE, fetched_at=99), "fetch"),
        (replace(FINE, owing_since={"t/0": 109.0, "t/1": 99.0}), "t/1"),
    ],
)
def test_each_sign_that_stays_away_is_named(signs: Signs, why: str) -> None:
    assert why in (stalled(signs, 110, 10) or "")


def test_a_partition_that_stands_still_while_others_move_is_its_own_affair() -> None:
    late = replace(FINE, owing_since={"t/1": 0.0})
    assert stalled(replace(late, moved_at=105), 110, 10) is None
    assert "t/1" in (stalled(replace(late, moved_at=99), 110, 10) or "")


def test_a_suspended_process_gets_its_patience_anew() -> None:
    assert stalled(FINE, 500, 10, awake_since=495) is None
    assert stalled(FINE, 510, 10, awake_since=495) is not None


def test_the_thread_tells_once_and_ends() -> None:
    told: list[str] = []
    done = threading.Event()

    def end(why: str) -> None:
        told.append(why)
        done.set()

    Watchdog(lambda: replace(FINE, polled_at=NEVER), 0.0, end).start()
    assert done.wait(10)
    assert told == ["the event loop is blocked, or the group gives no assignment"]


def test_a_look_that_fails_does_not_end_the_later_ones() -> None:
    told, done, looks = [], threading.Event(), iter((False, True))

    def signs() -> Signs:
        if not next(looks):
            raise ValueError("cannot look")
        return replace(FINE, polled_at=NEVER)

    def end(why: str) -> None:
        told.append(why)
        done.set()

    Watchdog(signs, 0.0, end).start()
    assert done.wait(10)
    assert told == ["the event loop is blocked, or the group gives no assignment"]


def test_a_blocked_event_loop_ends_the_process_and_shows_where_it_stood() -> None:
    program = """
import asyncio, time
from guideway.delivery.watchdog import Signs, Watchdog
polled_at = time.monotonic()
def signs(): return Signs(polled_at, time.monotonic(), time.monotonic(), {})
def stuck_here(): time.sleep(60)
async def main():
    Watchdog(signs, 0.5).start()
    stuck_here()
asyncio.run(main())
"""
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == EXIT_STALLED
    assert "stuck_here" in ended.stderr
    assert time.monotonic() - began < 50


async def test_a_group_that_never_answers_a_new_member_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client: ...

    class Silent:
        """A consumer whose first join hangs, as after a rebalance that the coordinator has forgotten."""

        _client = Client()

        def subscribe(self, **_: object) -> None: ...

        async def start(self) -> None:
            await asyncio.Event().wait()

        async def stop(self) -> None: ...

    class NoDirectory:
        async def start(self) -> None: ...

        async def stop(self) -> None: ...

    async def nothing(_: Record) -> list[Outgoing]:
        return []

    loop, told = asyncio.get_running_loop(), asyncio.Queue[str]()
    monkeypatch.setattr(pipeline_module, "make_consumer", lambda *_, **__: Silent())
    monkeypatch.setattr(watchdog_module, "end_process", lambda why: loop.call_soon_threadsafe(told.put_nowait, why))
    pipeline = Pipeline(
        DeliverySettings(cluster=Cluster("nowhere:1"), stall_s=0.5), group="g", topics=["t"], handle=nothing
    )
    monkeypatch.setattr(pipeline, "topics", NoDirectory())
    running = asyncio.create_task(pipeline.run())
    try:
        async with asyncio.timeout(30):
            assert "the group gives no assignment" in await told.get()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
