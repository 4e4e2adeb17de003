"""Routes events that name no endpoint: rules are tried here, all else is asked of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any
from weakref import WeakValueDictionary

from aiokafka.structs import TopicPartition

from guideway.catalogue.routing import Candidates, router_of
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.producers.events.addressee import Addressee
from guideway.producers.events.envelope import Envelope
from guideway.producers.events.read_event import read_event
from guideway.producers.intake.event_intake import EventIntake
from guideway.producers.routing.decision import endpoint_of, no_route
from guideway.producers.routing.questions import Questions
from guideway.producers.routing.rules import facts_of, ruled, text_of
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.router import Router
from guideway.schemas.names.service_topics import ROUTED_TOPIC
from guideway.schemas.names.topics import request_topic, sender_of_topic
from guideway.schemas.record import Record
from guideway.schemas.services.routing import RoutingAnswer, RoutingQuestion


class Routing:
    """The routers of all namespaces, as one endpoint service uses them."""

    def __init__(
        self,
        reader: CatalogueFollower,
        intake: EventIntake,
        questions: Questions,
        topics: TopicDirectory,
        look: Callable[[str], None],
    ) -> None:
        """look: is told of each model size of which workers were asked."""
        self._reader = reader
        self._candidates = Candidates()
        self._intake = intake
        self._questions = questions
        self._topics = topics
        self._look = look
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def routed(self, envelope: Envelope, waits: AbstractAsyncContextManager[None]) -> Addressee:
        """The endpoint for an event that names none; perhaps it is gone by now, or does not allow the caller any more.

        waits: entered while workers are asked.
        Raises Refusal: `no_route`, those of an event that cannot be read, and those of `Questions.ask`.
        """
        caller = sender_of_topic(envelope.record.topic)
        version, router = await self._reader.eventually(lambda catalogue: router_of(catalogue, caller))
        event = read_event(envelope)
        number = await self._ruled(router, envelope.record, event.content)
        if number is not None:
            return _addressee(router.rules[number].endpoint, caller)
        text = text_of(event.content)
        among = self._candidates.of(router, self._reader.catalogue)
        if not (among and router.is_asked and text.strip()):
            raise no_route(router, among)
        answer = await self._asked(router, version, text, event, waits)
        # It may have waited for long.
        return _addressee(endpoint_of(answer, router, self._candidates.of(router, self._reader.catalogue)), caller)

    def addressees(self, caller: str) -> list[Addressee]:
        """Every endpoint to which the router of this namespace may have sent an event. Raises Refusal(no_route)."""
        _, router = router_of(self._reader.catalogue, caller)
        return [_addressee(one, caller) for one in self._candidates.of(router, self._reader.catalogue)]

    async def _ruled(self, router: Router, record: Record, content: Mapping[str, Any] | str) -> int | None:
        """In a thread, one event of a namespace at a time: costly rules hold up their own namespace only."""
        if not router.rules:
            return None
        async with self._turns.setdefault(router.namespace, asyncio.Lock()):
            return await asyncio.to_thread(lambda: ruled(router.rules, facts_of(record, content)))

    async def _asked(
        self, router: Router, version: int, text: str, event: Event, waits: AbstractAsyncContextManager[None]
    ) -> RoutingAnswer:
        assert router.model_size is not None, "a router that is asked has one"

        def question(id_: str, deadline_ms: int) -> RoutingQuestion:
            return RoutingQuestion(
                id=id_,
                namespace=router.namespace,
                router_version=version,
                text=text[: router.max_text_chars],
                deadline_ms=deadline_ms,
            )

        size = router.model_size
        topic = request_topic(size, "interactive")
        # Its topics stay when a model goes, and nobody would answer there.
        await self._reader.eventually(lambda catalogue: catalogue.model(size))
        for needed in (topic, ROUTED_TOPIC):
            if not await self._topics.partitions(needed):
                raise Refusal(
                    FailureCode.UNKNOWN_MODEL_SIZE,
                    f"the router of namespace {router.namespace} asks workers of size {size!r}, and there is no topic "
                    f"{needed}: run `guideway topics apply`",
                )
        async with self._intake.asking(router.namespace, topic, waits) as sent:

            def told(at: TopicPartition, offset: int, size_bytes: int) -> None:
                sent(at, offset, size_bytes)
                self._look(size)

            return await self._questions.ask(question, topic, told, event.deadline_ms)


def _addressee(address: str, caller: str) -> Addressee:
    _, namespace, name = address.split("/")
    return Addressee(namespace, name, caller)
