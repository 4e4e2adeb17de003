"""What follows a failure."""

from __future__ import annotations

import pytest
from aiokafka import errors

from guideway.delivery.connection.trouble import Cause, Trouble
from guideway.delivery.guards.transaction_guards import OutcomeUnknown, TopicsRefused
from guideway.delivery.offsets.commit_metadata import UnreadableCommitMetadata
from guideway.delivery.recovery import Rejoin, Reopen, after_failure


def test_who_is_fenced_asks_the_group() -> None:
    assert after_failure(errors.ProducerFenced(), 1, 10) == Rejoin()


@pytest.mark.parametrize(
    "error", [OutcomeUnknown(), TopicsRefused({"t"}), errors.KafkaConnectionError(), TimeoutError(), OSError()]
)
def test_everything_else_reopens(error: Exception) -> None:
    assert after_failure(error, 1, 10) == Reopen(0.1, expected=True)


def test_a_fault_of_ours_is_told_apart() -> None:
    assert after_failure(KeyError("x"), 1, 10) == Reopen(0.1, expected=False)


def test_pauses_grow_to_a_bound_however_long_it_takes() -> None:
    waits = [after_failure(TimeoutError(), failures, 10) for failures in (1, 2, 3, 8, 5_000)]
    assert waits == [Reopen(wait_s, expected=True) for wait_s in (0.1, 0.2, 0.4, 10, 10)]


def test_metadata_that_cannot_be_read_waits_for_a_person() -> None:
    decision = after_failure(UnreadableCommitMetadata(), 1, 10)
    assert decision == Reopen(10, expected=True, helps=False), "to start the process anew would change nothing"


def test_who_is_not_let_in_waits_for_a_person() -> None:
    away = errors.NodeNotReadyError()
    away.__cause__ = Trouble(Cause("the password is wrong"))
    for error in (away, away.__cause__):
        assert after_failure(error, 1, 10) == Reopen(10, expected=True, helps=False)


@pytest.mark.parametrize(
    "error",
    [
        errors.TransactionalIdAuthorizationFailed(),
        errors.GroupAuthorizationFailedError(),
        errors.ClusterAuthorizationFailedError(),
    ],
)
def test_what_the_brokers_do_not_allow_waits_for_a_person_too(error: Exception) -> None:
    assert after_failure(error, 1, 10) == Reopen(10, expected=True, helps=False)
