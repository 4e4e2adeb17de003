"""What is said where the brokers do not do what was asked."""

from __future__ import annotations

import pytest
from aiokafka import errors

from guideway.delivery.clients.kafka_client import unreachable


def test_brokers_that_were_reached_and_are_slow_are_not_to_be_started() -> None:
    message = unreachable("a:1", TimeoutError(), connected=True).message
    assert "were reached, but did not answer in time" in message
    assert "start them" not in message
    assert "start them" in unreachable("a:1", errors.KafkaConnectionError(), connected=True).message


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.KafkaConnectionError(), "no answer from the brokers at a:1 (KafkaConnectionError): start them"),
        (errors.RequestTimedOutError(), "no answer from the brokers at a:1 (RequestTimedOutError): start them"),
        (TimeoutError(), "no answer from the brokers at a:1 (TimeoutError): start them"),
        (
            errors.TopicAuthorizationFailedError(),
            "refuse what was asked (TopicAuthorizationFailedError): give this user",
        ),
        (errors.InvalidTopicError(), "refuse what was asked (InvalidTopicError): look at their log"),
    ],
)
def test_brokers_that_answer_are_not_to_be_started(error: Exception, says: str) -> None:
    assert says in unreachable("a:1", error).message
