"""Refusals for the audit trail: who was refused what. Bounded, whatever somebody sends.

Refusals that are alike are counted. Of each kind the first is told at once, then the tenth, the hundredth and so on,
and what is left with the next refusal after `WINDOW_S`. So a million of them are seven records.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Final, Literal

import msgspec
import structlog

from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.service_topics import AUDIT_TOPIC
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.services.audit import Audited
from guideway.schemas.wire import AUDITED

log = structlog.get_logger(__name__)

TOLD: Final = frozenset({FailureCode.NOT_ALLOWED, FailureCode.REPLY_ADDRESS_REFUSED, FailureCode.GUIDANCE_FORBIDDEN})
"""Codes that say that somebody wanted what is not theirs."""
WINDOW_S: Final = 60.0
MOST_THINGS: Final = 20
"""Different things of one namespace and code in one window. Further ones are counted together, under no name."""
MOST: Final = 1_000
"""Kinds of refusals in one window. Further ones are counted together, under no namespace."""

_Kind = tuple[str, str, FailureCode]


class Alike:
    """The refusals of one kind in the present window."""

    def __init__(self, first: Audited) -> None:
        self.first = first
        """The first that is not told."""
        self.untold = 0
        self.total = 0


class Refusals:
    """Counts refusals that are alike. Pure: takes `now`, in seconds."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._alike: dict[_Kind, Alike] = {}
        self._things: Counter[tuple[str, FailureCode]] = Counter()

    def note(self, one: Audited, now: float) -> list[Audited]:
        """What to write in the trail, now that this refusal came; often nothing."""
        told = self._ended_window(now)
        assert one.code is not None
        if (kind := self._kind_of(one.namespace, one.what, one.code)) not in self._alike:
            self._things[kind[0], kind[2]] += 1
            self._alike[kind] = Alike(one)
        alike = self._alike[kind]
        if not alike.untold:
            alike.first = msgspec.structs.replace(one, namespace=kind[0], what=kind[1])
        alike.untold += 1
        alike.total += 1
        if set(str(alike.total)[1:]) <= {"0"} and str(alike.total)[0] == "1":
            told.append(_told(alike))
        return told

    def _ended_window(self, now: float) -> list[Audited]:
        if now - self._since < WINDOW_S:
            return []
        left = [_told(alike) for alike in self._alike.values() if alike.untold]
        self._since = now
        self._alike.clear()
        self._things.clear()
        return left

    def _kind_of(self, namespace: str, what: str, code: FailureCode) -> _Kind:
        if (namespace, what, code) in self._alike:
            return namespace, what, code
        if len(self._alike) >= MOST:
            return "", "", code
        return namespace, what if self._things[namespace, code] < MOST_THINGS else "", code


def _told(alike: Alike) -> Audited:
    told = msgspec.structs.replace(alike.first, count=alike.untold)
    alike.untold = 0
    return told


class RefusalTrail:
    """The records of the audit trail that go with refusals, in their transaction. Without the topic there are none."""

    def __init__(self, service: Literal["endpoints", "worker"]) -> None:
        self._service: Literal["endpoints", "worker"] = service
        self._refusals = Refusals()

    async def of(
        self, record: Record, refusal: Refusal, *, namespace: str, what: str, topics: TopicDirectory
    ) -> list[Outgoing]:
        """For one refused record. namespace, what: as in `Audited`."""
        if refusal.code not in TOLD:
            return []
        now_ms = time.time_ns() // 1_000_000
        one = Audited(
            at_ms=now_ms,
            service=self._service,
            action="refused",
            namespace=namespace,
            what=what,
            code=refusal.code,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )
        told = self._refusals.note(one, now_ms / 1000)
        for each in told:
            log.warning(
                "refused", namespace=each.namespace, what=each.what, code=str(each.code), topic=each.topic,
                offset=each.offset, count=each.count,
            )  # fmt: skip
        if not told or not await topics.partitions(AUDIT_TOPIC):
            return []
        headers = [(header.CONTENT_TYPE, b"application/json")]
        return [Outgoing(topic=AUDIT_TOPIC, value=AUDITED.encode(each), headers=headers) for each in told]
