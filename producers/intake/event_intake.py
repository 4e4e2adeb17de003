"""Which events the endpoint service takes in: each namespace has its share and its limits, in whatever order they come.

A backlog stays in the event topics of its own namespace. Requests that are published wait in one queue for all
namespaces, so that queue is kept short.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import msgspec
import structlog
from aiokafka.structs import TopicPartition

from guideway.catalogue.entries import Identity
from guideway.catalogue.limits import limits_of
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.intake import UNBOUNDED, Limit
from guideway.producers.intake.call_gate import CallGate
from guideway.producers.intake.estimate import tokens_of
from guideway.producers.intake.quotas import Quotas, is_limited
from guideway.producers.intake.shares import QUEUE, Party, Shares
from guideway.producers.intake.within_limits import WithinLimits
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.addresses import CALL
from guideway.schemas.names.topics import (
    endpoint_of_reply_topic,
    endpoint_of_topic,
    is_event_topic,
    lane_for,
    request_topic,
    sender_of_topic,
    size_of_request_topic,
)
from guideway.schemas.record import Outgoing
from guideway.schemas.request import Request
from guideway.schemas.services.usage import Used

log = structlog.get_logger(__name__)

Waits = AbstractAsyncContextManager[None]
SINGLE_FILE_S: Final = 30.0
"""A call waits no longer for its lane where all behind it wait for it, whatever its deadline."""
TELL_S: Final = 60.0
"""So often the log says who was at a limit."""


class EventIntake:
    """A `delivery.intake.Intake`: its parties are namespaces, each in one lane.

    A general address is of no lane: calls are read, and then let in one by one.
    """

    def __init__(
        self,
        reader: CatalogueFollower,
        *,
        queue: int = QUEUE,
        part: Callable[[str], float] = lambda namespace: 1.0,
    ) -> None:
        """queue: see `Shares`. part: of a namespace's limits, how much this process may use."""
        self._reader = reader
        self.shares = Shares(queue=queue, weight=lambda namespace: limits_of(reader.catalogue, namespace).weight)
        self.quotas = Quotas(lambda namespace: limits_of(reader.catalogue, namespace), part)
        self._let_in: Counter[str] = Counter()
        """By namespace: requests that were let in and are not published, as far as is known."""
        self._holding: Mapping[Hashable, int] = {}
        self._calls = CallGate()
        self._told_at = float("-inf")
        self._within = WithinLimits()

    def party(self, topic: str) -> Party:
        found = endpoint_of_topic(topic)
        if found is None:
            return Party(sender_of_topic(topic), "")
        namespace, name = found
        latest = self._reader.catalogue.latest(Identity("endpoint", namespace, name))
        if latest is None or not isinstance(endpoint := latest[1], Endpoint):
            return Party(namespace, "")
        return self._party(namespace, endpoint)

    def _party(self, namespace: str, endpoint: Endpoint, topic: str = "") -> Party:
        """The lane of what comes from this topic to the endpoint.

        None where it has no model: its events are refused, which needs no worker.
        """
        if self._reader.catalogue.latest(Identity("model", "public", endpoint.model_size)) is None:
            return Party(namespace, "")
        return Party(namespace, request_topic(endpoint.model_size, lane_for(topic, endpoint.lane)))

    def limits(self, holding: Mapping[Hashable, int]) -> Limit:
        now, calls = _now(), self._calls
        if now - self._told_at >= TELL_S:
            self._told_at = now
            if held := sorted(self.quotas.held):
                log.info("namespaces were at their limits", held=[" ".join(one) for one in held])
                self.quotas.held.clear()
        by_share = self.shares.limits(dict.fromkeys((*holding, *calls.parties), 1), now)
        rooms: dict[str, int] = {}
        self._holding = holding

        def room(name: str) -> int:
            if name not in rooms:
                rooms[name] = self.quotas.room(name, self.shares.waiting(name), now)
            return rooms[name]

        def of_calls(party: Hashable) -> int:
            """How many calls of this party may be let in and unpublished."""
            assert isinstance(party, Party)
            name = party.namespace
            if room(name) == UNBOUNDED:
                return by_share(party)
            others = self._in_hand(name, calls=False) + calls.begun_of(name) - calls.begun(party)
            return min(by_share(party), max(0, room(name) - others))

        calls.round(of_calls, now)

        def limit(party: Hashable) -> int:
            assert isinstance(party, Party)
            name = party.namespace
            most = by_share(party)
            if room(name) != UNBOUNDED:
                others = self._in_hand(name) - holding.get(party, 0)
                most = min(most, max(0, room(name) - max(0, others)))
            if most == UNBOUNDED:
                return most
            # Calls that wait at the gate are no reason to leave others unread.
            return most + calls.waiting_of(name) if not party.lane else max(0, most - calls.begun(party))

        return limit

    def _in_hand(self, namespace: str, *, calls: bool = True) -> int:
        """Records of this namespace that may become requests without waiting at the gate; calls: these too."""
        held = [(one, n) for one, n in self._holding.items() if isinstance(one, Party) and one.namespace == namespace]
        waiting = self._calls.waiting_of(namespace)
        return sum(max(0, n - waiting) if not one.lane else n for one, n in held if calls or one.lane)

    @asynccontextmanager
    async def let_in(
        self,
        caller: str,
        endpoint: Endpoint,
        topic: str,
        waits: Waits,
        wait_s: float | None,
        *,
        in_single_file: bool = False,
    ) -> AsyncIterator[None]:
        """Wait until a call of this namespace to this endpoint may become a request; on entry it may.

        topic: where the call stands. waits: entered while it has to wait. wait_s: for so long at most.
        in_single_file: whether all behind it wait for it. Raises Refusal(deadline_exceeded) beyond that: it would hold
        up calls to others that stand behind it; quota_exceeded in single file after `SINGLE_FILE_S`.
        """
        party = self._party(caller, endpoint, topic)
        if not self._calls.lets_in(party, _now()):
            with self._calls.waiting(party) as future:
                async with waits:
                    is_short = in_single_file and (wait_s is None or wait_s > SINGLE_FILE_S)
                    await asyncio.wait({future}, timeout=SINGLE_FILE_S if is_short else wait_s)
                    if not future.done() and is_short:
                        raise Refusal(
                            FailureCode.QUOTA_EXCEEDED,
                            "the call's lane is full, and process after process died with calls that stand beside this "
                            f"one: such calls wait one by one, {SINGLE_FILE_S:.0f} s each at most. Send it again later",
                        )
                    if not future.done():
                        raise Refusal(
                            FailureCode.DEADLINE_EXCEEDED,
                            "the deadline passed while the call waited for room in its lane, which is full: set a "
                            "later one, or send fewer at a time",
                        )
        try:
            yield
        except BaseException:
            # It becomes no request.
            self._calls.left(party)
            raise

    def require_within_limits(self, endpoint: Endpoint) -> None:
        """Raises Refusal(not_allowed) for an endpoint that its namespace has beyond its limits."""
        self._within.require(endpoint, self._reader.catalogue, _now())

    @asynccontextmanager
    async def asking(
        self, namespace: str, lane: str, waits: Waits
    ) -> AsyncIterator[Callable[[TopicPartition, int, int], None]]:
        """Wait until a routing question of this namespace may be published to a lane; on entry it may.

        It is a part of the namespace's share as a request is, and counts as one. waits: entered for all that time, and
        until the question is answered. Yields what is to be told of each question that is published: its partition,
        its offset and its bytes. Raises Refusal(quota_exceeded).
        """
        party, is_sent = Party(namespace, lane), False

        def sent(at: TopicPartition, offset: int, size_bytes: int) -> None:
            nonlocal is_sent
            self.shares.published(at, offset, namespace, size_bytes, _now())
            if not is_sent:
                self._calls.left(party)
            is_sent = True

        async with waits:
            if not self._calls.lets_in(party, _now()):
                with self._calls.waiting(party) as future:
                    await future
            try:
                self.quotas.request(namespace, self.shares.waiting(namespace), _now())
                yield sent
            finally:
                if not is_sent:
                    self._calls.left(party)

    def inflated_bytes(self, topic: str) -> int:
        """What a compressed batch of events on this topic may hold."""
        if not is_event_topic(topic):
            return UNBOUNDED
        most = limits_of(self._reader.catalogue, sender_of_topic(topic)).inflated_bytes
        return UNBOUNDED if most is None else most

    def begin(self, namespace: str) -> None:
        """An event of this namespace is to become a request. Raises Refusal(quota_exceeded)."""
        if not is_limited(limits_of(self._reader.catalogue, namespace)):
            return
        # What was let in and got lost with its transaction is not in hand any more.
        self._let_in[namespace] = min(self._let_in[namespace], self._in_hand(namespace))
        waiting = self.shares.waiting(namespace) + self._let_in[namespace]
        self.quotas.request(namespace, waiting, _now())
        self._let_in[namespace] += 1

    def count(self, request: Request) -> None:
        """A request is there, about to be published. Raises Refusal(quota_exceeded)."""
        self.quotas.tokens(request.calling_namespace, tokens_of(request), _now())

    def use(self, namespace: str, topic: str) -> None:
        """A caller of this namespace wants its reply on this topic. Raises Refusal(quota_exceeded)."""
        found = endpoint_of_reply_topic(topic)
        if found is None or (found[1] != CALL and not self._reader.catalogue.versions(Identity("endpoint", *found))):
            self.quotas.address(namespace, topic, _now())

    def cancel(self, namespace: str) -> None:
        """A caller of this namespace cancels a request. Raises Refusal(quota_exceeded)."""
        self.quotas.cancellation(namespace, _now())

    def may_cancel_ahead(self, namespace: str) -> bool:
        """Whether a cancellation may be sent before it is reached."""
        return self.quotas.may_cancel_ahead(namespace, _now())

    def used(self) -> dict[str, Used]:
        """Namespace → what it uses here at this moment."""
        found = self.quotas.used(_now())
        for namespace in self.shares.namespaces():
            used = found.get(namespace, Used())
            found[namespace] = msgspec.structs.replace(used, waiting=self.shares.waiting(namespace))
        return found

    def published(self, topic: str, placed: Sequence[tuple[Outgoing, Any]]) -> set[str]:
        """Note the requests among what was published of this event topic. Returns the model sizes they are for."""
        namespace, is_call = sender_of_topic(topic), endpoint_of_topic(topic) is None
        sizes = set()
        for outgoing, at in placed:
            if (size := size_of_request_topic(at.topic)) is not None:
                place = TopicPartition(at.topic, at.partition)
                self.shares.published(place, at.offset, namespace, outgoing.size_bytes, _now())
                self._let_in[namespace] = max(0, self._let_in[namespace] - 1)
                if is_call:
                    self._calls.left(Party(namespace, at.topic))
                sizes.add(size)
        return sizes


def _now() -> float:
    return asyncio.get_running_loop().time()
