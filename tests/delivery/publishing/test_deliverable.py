"""What is sent in place of results that the cluster does not take."""

from __future__ import annotations

import pytest
from aiokafka import errors

from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.guards.transaction_guards import TopicsRefused
from guideway.delivery.publishing.deliverable import DeadLetterHeld, Result, deliverable, refusals
from guideway.delivery.replay.decision import read_back
from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas.failures import FailureCode
from guideway.schemas.record import Outgoing, Record

RECORD = Record(topic="in", partition=0, offset=7, timestamp_ms=0, key=b"k", value=b"text" * 5_000)
ALL = {"in.dlq": 1, "out": 2}


def result(*outgoing: Outgoing) -> Result:
    return Result(RECORD, list(outgoing))


def code_of(letter: Outgoing) -> str:
    assert letter.topic == "in.dlq"
    return next(value.decode() for name, value in letter.headers if name == "guideway_dlq_code" and value)


def test_what_can_be_sent_is_sent_as_it_is() -> None:
    out = Outgoing(topic="out", value=b"x", partition=1)
    assert deliverable(result(out, out), ALL) == [out, out]


@pytest.mark.parametrize(
    ("out", "code"),
    [
        (Outgoing(topic="nowhere", value=b"x"), FailureCode.REPLY_ADDRESS_REFUSED),
        (Outgoing(topic="out", value=b"x", partition=2), FailureCode.REPLY_ADDRESS_REFUSED),
        (Outgoing(topic="out", value=b"x" * (MAX_RECORD_BYTES + 1)), FailureCode.REPLY_TOO_LARGE),
    ],
)
def test_what_cannot_be_sent_becomes_a_dead_letter_beside_what_can(out: Outgoing, code: FailureCode) -> None:
    fine = Outgoing(topic="out", value=b"fine")
    first, letter = deliverable(result(fine, out), {**ALL, "nowhere": 0})
    assert first == fine
    assert code_of(letter) == code
    assert letter.value == RECORD.value


def test_a_copy_for_webhooks_and_archive_that_cannot_be_sent_has_nobody_answered_twice() -> None:
    reply, copy = Outgoing(topic="out", value=b"reply"), Outgoing(topic="gw.shop.results.v1", value=b"copy")
    first, letter = deliverable(result(reply, copy), {**ALL, "gw.shop.results.v1": 0})
    assert first == reply
    assert code_of(letter) == FailureCode.REPLY_ADDRESS_REFUSED
    assert (letter.key, letter.value) == (b"k", None)
    said = next(value.decode() for name, value in letter.headers if name == "guideway_dlq_message" and value)
    assert said.startswith("the caller has its reply")
    placed = Record(topic="in.dlq", partition=0, offset=0, timestamp_ms=0, key=b"k", value=None, headers=letter.headers)
    said_back = read_back(placed)
    assert said_back is not None
    assert said_back.omitted == ("value",), "a replay leaves it out"


def test_without_a_dead_letter_topic_the_result_is_held() -> None:
    with pytest.raises(DeadLetterHeld, match=r"in\.dlq does not exist: run `guideway topics apply`"):
        deliverable(result(Outgoing(topic="nowhere", value=b"x")), {"in.dlq": 0, "nowhere": 0})


def test_a_handlers_own_dead_letter_is_held_as_well() -> None:
    own = Outgoing(topic="in.dlq", value=b"x")
    assert deliverable(result(own), ALL) == [own]
    with pytest.raises(DeadLetterHeld):
        deliverable(result(own), {"in.dlq": 0})


def test_a_handlers_own_dead_letter_keeps_its_reason_when_it_has_to_shrink() -> None:
    tried = result(dead_letter(RECORD, FailureCode.UNDECODABLE_REQUEST, "no request"))
    tried.refused["in.dlq"] = [*refusals(errors.MessageSizeTooLargeError(), {"in.dlq"}).values()]
    (letter,) = deliverable(tried, ALL)
    assert code_of(letter) == FailureCode.UNDECODABLE_REQUEST
    assert letter.value is None


def test_a_refusal_by_the_broker_leads_to_ever_smaller_dead_letters_and_at_last_to_waiting() -> None:
    tried = result(Outgoing(topic="out", value=b"x"))
    tried.refused["out"] = [*refusals(errors.MessageSizeTooLargeError(), {"out"}).values()]
    (letter,) = deliverable(tried, ALL)
    assert code_of(letter) == FailureCode.REPLY_TOO_LARGE
    assert letter.value == RECORD.value
    tried.refused["in.dlq"] = [*refusals(errors.MessageSizeTooLargeError(), {"in.dlq"}).values()]
    (letter,) = deliverable(tried, ALL)
    assert letter.value is None
    assert ("guideway_dlq_omitted", b"value") in letter.headers
    tried.refused["in.dlq"] *= 2
    with pytest.raises(DeadLetterHeld, match=r"raise its max\.message\.bytes"):
        deliverable(tried, ALL)


def test_only_lasting_refusals_are_remembered() -> None:
    assert refusals(errors.NotLeaderForPartitionError(), {"out"}) == {}
    assert refusals(TimeoutError(), {"out"}) == {}
    assert set(refusals(errors.TopicAuthorizationFailedError("out"), {"out"})) == {"out"}
    assert set(refusals(TopicsRefused({"out"}), {"out"})) == {"out"}
    assert refusals(TopicsRefused({"other"}), {"out"}) == {}, "it only shared a transaction with the refused one"


def test_what_is_held_back_is_tried_less_and_less_often() -> None:
    result, waits = Result(RECORD, []), []
    for _ in range(6):
        result.hold(100, 5, 60)
        waits.append(result.held_until - 100)
    assert waits == [5, 10, 20, 40, 60, 60]


def test_a_topic_that_takes_no_such_record_is_told_by_a_dead_letter_in_the_end() -> None:
    """As a compacted topic, of a record without a key: the client has no name for that error."""
    error = errors.for_code(87)()
    result = Result(RECORD, [Outgoing(topic="out", value=b"v")])
    for _ in range(2):
        result.note(refusals(error, {"out"}), error)
        assert deliverable(result, ALL)[0].topic == "out", "it may be a passing fault"
    result.note(refusals(error, {"out"}), error)
    (letter,) = deliverable(result, ALL)
    assert letter.topic == "in.dlq"
    assert b"cleanup.policy" in (dict(letter.headers)["guideway_dlq_message"] or b"")
