"""Both hops on a real broker, with an engine process that has no model: cancellation, poison, repeats."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.workers.end_to_end import EndToEnd, end_to_end_of, manifests, until

from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.producers.client.client import Client
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.topics import cancellation_topic, dead_letter_topic, event_topic, request_topic
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Failed
from guideway.schemas.services.cancellation import Cancellation
from guideway.schemas.wire import CANCELLATION, REQUEST
from guideway.workers.cancellations import CancellationFollower, Cancellations


async def test_cancelled_before_any_worker_is_there_it_never_reaches_an_engine(system: EndToEnd) -> None:
    unwanted = system.submit("anything", "unwanted")
    wanted = system.submit("anything", "wanted")
    await system.client.cancel(system.address, "unwanted")
    await system.client.cancel(system.address, "no-such-request")

    async def both_are_published() -> bool:
        return len(await system.cancellations()) == 2

    await until(both_are_published)
    first, _ = await system.cancellations()
    assert CANCELLATION.decode(first.value) == Cancellation(id="unwanted", namespace=system.name, endpoint="task")
    async with system.worker():
        refused = await unwanted
        assert isinstance(refused, Failed)
        assert (refused.code, refused.retryable, refused.id) == (FailureCode.CANCELLED, False, "unwanted")
        assert "cancelled by its caller" in refused.message
        assert isinstance(await wanted, Completed)
        told = await system.submit("what was there?", "asking")
        assert isinstance(told, Completed)
        assert told.value == "admitted wanted, cancelled "
    assert Counter(reply.id for reply in await system.replies()) == {"unwanted": 1, "wanted": 1, "asking": 1}


async def test_cancelled_while_it_runs_the_engine_is_told_and_one_reply_goes_out(system: EndToEnd) -> None:
    async with system.worker() as worker:
        long = system.submit("wait", "long")
        neighbour = system.submit("wait", "neighbour")

        async def both_run() -> bool:
            return len(worker._cancellations._running) == 2

        await until(both_run)
        for _ in range(2):
            await system.client.cancel(system.address, "long")
        refused = await long
        assert isinstance(refused, Failed)
        assert refused.code is FailureCode.CANCELLED
        told = await system.submit("what was there?", "asking")
        assert isinstance(told, Completed)
        assert told.value.endswith("cancelled long")
        assert isinstance(await neighbour, Completed), "it was in the same micro-batch"
    assert Counter(reply.id for reply in await system.replies()) == {"long": 1, "neighbour": 1, "asking": 1}


async def test_a_worker_whose_task_is_cancelled_leaves_no_reply(system: EndToEnd) -> None:
    async with system.worker(cancelled=True) as worker:
        waiting = asyncio.ensure_future(system.submit("wait", "waiting"))

        async def runs() -> bool:
            return len(worker._cancellations._running) == 1

        await until(runs)
    assert await system.replies() == [], "another worker is to answer it"
    waiting.cancel()


async def test_a_worker_that_gives_its_work_up_leaves_no_reply_and_the_next_heeds_the_cancellation(
    system: EndToEnd,
) -> None:
    async with system.worker(drain_timeout_s=0.1) as worker:
        long = system.submit("wait", "long")

        async def runs() -> bool:
            return len(worker._cancellations._running) == 1

        await until(runs)
    assert await system.replies() == [], "its task was cancelled, not its request"
    await system.client.cancel(system.address, "long")

    async def is_published() -> bool:
        return len(await system.cancellations()) == 1

    await until(is_published)
    async with system.worker():
        refused = await long
        assert isinstance(refused, Failed)
        assert refused.code is FailureCode.CANCELLED
        told = await system.submit("what was there?", "asking")
        assert isinstance(told, Completed)
        assert told.value == "admitted , cancelled "
    assert Counter(reply.id for reply in await system.replies()) == {"long": 1, "asking": 1}


async def test_cancelled_after_its_end_it_keeps_its_result(system: EndToEnd) -> None:
    async with system.worker() as worker:
        done = await system.submit("quick", "done")
        await system.client.cancel(system.address, "done")

        async def heard() -> bool:
            return len(worker._cancellations.held) == 1

        await until(heard)
        assert isinstance(await system.submit("next", "next"), Completed)
        again = await system.submit("quick", "done")
        assert isinstance(again, Failed)
        assert again.code is FailureCode.CANCELLED, "the id stays cancelled"
    replies = await system.replies()
    assert replies[0] == done
    assert Counter(reply.id for reply in replies) == {"done": 2, "next": 1}


async def test_a_tombstone_without_a_usable_header_is_answered(system: EndToEnd) -> None:
    writer = make_producer(system.cluster, "test")
    async with started(writer, system.cluster) as producer:
        for headers in ([], [("cancel", b"\xff")]):
            await producer.send_and_wait(event_topic(system.name, "task"), None, key=b"k", headers=headers)

    async def answered() -> bool:
        return len(await system.replies()) == 2

    await until(answered)
    codes = [reply.code if isinstance(reply, Failed) else None for reply in await system.replies()]
    assert codes == [FailureCode.UNDECODABLE_EVENT] * 2
    assert await system.cancellations() == []


async def test_without_the_control_topic_work_goes_on_and_a_tombstone_is_told(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    missing = cancellation_topic(unique_name)
    async with (
        end_to_end_of(broker.cluster, unique_name, tmp_path, without=(missing,)) as system,
        system.worker(),
    ):
        assert isinstance(await system.submit("hello", "a"), Completed)
        await system.client.cancel(system.address, "a")

        async def answered() -> bool:
            return len(await system.replies()) == 2

        await until(answered)
        _, told = await system.replies()
        assert isinstance(told, Failed)
        assert (told.code, told.id != "a") == (FailureCode.UNKNOWN_MODEL_SIZE, True)
        assert "guideway topics apply" in told.message


async def test_a_control_topic_that_comes_later_is_found(broker: RunningBroker, unique_name: str) -> None:
    cancellations = Cancellations()
    wanted = [one for one in topics.wanted(manifests(unique_name)) if one.name == cancellation_topic(unique_name)]
    message = Cancellation(id="a", namespace="team", endpoint="task")
    with capture_logs() as logs:
        reader = CancellationFollower(broker.cluster, unique_name, cancellations, look_again_s=0.01)
        async with reader:
            searches = 0
            plain = reader._topic._reader.find

            async def counted() -> bool:
                nonlocal searches
                searches += 1
                return await plain()

            reader._topic._reader.find = counted  # type: ignore[method-assign]

            async def searched() -> bool:
                return searches > 2

            await until(searched)
    assert [entry["event"].partition(":")[0] for entry in logs if entry["log_level"] == "warning"] == [
        "there is no topic for cancellations, so none is heeded"
    ]
    async with CancellationFollower(broker.cluster, unique_name, cancellations, look_again_s=0.2):
        await make_topics(broker.cluster, wanted)
        async with started(make_producer(broker.cluster, "test"), broker.cluster) as producer:
            await producer.send_and_wait(wanted[0].name, b"of a later version")
            await producer.send_and_wait(wanted[0].name, CANCELLATION.encode(message))

        async def heard() -> bool:
            return len(cancellations.held) == 1

        await until(heard)
    known = Cancellations()
    async with CancellationFollower(broker.cluster, unique_name, known):
        assert len(known.held) == 1, "on entry"


async def test_poison_is_answered_and_kept(system: EndToEnd) -> None:
    async with system.worker():
        reply = await system.submit("die", "poison")
        assert isinstance(reply, Failed)
        assert (reply.code, reply.retryable) == (FailureCode.ENGINE_FAILED, False)
        assert isinstance(await system.submit("hello", "next"), Completed)
    (letter,) = await system.records(dead_letter_topic(request_topic(system.name, "interactive")))
    assert REQUEST.decode(letter.value).id == "poison"
    assert letter.header("guideway_dlq_code") == b"engine_failed"
    assert b"3 times" in (letter.header("guideway_dlq_message") or b"")
    assert Counter(one.id for one in await system.replies()) == {"poison": 1, "next": 1}


# The same id again --------------------------------------------------------------------------------------------------


async def test_after_a_time_out_the_first_reply_for_the_id_answers_whichever_event_it_is_to(
    system: EndToEnd,
) -> None:
    again = {"request_id": "again", "key": b"one partition"}
    with pytest.raises(TimeoutError):
        await system.client.submit(system.address, "first", timeout_s=0.1, **again)  # type: ignore[arg-type]
    async with Client(system.cluster) as elsewhere:
        both = [
            asyncio.create_task(client.submit(system.address, text, timeout_s=60, **again))  # type: ignore[arg-type]
            for client, text in ((system.client, "second"), (system.client, "third"), (elsewhere, "fourth"))
        ]

        async def all_wait() -> bool:
            held = [
                await system.records(request_topic(system.name, "interactive")),
                await second_partition(system),
            ]
            return sum(len(records) for records in held) == 4

        await until(all_wait)
        async with system.worker():
            replies = await asyncio.gather(*both)
            assert [reply.value for reply in replies if isinstance(reply, Completed)] == ["first"] * 3

            async def all_answered() -> bool:
                return len(await system.replies()) == 4

            await until(all_answered)
            later = await system.client.submit(system.address, "fifth", timeout_s=60, **again)  # type: ignore[arg-type]
            assert isinstance(later, Completed)
            assert later.value == "fifth", "not one of the repeats"


async def second_partition(system: EndToEnd) -> list[Record]:
    return await system.records(request_topic(system.name, "interactive"), 1)


async def test_a_stream_of_replies_has_each_id_once(system: EndToEnd) -> None:
    writer = make_producer(system.cluster, "test")
    topic = event_topic(system.name, "task")
    async with (
        system.client.replies(system.address) as stream,
        started(writer, system.cluster) as producer,
        system.worker(),
    ):
        for text, id_ in [(b"one", b"a"), (b"two", b"a"), (b"three", b"b")]:
            await producer.send_and_wait(topic, text, headers=[("request_id", id_), ("content-type", b"text/plain")])
            if text == b"one":
                first = await asyncio.wait_for(anext(stream), 60)
        second = await asyncio.wait_for(anext(stream), 60)
        assert [(reply.id, reply.value) for reply in (first, second) if isinstance(reply, Completed)] == [
            ("a", "one"),
            ("b", "three"),
        ]

        async def all_answered() -> bool:
            return len(await system.replies()) == 3

        await until(all_answered)
    async with system.client.replies(system.address, from_beginning=True) as stream:
        assert [(await anext(stream)).id, (await anext(stream)).id] == ["a", "b"]


async def test_replies_of_no_endpoint_are_refused(system: EndToEnd) -> None:
    with pytest.raises(Refusal) as caught:
        async with system.client.replies(f"/{system.name}/nothing"):
            pass
    assert caught.value.code is FailureCode.UNKNOWN_ENDPOINT
    for cancelling, code in [
        (system.client.cancel(f"/{system.name}/nothing", "a"), FailureCode.UNKNOWN_ENDPOINT),
        (system.client.cancel(system.address, "a\nb"), FailureCode.INVALID_HEADER),
        (system.client.cancel(system.address, ""), FailureCode.INVALID_HEADER),
    ]:
        with pytest.raises(Refusal) as caught:
            await cancelling
        assert caught.value.code is code
