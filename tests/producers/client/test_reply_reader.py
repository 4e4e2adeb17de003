"""Which reply answers whom, and which is a repeat. Literal times, no broker."""

from __future__ import annotations

import pytest

from guideway.delivery.replies import failed
from guideway.producers.client.awaited import Awaited
from guideway.producers.client.reply_reader import AnsweredOnce
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Completed, Reply, Usage

WORK = ("/team/task", "order-17")
OTHER = ("/team/task", "order-18")


def test_without_an_id_of_ones_own_the_correlation_id_alone_counts() -> None:
    awaited: Awaited[str] = Awaited()
    awaited.expect("a", b"1", None)
    awaited.expect("b", b"2", None)
    assert awaited.take(b"0", WORK, 0) == []
    assert awaited.take(b"2", WORK, 0) == ["b"]
    assert awaited.take(b"2", WORK, 0) == []
    assert awaited.waiting == ["a"]


def test_after_a_time_out_the_reply_to_the_first_event_answers_the_second_submission() -> None:
    awaited: Awaited[str] = Awaited()
    awaited.expect("first", b"1", WORK)
    awaited.drop(b"1")
    awaited.expect("second", b"2", WORK)
    assert awaited.take(b"1", WORK, 0) == ["second"]
    assert awaited.take(b"2", WORK, 1) == [], "a repeat"


def test_a_reply_to_another_process_answers_too_but_not_for_another_endpoint_or_id() -> None:
    awaited: Awaited[str] = Awaited()
    awaited.expect("ours", b"1", WORK)
    assert awaited.take(b"theirs", OTHER, 0) == []
    assert awaited.take(b"theirs", ("/team/other", "order-17"), 0) == []
    assert awaited.take(b"theirs", WORK, 0) == ["ours"]
    assert awaited.take(b"1", WORK, 0) == []


@pytest.mark.parametrize("first", [b"1", b"2"])
def test_two_submissions_at_once_take_the_same_reply(first: bytes) -> None:
    awaited: Awaited[str] = Awaited()
    awaited.expect("a", b"1", WORK)
    awaited.expect("b", b"2", WORK)
    awaited.expect("c", b"3", OTHER)
    assert awaited.take(first, WORK, 0) == ["a", "b"]
    assert awaited.take({b"1": b"2", b"2": b"1"}[first], WORK, 0) == []
    assert awaited.waiting == ["c"]


def test_a_repeat_is_not_the_answer_to_a_submission_made_after_it() -> None:
    """Else each retry of a failed request would see the failure of the try before it."""
    awaited: Awaited[str] = Awaited(ttl_s=10)
    awaited.expect("a", b"1", WORK)
    awaited.expect("b", b"2", WORK)
    awaited.take(b"1", WORK, 0)
    awaited.expect("later", b"3", WORK)
    assert awaited.take(b"2", WORK, 9) == []
    assert awaited.take(b"3", WORK, 9) == ["later"]


def test_what_was_answered_is_forgotten_in_time() -> None:
    awaited: Awaited[str] = Awaited(ttl_s=10)
    for number, name in enumerate("ab"):
        awaited.expect(name, str(number).encode(), WORK)
    awaited.take(b"0", WORK, 0)
    awaited.expect("later", b"3", WORK)
    assert awaited.take(b"1", WORK, 10) == ["later"]


def test_nothing_is_kept_of_those_who_gave_up() -> None:
    awaited: Awaited[str] = Awaited()
    for number in range(5):
        awaited.expect("x", str(number).encode(), WORK)
        awaited.drop(str(number).encode())
        awaited.drop(str(number).encode())
    assert not awaited._waiting
    assert not awaited._of_work


def completed(id_: str = "a", endpoint: str = "task") -> Reply:
    return Completed(
        id=id_,
        namespace="team",
        endpoint=endpoint,
        endpoint_version=1,
        samples=[],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="f",
    )


def failure(code: FailureCode) -> Reply:
    return failed("a", "team", "task", Refusal(code, "why"))


def test_a_stream_shows_each_id_of_each_endpoint_once() -> None:
    once = AnsweredOnce(ttl_s=10)
    assert once.admits(completed(), 0)
    assert once.admits(completed("b"), 1)
    assert once.admits(completed("a", "other"), 1)
    assert not once.admits(completed(), 9)
    assert not once.admits(failure(FailureCode.CANCELLED), 9)
    assert once.admits(completed(), 10)


def test_a_retryable_failure_is_no_answer_yet() -> None:
    once = AnsweredOnce()
    assert once.admits(failure(FailureCode.UNKNOWN_MODEL_SIZE), 0)
    assert once.admits(failure(FailureCode.UNKNOWN_MODEL_SIZE), 1)
    assert once.admits(completed(), 2)
    assert not once.admits(failure(FailureCode.UNKNOWN_MODEL_SIZE), 3)
    assert not once.admits(completed(), 3)
