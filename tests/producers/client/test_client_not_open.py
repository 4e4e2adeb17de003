"""A client that nobody has entered says so: no broker is to be started for it, and nobody waits for ever."""

from __future__ import annotations

import pytest

from guideway.producers.client.blocking_client import BlockingClient
from guideway.producers.client.client import Client
from guideway.schemas.failures import FailureCode, Refusal


async def test_a_client_that_nobody_entered_says_so() -> None:
    with pytest.raises(Refusal, match="the client is not open") as refused:
        await Client("127.0.0.1:1").submit("/team/task", "Hello")
    assert refused.value.code is FailureCode.INVALID_SETTING
    assert "async with Client" in refused.value.message
    with pytest.raises(Refusal, match="not open"):
        await Client("127.0.0.1:1").cancel("/team/task", "order-17")


def test_a_blocking_client_that_nobody_entered_says_so() -> None:
    client = BlockingClient("127.0.0.1:1")
    with pytest.raises(Refusal, match=r"not open.*`with BlockingClient"):
        client.submit("/team/task", "Hello")
    with pytest.raises(Refusal, match="not open"):
        next(client.submit_all("/team/task", ["Hello"]))


def test_a_blocking_client_that_found_no_broker_is_not_open() -> None:
    client = BlockingClient("127.0.0.1:1")
    with pytest.raises(Refusal, match="no answer from the brokers"):
        client.__enter__()
    with pytest.raises(Refusal, match="not open"):
        client.submit("/team/task", "Hello")
