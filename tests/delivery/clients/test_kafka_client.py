"""What is said where the brokers do not do what was asked."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import errors

from guideway.delivery.clients.kafka_client import make_consumer, started, stop_all, unreachable
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.local_broker import RunningBroker


def test_brokers_that_were_reached_and_are_slow_are_not_to_be_started() -> None:
    message = unreachable(Cluster("a:1"), TimeoutError(), connected=True).message
    assert "were reached, but did not answer in time" in message
    assert "start them" not in message
    assert "start them" in unreachable(Cluster("a:1"), errors.KafkaConnectionError(), connected=True).message


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.KafkaConnectionError(), "no answer from the brokers at a:1 (KafkaConnectionError): start them"),
        (errors.RequestTimedOutError(), "no answer from the brokers at a:1 (RequestTimedOutError): start them"),
        (TimeoutError(), "no answer from the brokers at a:1 (TimeoutError): start them"),
        (errors.TopicAuthorizationFailedError("gw.a.in"), "does not allow this user what it asks of topic gw.a.in: "),
        (errors.InvalidTopicError(), "refuse what was asked (InvalidTopicError): look at their log"),
    ],
)
def test_brokers_that_answer_are_not_to_be_started(error: Exception, says: str) -> None:
    assert says in unreachable(Cluster("a:1"), error).message


async def test_a_client_whose_start_is_cancelled_is_stopped() -> None:
    """What it has begun would go on for as long as the process lives."""
    done = []

    class Slow:
        async def start(self) -> None:
            done.append("start")
            await asyncio.sleep(60)

        async def stop(self) -> None:
            done.append("stop")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), started(Slow(), Cluster("a:1")):
            pass
    assert done == ["start", "stop"]


@pytest.mark.parametrize("turns", range(4))
async def test_who_is_cancelled_while_clients_stop_hears_of_it_when_all_are_stopped(turns: int) -> None:
    """Else those that come after the first would keep their connections."""
    done = []

    class Slow:
        def __init__(self, fails: bool) -> None:
            self._fails = fails

        async def stop(self) -> None:
            await asyncio.sleep(0.05)
            done.append("stop")
            if self._fails:
                raise errors.KafkaError

    stopping = asyncio.create_task(stop_all(Slow(True), None, Slow(False)))
    for _ in range(turns + 1):
        await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert done == ["stop"] * 2
    await stop_all(None)


async def test_a_consumer_for_which_there_is_nothing_to_do_is_stopped(broker: RunningBroker) -> None:
    """A replay of no dead letters had a stack trace for an answer."""
    async with started(make_consumer(broker.cluster, "test"), broker.cluster):
        pass
