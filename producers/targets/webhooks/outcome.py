"""What comes of one attempt, and what is done next. Pure; the delays are those of the topic's partitions."""

from __future__ import annotations

from typing import Final, assert_never

import msgspec

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.services.leaving import DELAYS_S, Delivery

MAX_AGE_S: Final = 4 * 86_400.0
"""A delivery that is older than this when it fails, or is put off, is given up."""
_THROTTLING: Final = frozenset({429, 502, 503, 504})
_JITTER: Final = 0.1


class Answer(msgspec.Struct, frozen=True):
    """The receiver has answered."""

    status: int
    retry_after_s: float | None = None


class Broken(msgspec.Struct, frozen=True):
    """There was no answer, or none in time."""

    why: str


class Forbidden(msgspec.Struct, frozen=True):
    """The address may not be reached: nothing was sent."""

    why: str


Outcome = Answer | Broken | Forbidden


class Done(msgspec.Struct, frozen=True):
    """It is delivered."""


class Later(msgspec.Struct, frozen=True):
    """It waits, in this partition of the topic of deliveries."""

    delivery: Delivery
    partition: int


class Dead(msgspec.Struct, frozen=True):
    """It is given up, and becomes a dead letter."""

    refusal: Refusal
    holds: bool = False
    """The webhook is held from now on."""


Step = Done | Later | Dead


def next_step(outcome: Outcome, delivery: Delivery, now_ms: int, chance: float) -> Step:
    """chance: from 0 to 1, for the jitter."""
    match outcome:
        case Forbidden(why):
            return Dead(Refusal(FailureCode.EGRESS_REFUSED, why))
        case Answer(status) if 200 <= status < 300:
            return Done()
        case Answer(410):
            return Dead(held_refusal(delivery.webhook), holds=True)
        case Answer(status, retry_after_s):
            moved = ": redirects are not followed; name the address that it points to" if 300 <= status < 400 else ""
            wait_s = retry_after_s if status in _THROTTLING else None
            return _again(delivery, f"the receiver answered {status}{moved}", wait_s, now_ms, chance)
        case Broken(why):
            return _again(delivery, why, None, now_ms, chance)
        case other:
            assert_never(other)


def _again(delivery: Delivery, why: str, wait_s: float | None, now_ms: int, chance: float) -> Step:
    attempts = delivery.attempts + 1
    if attempts >= len(DELAYS_S) or _is_old(delivery, now_ms):
        return Dead(
            Refusal(
                FailureCode.WEBHOOK_FAILED,
                f"webhook {delivery.webhook} took it in none of {attempts} attempts; of the last, {why}: mend the "
                "receiver, then replay these dead letters",
            )
        )
    least = min(wait_s or 0.0, DELAYS_S[-1])
    partition = next(number for number in range(attempts, len(DELAYS_S)) if DELAYS_S[number] >= least)
    # Earlier rather than later, but not before the receiver wants it.
    delay_s = max(DELAYS_S[partition] * (1 - _JITTER * chance), least)
    return Later(
        msgspec.structs.replace(delivery, attempts=attempts, waits=0, due_ms=now_ms + int(delay_s * 1000)), partition
    )


def put_off(delivery: Delivery, now_ms: int, *, wait_s: float = 0.0) -> Step:
    """Without an attempt: its webhook has enough in hand, or wants nothing for `wait_s` seconds."""
    if _is_old(delivery, now_ms):
        return Dead(
            Refusal(
                FailureCode.WEBHOOK_FAILED,
                f"webhook {delivery.webhook} is too slow for what it gets: this waited for days; speed the receiver "
                "up, then replay these dead letters",
            )
        )
    waits = delivery.waits + 1
    least = min(wait_s, DELAYS_S[-1])
    partition = next(number for number in range(1 if waits < 4 else 2, len(DELAYS_S)) if DELAYS_S[number] >= least)
    due_ms = now_ms + int(DELAYS_S[partition] * 1000)
    return Later(msgspec.structs.replace(delivery, waits=waits, due_ms=due_ms), partition)


def held_refusal(webhook: str) -> Refusal:
    """Of what comes for a webhook that is held."""
    return Refusal(
        FailureCode.WEBHOOK_FAILED,
        f"webhook {webhook} is held, because its receiver answered 410 (Gone): apply its manifest with a change, then "
        "replay these dead letters",
    )


def _is_old(delivery: Delivery, now_ms: int) -> bool:
    return now_ms - delivery.since_ms > MAX_AGE_S * 1000


def restarted(delivery: Delivery, now_ms: int) -> Delivery:
    """As it is replayed: with all attempts before it, and the same id."""
    return msgspec.structs.replace(delivery, attempts=0, waits=0, due_ms=0, since_ms=now_ms)
