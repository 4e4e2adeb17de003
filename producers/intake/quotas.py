"""What each namespace may still do: requests, tokens and cancellations in a minute, waiting work, reply topics.

Pure: takes `now`, in seconds that never go back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Final, NoReturn

from guideway.delivery.intake import UNBOUNDED
from guideway.producers.intake.minute import MINUTE_S, Minute
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.services.usage import Used

ADDRESS_S: Final = 600.0
"""A reply topic is in use for so long after a request named it."""
_FORGET_EVERY: Final = 10_000
"""After so many uses, what has not been used for a minute is forgotten."""


class _Used:
    """What one namespace has used, as far as this process knows."""

    def __init__(self) -> None:
        self.requests = Minute()
        self.tokens = Minute()
        self.cancellations = Minute()
        self.largest = 0
        """Tokens of the largest request of late; 0: there was none."""
        self.addresses: dict[str, float] = {}
        """Reply topic → when a request named it last."""

    def is_idle(self, now: float) -> bool:
        return not (
            self.requests.used(now)
            or self.tokens.used(now)
            or self.cancellations.used(now)
            or any(now - at < ADDRESS_S for at in self.addresses.values())
        )


_UNUSED: Final = _Used()


class Quotas:
    """Owner of what each namespace has used. Each process of the endpoint service has its own.

    Several processes share a limit without asking each other: each has the part of it that it has of the namespace's
    event partitions, so the parts are never more than the limit. What it costs: a namespace whose events come by few of
    its partitions gets only the parts of the processes that own these; parts are rounded down; and of a limit below
    the number of processes each process has one.
    """

    def __init__(
        self, limits: Callable[[str], Namespace], part: Callable[[str], float] = lambda namespace: 1.0
    ) -> None:
        """limits: of a namespace, as they are now. part: how much of its limits this process may use, up to 1."""
        self._limits = limits
        self._part = part
        self._of: dict[str, _Used] = {}
        self._uses = 0
        self.held: Counter[tuple[str, str]] = Counter()
        """(namespace, limit) → how often it was found to hold events back, or refused one."""

    def used(self, now: float) -> dict[str, Used]:
        """Namespace → what it has used here of the limits that it has."""
        return {
            namespace: Used(
                requests_per_minute=used.requests.used(now),
                tokens_per_minute=used.tokens.used(now),
                cancellations_per_minute=used.cancellations.used(now),
                reply_addresses=sum(now - at < ADDRESS_S for at in used.addresses.values()),
            )
            for namespace, used in self._of.items()
        }

    # Before events are taken in --------------------------------------------------------------------------------------

    def room(self, namespace: str, waiting: int, now: float) -> int:
        """How many events of a namespace may be in hand: each may become a request.

        waiting: the weight of its unanswered requests. Where the namespace says that events are refused, all are taken.
        """
        limits = self._limits(namespace)
        if limits.over_limit == "refuse" or not is_limited(limits):
            return UNBOUNDED
        used, part = self._of.get(namespace, _UNUSED), self._part(namespace)
        found = UNBOUNDED
        if limits.waiting is not None:
            found = self._least("waiting", namespace, _share(limits.waiting, part) - waiting, found)
        if limits.requests_per_minute is not None:
            left = _left(used.requests, limits.requests_per_minute, part, now)
            found = self._least("requests_per_minute", namespace, left, found)
        if limits.tokens_per_minute is not None:
            left = _left(used.tokens, limits.tokens_per_minute, part, now)
            here = _share(limits.tokens_per_minute, part)
            # Of the first request nobody knows how large it is, so it is taken alone.
            most = min(used.largest or here, here)
            found = self._least("tokens_per_minute", namespace, left // most, found)
        if limits.cancellations_per_minute is not None:
            left = _left(used.cancellations, limits.cancellations_per_minute, part, now)
            # Whether an event is a cancellation is seen only when it is read.
            found = self._least("cancellations_per_minute", namespace, UNBOUNDED if left > 0 else 0, found)
        return found

    def _least(self, limit: str, namespace: str, left: int, found: int) -> int:
        if left <= 0:
            self.held[namespace, limit] += 1
        return max(0, min(left, found))

    # As they are worked on -------------------------------------------------------------------------------------------

    def request(self, namespace: str, waiting: int, now: float) -> None:
        """Count a request that begins. Raises Refusal(quota_exceeded) where the namespace wants that."""
        limits = self._limits(namespace)
        if limits.waiting is not None and limits.over_limit == "refuse":
            most = _share(limits.waiting, self._part(namespace))
            if waiting >= most:
                self._refuse("waiting", namespace, f"{waiting} of its requests are unanswered, {most} may be", 1.0)
        if limits.requests_per_minute is not None:
            self._use("requests_per_minute", limits, self._used(namespace, now).requests, 1, now)

    def tokens(self, namespace: str, count: int, now: float) -> None:
        """Count the tokens of a request, as they are estimated. Raises as `request`."""
        limits = self._limits(namespace)
        if limits.tokens_per_minute is not None:
            used = self._used(namespace, now)
            # A large one is forgotten slowly: others like it may come.
            used.largest = max(count, used.largest - (used.largest - count) // 8)
            self._use("tokens_per_minute", limits, used.tokens, count, now)

    def cancellation(self, namespace: str, now: float) -> None:
        """Count a cancellation. Raises as `request`."""
        limits = self._limits(namespace)
        if limits.cancellations_per_minute is not None:
            self._use("cancellations_per_minute", limits, self._used(namespace, now).cancellations, 1, now)

    def may_cancel_ahead(self, namespace: str, now: float) -> bool:
        """Whether a cancellation may be sent before it is reached: there is room, and then it is counted."""
        limits = self._limits(namespace)
        if limits.cancellations_per_minute is None:
            return True
        used = self._used(namespace, now).cancellations
        if _left(used, limits.cancellations_per_minute, self._part(namespace), now) < 1:
            return False
        used.use(1, now)
        return True

    def address(self, namespace: str, topic: str, now: float) -> None:
        """Note that a request wants its reply on this topic, which is none of its endpoints' own.

        Raises Refusal(quota_exceeded) if too many are in use: to wait would help nobody, for they stay in use.
        """
        most = self._limits(namespace).reply_addresses
        if most is None:
            return
        addresses = self._used(namespace, now).addresses
        if topic not in addresses and len(addresses) >= most:
            for name in [name for name, at in addresses.items() if now - at >= ADDRESS_S]:
                del addresses[name]
            if len(addresses) >= most:
                first = min(addresses.values(), default=now)
                self._refuse(
                    "reply_addresses",
                    namespace,
                    f"{len(addresses)} reply topics are in use, {most} may be",
                    first + ADDRESS_S - now,
                )
        addresses[topic] = now

    def _use(self, limit: str, limits: Namespace, used: Minute, amount: int, now: float) -> None:
        part, most = self._part(limits.name), getattr(limits, limit)
        here, minute = _share(most, part), MINUTE_S
        if limits.over_limit == "refuse" and (wait_s := used.wait_s(amount, here, now)):
            what = limit.removesuffix("_per_minute")
            why = f"{used.used(now)} {what} in the last minute, {here} may be"
            self._refuse(limit, limits.name, why, min(wait_s, minute))
        used.use(min(amount, here), now)

    def _refuse(self, limit: str, namespace: str, why: str, wait_s: float) -> NoReturn:
        self.held[namespace, limit] += 1
        raise Refusal(
            FailureCode.QUOTA_EXCEEDED,
            f"namespace {namespace} is at its limit `{limit}`: {why}; send it again in {math.ceil(wait_s)} s, or ask "
            "the platform for a higher limit",
        )

    def _used(self, namespace: str, now: float) -> _Used:
        self._uses += 1
        if self._uses % _FORGET_EVERY == 0:
            for name in [name for name, used in self._of.items() if used.is_idle(now)]:
                del self._of[name]
        return self._of.setdefault(namespace, _Used())


def is_limited(limits: Namespace) -> bool:
    """Whether the intake has anything to count for these limits."""
    return any(
        limit is not None
        for limit in (
            limits.waiting,
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.cancellations_per_minute,
        )
    )


def _share(limit: int, part: float) -> int:
    """Of a limit, the part of this process; one at least, or its events would wait for ever."""
    return max(1, int(limit * part))


def _left(used: Minute, limit: int, part: float, now: float) -> int:
    return _share(limit, part) - used.used(now)
