"""The records to send for a result: its own, with dead letters in place of those that the cluster refuses. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiokafka import errors

from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.guards.transaction_guards import TopicsRefused
from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.service_topics import AUDIT_TOPIC, is_results_topic
from guideway.schemas.names.topics import dead_letter_topic
from guideway.schemas.record import Outgoing, Record

_BARE_LETTER_BYTES: Final = 4_000
"""The size of a dead letter with its origin and reason only, which a broker with a low limit may still take."""

_TOO_LARGE: Final = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_NOT_ALLOWED: Final = (errors.TopicAuthorizationFailedError, errors.InvalidTopicError, errors.PolicyViolationError)
_NOT_SUCH = (errors.InvalidTimestampError, errors.UnsupportedForMessageFormatError, errors.UnknownError)
_ANSWERED: Final = "the caller has its reply, but webhooks and archive did not get it: "
_DOUBTS: Final = 3
"""After so many errors without a meaning, the record counts as refused."""


class DeadLetterHeld(Exception):
    """A dead letter cannot be sent now. The message says what to change."""


@dataclass(eq=False)
class Result:
    """The records that came of one input record, until they are published."""

    record: Record
    outgoing: list[Outgoing]
    refused: dict[str, list[Refusal]] = field(default_factory=dict)
    """How brokers refused what was sent, by topic."""
    doubts: int = 0
    """How many errors without a meaning there were so far."""
    held_until: float = float("-inf")
    """Not to be tried again before (seconds of the event loop's clock)."""
    times_held: int = 0

    def hold(self, now: float, first_s: float, longest_s: float) -> None:
        """Do not try again for `first_s`; twice as long each time, up to `longest_s`."""
        self.held_until = now + min(longest_s, first_s * 2 ** min(self.times_held, 10))
        self.times_held += 1

    def note(self, refusals: Mapping[str, Refusal], error: BaseException) -> None:
        """Remember how brokers refused a record of this result: for each topic, why."""
        if isinstance(error, errors.UnknownError):
            # What the client has no name for may be a passing fault of the broker's as well.
            self.doubts += 1
            if self.doubts < _DOUBTS:
                return
        for topic, refusal in refusals.items():
            self.refused.setdefault(topic, []).append(refusal)


def topics_of(result: Result) -> set[str]:
    """The topics that must be looked up before the result is sent: its own, and its dead-letter topic."""
    return {dead_letter_topic(result.record.topic), *(out.topic for out in result.outgoing)}


def refusals(error: BaseException, topics: set[str]) -> dict[str, Refusal]:
    """Which of the `topics` will never take what was sent to them, and why; empty if trying again may help."""
    if isinstance(error, _TOO_LARGE):
        code, why = FailureCode.REPLY_TOO_LARGE, "takes no record of this size: raise its max.message.bytes"
    elif isinstance(error, _NOT_ALLOWED):
        code, why = FailureCode.REPLY_ADDRESS_REFUSED, "may not be written to: allow it"
    elif isinstance(error, _NOT_SUCH):
        # As a compacted topic, of a record without a key.
        code, why = FailureCode.REPLY_ADDRESS_REFUSED, "takes no such record: look at its cleanup.policy and settings"
    elif isinstance(error, TopicsRefused):
        topics = topics & error.topics
        code, why = FailureCode.REPLY_ADDRESS_REFUSED, "may not be written to: allow it"
    else:
        return {}
    return {topic: Refusal(code, f"topic {topic} {why}") for topic in topics}


def may_be_neighbours(refused: Iterable[BaseException]) -> bool:
    """Whether of several refused records some may be refused only because they were sent together with others."""
    return sum(isinstance(error, _TOO_LARGE + _NOT_SUCH) for error in refused) > 1


def deliverable(result: Result, partitions: Mapping[str, int]) -> list[Outgoing]:
    """The records to send. Raises DeadLetterHeld.

    `partitions`: how many partitions each topic has; 0: it does not exist.
    """
    return [
        out if (why := _why_not(out, result, partitions)) is None else _letter(out, result, why, partitions)
        for out in result.outgoing
        # The audit trail is to hold nobody up, and what it does not take is no reason for a dead letter.
        if out.topic != AUDIT_TOPIC or _why_not(out, result, partitions) is None
    ]


def first_results(due: Mapping[int, Result], count: int, size: int) -> dict[int, Result]:
    """The first results that are due: at most `count`, of at most `size` bytes, and one at least."""
    chosen: dict[int, Result] = {}
    for offset, result in due.items():
        size -= sum(out.size_bytes for out in result.outgoing)
        if len(chosen) == count or (chosen and size < 0):
            break
        chosen[offset] = result
    return chosen


def _why_not(out: Outgoing, result: Result, partitions: Mapping[str, int]) -> Refusal | None:
    if out.topic == dead_letter_topic(result.record.topic):
        # The handler's own dead letter.
        return _reason_of(out) if result.refused.get(out.topic) or not partitions[out.topic] else None
    if out.topic in result.refused:
        return result.refused[out.topic][-1]
    count = partitions[out.topic]
    if count == 0:
        return Refusal(FailureCode.REPLY_ADDRESS_REFUSED, f"topic {out.topic} does not exist: create it")
    if out.partition is not None and out.partition >= count:
        return Refusal(
            FailureCode.REPLY_ADDRESS_REFUSED, f"topic {out.topic} has no partition {out.partition}: name another"
        )
    if out.size_bytes > MAX_RECORD_BYTES:
        return Refusal(FailureCode.REPLY_TOO_LARGE, f"a record of {out.size_bytes} bytes exceeds {MAX_RECORD_BYTES}")
    return None


def _reason_of(letter: Outgoing) -> Refusal:
    """Why this dead letter was written."""
    says = {
        name: (value or b"").decode() for name, value in letter.headers if name.startswith(header.DEAD_LETTER_PREFIX)
    }
    code = says.get(header.DEAD_LETTER_PREFIX + "code", FailureCode.INTERNAL_ERROR)
    return Refusal(FailureCode(code), says.get(header.DEAD_LETTER_PREFIX + "message", "not told"))


def _letter(out: Outgoing, result: Result, why: Refusal, partitions: Mapping[str, int]) -> Outgoing:
    topic = dead_letter_topic(result.record.topic)
    if not partitions[topic]:
        raise DeadLetterHeld(f"topic {topic} does not exist: run `guideway topics apply`")
    # Its caller has the reply. Whoever put the record back would have it answered twice.
    answered = is_results_topic(out.topic)
    message = f"{_ANSWERED}{why.message}" if answered else why.message
    match len(result.refused.get(topic, ())):
        case 0:
            return dead_letter(result.record, why.code, message, without_value=answered)
        case 1:
            return dead_letter(result.record, why.code, message, max_bytes=_BARE_LETTER_BYTES, without_value=answered)
    raise DeadLetterHeld(result.refused[topic][-1].message)
