"""Calls of a door on a real broker: published, answered, found again at another gateway, each key once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.conftest import ONE_OF_KINDS
from tests.producers.gateway.answering import answering, make_call_topics
from tests.producers.gateway.kills import run

from guideway.infra.local_broker import RunningBroker
from guideway.producers.gateway.call import Call, new_id
from guideway.producers.gateway.calls import Calls
from guideway.producers.gateway.room import Room
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Completed, Failed

ROOM = Room(most=1000, most_of_one=1000, most_bytes=2**30, most_bytes_of_one=2**30)


def asked(namespace: str, text: str, **more: object) -> Call:
    made = {"namespace": namespace, "address": "/shop/mood", "content": text.encode(), "content_type": "text/plain"}
    return Call(**made | more)  # type: ignore[arg-type]


async def refused(work: Awaitable[object]) -> DoorRefusal:
    with pytest.raises(DoorRefusal) as raised:
        await work
    return raised.value


async def test_two_gateways_and_many_calls(broker: RunningBroker, unique_name: str) -> None:
    ns, other = unique_name, f"{unique_name}-b"
    await make_call_topics(broker.cluster, ns, other)
    async with (
        answering(broker.cluster, [ns, other]) as services,
        Calls(broker.cluster, ROOM) as one,
        Calls(broker.cluster, ROOM) as two,
    ):
        replies = await asyncio.gather(
            *[(await one.begin(asked(ns, f"text {number}"))).reply() for number in range(20)]
        )
        assert [reply.value for reply in replies] == [f"text {number}" for number in range(20)]
        assert one.waiting == 0

        failure = await (await one.begin(asked(ns, "fail quota_exceeded", address=None))).reply()
        assert isinstance(failure, Failed)
        assert failure.code is FailureCode.QUOTA_EXCEEDED

        # Kept: any gateway finds it, nobody else's namespace does.
        pending = await one.begin(asked(ns, "hold", keep=True))
        found = await two.find(ns, pending.id)
        assert not found.done
        assert (await refused(two.find(other, pending.id))).code is DoorCode.UNKNOWN_REQUEST
        assert (await refused(two.find(ns, new_id(10**12)))).code is DoorCode.REQUEST_GONE
        services.release()
        assert [(await each.reply()).id for each in (pending, found)] == [pending.id] * 2
        again = await two.find(ns, pending.id)
        assert again.done
        two._reading._lookups._recent.clear()
        assert isinstance(await again.reply(), Completed)

        # One key: one event, whichever gateway is asked, at whatever time.
        same = [gateway.begin(asked(ns, "once", idempotency_key="k")) for gateway in (one, two) * 5]
        began = await asyncio.gather(*same)
        assert len({each.id for each in began}) == 1
        assert {(await each.reply()).value for each in began} == {"once"}
        assert services.times[began[0].id] == 1
        assert (await (await two.begin(asked(ns, "once", idempotency_key="k"))).reply()).value == "once"
        other_body = await refused(two.begin(asked(ns, "twice", idempotency_key="k")))
        assert other_body.code is DoorCode.IDEMPOTENCY_KEY_REUSED
        assert services.times[began[0].id] == 1

        # A failure after which it may be tried again is no answer yet.
        for _ in range(2):
            tried = await one.begin(asked(ns, "fail broker_unreachable", idempotency_key="again"))
            assert isinstance(await tried.reply(), Failed)
        assert services.times[tried.id] == 2


async def test_a_namespace_without_topics_is_refused(broker: RunningBroker, unique_name: str) -> None:
    async with Calls(broker.cluster, ROOM) as calls:
        with pytest.raises(Refusal) as raised:
            await calls.begin(asked(unique_name, "x"))
        assert raised.value.code is FailureCode.INVALID_SETTING
        await make_call_topics(broker.cluster, unique_name)
        async with answering(broker.cluster, [unique_name]):
            async with asyncio.timeout(30):
                while True:
                    try:
                        pending = await calls.begin(asked(unique_name, "made since"))
                    except Refusal:
                        await asyncio.sleep(0.1)
                        continue
                    assert (await pending.reply()).value == "made since"
                    break


@pytest.mark.broker
@pytest.mark.parametrize("kind", ONE_OF_KINDS)
async def test_a_gateway_that_is_killed_loses_no_request_that_it_had_accepted(
    kind: str, broker_of_kind: Callable[[str], RunningBroker], unique_name: str
) -> None:
    """A smaller `make doors-faults`."""
    outcome = await run(broker_of_kind(kind).cluster, unique_name, requests=60, kills=1)
    assert outcome.wrong == []
    assert outcome.kills == 1
    # At most those that were between event and note when their gateway was killed.
    assert outcome.published_twice <= 16
