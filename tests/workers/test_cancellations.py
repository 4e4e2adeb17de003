"""A wire cancellation ends what it names and nothing else, and is told apart from a cancelled task. Without Kafka."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from structlog.testing import capture_logs

from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.request import Request
from guideway.schemas.services.cancellation import HELD_S, Cancellation
from guideway.schemas.wire import CANCELLATION
from guideway.workers.cancellations import CancellationFollower, Cancellations

MakeRequest = Callable[..., Request]
NOW = 1_000_000.0
OURS = Cancellation(id="r", namespace="team", endpoint="task")


async def work(cancellations: Cancellations, request: Request, release: asyncio.Event, now: float = NOW) -> str:
    async with cancellations.heeded(request, now=now):
        await release.wait()
        return "done"


async def begun(cancellations: Cancellations, request: Request) -> tuple[asyncio.Task[str], asyncio.Event]:
    release = asyncio.Event()
    task = asyncio.create_task(work(cancellations, request, release))
    await asyncio.sleep(0)
    return task, release


async def test_before_it_begins(make_request: MakeRequest) -> None:
    cancellations = Cancellations()
    cancellations.cancel(OURS, at_s=NOW, now=NOW)
    for _ in range(2):
        with pytest.raises(Refusal, match="cancelled by its caller") as caught:
            await work(cancellations, make_request(), asyncio.Event())
        assert caught.value.code is FailureCode.CANCELLED


async def test_while_it_runs_all_records_of_that_id_end(make_request: MakeRequest) -> None:
    cancellations = Cancellations()
    tasks = [(await begun(cancellations, make_request()))[0] for _ in range(2)]
    for _ in range(3):
        cancellations.cancel(OURS, at_s=NOW, now=NOW)
    for task in tasks:
        with pytest.raises(Refusal):
            await task
    assert not cancellations._running


async def test_after_the_end_it_changes_nothing(make_request: MakeRequest) -> None:
    cancellations = Cancellations()
    task, release = await begun(cancellations, make_request())
    release.set()
    assert await task == "done"
    assert not cancellations._running
    cancellations.cancel(OURS, at_s=NOW, now=NOW)
    await asyncio.sleep(0)
    assert task.result() == "done"


@pytest.mark.parametrize(
    "other",
    [
        Cancellation(id="r2", namespace="team", endpoint="task"),
        Cancellation(id="r", namespace="other", endpoint="task"),
        Cancellation(id="r", namespace="team", endpoint="other"),
    ],
    ids=["id", "namespace", "endpoint"],
)
async def test_one_that_names_another_request_has_no_effect(make_request: MakeRequest, other: Cancellation) -> None:
    cancellations = Cancellations()
    task, release = await begun(cancellations, make_request())
    cancellations.cancel(other, at_s=NOW, now=NOW)
    release.set()
    assert await task == "done"


@pytest.mark.parametrize("by_wire_as_well", [False, True])
async def test_a_task_that_its_owner_cancels_stays_cancelled(make_request: MakeRequest, by_wire_as_well: bool) -> None:
    """A partition that is taken away must not leave a reply behind, whatever else happens in that moment."""
    cancellations = Cancellations()
    task, _ = await begun(cancellations, make_request())
    if by_wire_as_well:
        cancellations.cancel(OURS, at_s=NOW, now=NOW)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert not cancellations._running


async def test_a_time_out_of_the_work_itself_passes_through(make_request: MakeRequest) -> None:
    cancellations = Cancellations()
    with pytest.raises(TimeoutError):
        async with cancellations.heeded(make_request(), now=NOW):
            raise TimeoutError


async def test_a_deadline_in_the_same_moment_gives_one_answer(make_request: MakeRequest) -> None:
    cancellations = Cancellations()

    async def both() -> None:
        async with cancellations.heeded(make_request(), now=NOW):
            try:
                async with asyncio.timeout(0):
                    cancellations.cancel(OURS, at_s=NOW, now=NOW)
                    await asyncio.Event().wait()
            except TimeoutError:
                raise Refusal(FailureCode.DEADLINE_EXCEEDED, "late") from None

    task = asyncio.create_task(both())
    with pytest.raises(Refusal) as caught:
        await task
    assert caught.value.code in {FailureCode.DEADLINE_EXCEEDED, FailureCode.CANCELLED}
    assert not task.cancelling()


async def test_it_holds_for_its_time_and_no_longer(make_request: MakeRequest) -> None:
    cancellations, release = Cancellations(), asyncio.Event()
    release.set()
    cancellations.cancel(OURS, at_s=NOW + 9_999, now=NOW)  # by a clock that is ahead
    with pytest.raises(Refusal):
        await work(cancellations, make_request(), release, now=NOW + HELD_S - 1)
    assert await work(cancellations, make_request(), release, now=NOW + HELD_S) == "done"
    cancellations.cancel(OURS, at_s=NOW, now=NOW + HELD_S)
    assert await work(cancellations, make_request(), release, now=NOW + HELD_S) == "done"


async def test_their_number_is_bounded_and_the_oldest_goes_first(make_request: MakeRequest) -> None:
    cancellations, release = Cancellations(limit=2), asyncio.Event()
    release.set()
    for number in range(3):
        cancellations.cancel(Cancellation(id=str(number), namespace="team", endpoint="task"), at_s=NOW, now=NOW)
    assert await work(cancellations, make_request(id="0"), release) == "done"
    for held in ("1", "2"):
        with pytest.raises(Refusal):
            await work(cancellations, make_request(id=held), release)
    assert cancellations.held.pushed_out == 1


async def test_a_flood_pushes_out_its_own_and_not_what_others_have_cancelled(make_request: MakeRequest) -> None:
    cancellations = Cancellations(limit=1_000)
    cancellations.cancel(OURS, at_s=NOW, now=NOW)
    for number in range(5_000):
        flood = Cancellation(id=str(number), namespace="other", endpoint="task")
        cancellations.cancel(flood, at_s=NOW, now=NOW)
    with pytest.raises(Refusal):
        await work(cancellations, make_request(), asyncio.Event())
    assert len(cancellations.held) == 1_000
    assert cancellations.held.pushed_out == 4_001


def topic(*values: tuple[bytes | None, int]) -> list[Any]:
    """Records with these values, published at these times (Unix, milliseconds)."""
    return [
        ConsumerRecord("t", 0, offset, timestamp, 0, None, value, None, 0, 0, ())
        for offset, (value, timestamp) in enumerate(values)
    ]


async def test_whatever_stands_in_the_topic_is_passed_over_and_what_follows_is_heard(
    make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancellations = Cancellations()
    reader = CancellationFollower(Cluster("nowhere"), "small", cancellations)
    now_ms = time.time_ns() // 1_000_000
    absurd = [None, b"", b"\xff", b"[" * 100_000, b"9" * 5_000, b'{"id": 1}', b"null"]
    records = topic(*[(value, now_ms) for value in absurd], (CANCELLATION.encode(OURS), now_ms))

    def fails(self: Cancellations, *_: Any, **__: Any) -> None:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(Cancellations, "cancel", fails)
        reader._take(records)
        assert (reader.passed_over, len(logs)) == (len(absurd) + 1, len(absurd) + 1)
    with capture_logs():
        reader._take(records)
    assert reader.passed_over == 2 * len(absurd) + 1
    with pytest.raises(Refusal):
        await work(cancellations, make_request(), asyncio.Event(), now=now_ms / 1000)
