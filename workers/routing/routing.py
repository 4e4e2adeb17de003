"""A worker's answers to routing questions. They bring a text only: the worker looks up the rest in its catalogue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import numpy as np
import structlog
from cachetools import LRUCache

from guideway.catalogue.entries import Catalogue
from guideway.catalogue.routing import Candidates, router_at
from guideway.catalogue.topic import CatalogueFollower
from guideway.schemas.calibration import Calibration
from guideway.schemas.failures import Refusal, our_fault
from guideway.schemas.kinds.router import Router, RoutingByModel, RoutingExamples
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.service_topics import ROUTED_TOPIC
from guideway.schemas.names.topics import Lane
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.request import Request
from guideway.schemas.services.routing import Considered, RoutingAnswer, RoutingFailure, RoutingQuestion
from guideway.schemas.wire import ROUTING_ANSWER, ROUTING_QUESTION, Undecodable
from guideway.workers.calibration.calibrating import OF_THE_TEXT, asked, made_of
from guideway.workers.messages.from_engine import Finished
from guideway.workers.messages.from_retrieval import Embedded
from guideway.workers.routing.by_model import asking, labels_of, shares
from guideway.workers.routing.choice import NONE, chosen, ranked
from guideway.workers.routing.kept import Kept
from guideway.workers.routing.learnt import Learnt, Vectors

log = structlog.get_logger(__name__)

Embed = Callable[[Sequence[str]], Awaitable[Embedded]]
Run = Callable[[Request, Mapping[str, float], Lane], Awaitable[Finished]]
"""Runs a request in the engine, with biases of its labels, and tells partings."""

_AT_ONCE: Final = 32
"""So many examples are embedded at once, which takes a tenth of a second: lookups of others come between."""
_LEARNT_BYTES: Final = 256 * 2**20
"""Memory for what was learnt from examples: of 400 examples 8 MB. The least recently used leaves first."""
_KEPT: Final = 1000
"""Routers whose biases are kept; the least recently used leave first."""
_TOLD: Final = 3
"""So many endpoints are told of each method."""
_SHOWN: Final = 1
"""So many examples of each endpoint are shown to the model, if the router has any."""
_SHOWN_CHARS: Final = 160
_MARK: Final = b'{"schema":"guideway.routing.v1"'


def question_in(record: Record) -> RoutingQuestion | None:
    """The routing question in a record of a request topic; None if it is none."""
    if record.value is None or not record.value.startswith(_MARK):
        return None
    try:
        return ROUTING_QUESTION.decode(record.value)
    except Undecodable:
        return None


class Routing:
    """Answers questions. Owner of what was learnt from examples, and of the biases of the model's choices."""

    def __init__(self, reader: CatalogueFollower, embed: Embed, run: Run) -> None:
        self._reader = reader
        self._candidates = Candidates()
        self._embed = embed
        self._run = run
        self._learnt: Kept[tuple[str, int], Learnt] = Kept(LRUCache(_LEARNT_BYTES, getsizeof=lambda one: one.nbytes))
        self._biases: Kept[tuple[str, int, str], Mapping[str, float]] = Kept(LRUCache(_KEPT))

    async def handle(self, question: RoutingQuestion, lane: Lane) -> list[Outgoing]:
        """What to publish for a question: its answer; nothing if nobody waits for it any more."""
        left_s = question.deadline_ms / 1000 - time.time()
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                answer = await self._answer(question, lane)
        except TimeoutError:
            return []
        except Refusal as refusal:
            return [refused_question(question, refusal)]
        except Exception as error:
            log.exception("routing failed", namespace=question.namespace)
            return [refused_question(question, our_fault(error, "the worker"))]
        return [_told(answer)]

    async def learn(self, router: Router, version: int) -> None:
        """Learn from a router's examples, if that is not done: its first event then finds it done. Raises Refusal."""
        if (rule := router.examples) is not None:
            await self._learnt.get((router.namespace, version), lambda: self._learn(rule))

    async def stop(self) -> None:
        """Give up what is being learnt."""
        await self._learnt.stop()
        await self._biases.stop()

    async def _answer(self, question: RoutingQuestion, lane: Lane) -> RoutingAnswer:
        def found(catalogue: Catalogue) -> tuple[Router, Mapping[str, Endpoint]]:
            router = router_at(catalogue, question.namespace, question.router_version)
            return router, self._candidates.of(router, catalogue)

        router, among = await self._reader.eventually(found)
        considered: list[Considered] = []
        for method, rule in (("examples", router.examples), ("model", router.model)):
            if isinstance(rule, RoutingExamples):
                scores = await self._by_examples(question, rule)
            elif isinstance(rule, RoutingByModel):
                scores = await self._by_model(question, router, among, lane)
            else:
                continue
            considered += [
                Considered(method=method, endpoint=one, score=round(score, 4))  # type: ignore[arg-type]
                for one, score in ranked(scores)[:_TOLD]
            ]
            endpoint = chosen(scores, among, least_score=rule.least_score, least_margin=rule.least_margin)
            if endpoint is not None:
                return RoutingAnswer(id=question.id, endpoint=endpoint, considered=considered)
        return RoutingAnswer(id=question.id, considered=considered)

    # By examples -----------------------------------------------------------------------------------------------------

    async def _by_examples(self, question: RoutingQuestion, rule: RoutingExamples) -> dict[str, float]:
        key = (question.namespace, question.router_version)
        learnt = await self._learnt.get(key, lambda: self._learn(rule))
        return learnt.scores(question.text, await self._vectors([question.text]))

    async def _learn(self, rule: RoutingExamples) -> Learnt:
        both = [(text, endpoint) for endpoint, texts in rule.texts.items() for text in texts]
        both += [(text, NONE) for text in rule.none]
        texts, labels = [text for text, _ in both], [label for _, label in both]
        vectors = [await self._vectors(texts[at : at + _AT_ONCE]) for at in range(0, len(texts), _AT_ONCE)]
        return await asyncio.to_thread(Learnt, texts, labels, np.concatenate(vectors))

    async def _vectors(self, texts: Sequence[str]) -> Vectors:
        embedded = await self._embed(texts)
        return np.frombuffer(embedded.vectors, "<f4").reshape(len(texts), embedded.dimension).astype(np.float32)

    # By the model ----------------------------------------------------------------------------------------------------

    async def _by_model(
        self, question: RoutingQuestion, router: Router, among: Mapping[str, Endpoint], lane: Lane
    ) -> dict[str, float]:
        labels = labels_of(among)
        request = asking(
            question.id, question.namespace, question.router_version, question.text, among, _shown(router.examples)
        )
        key = (question.namespace, question.router_version, request.parts[0].text)
        biases = await self._biases.get(key, lambda: self._calibrate(request, lane))
        finished = await self._run(request, biases, lane)
        found = shares(finished.samples[0].partings, [*labels], biases)
        return {labels[label]: share for label, share in found.items()}

    async def _calibrate(self, request: Request, lane: Lane) -> Mapping[str, float]:
        """What the model prefers where there is nothing to judge, with the sign turned: see `label_shares.agreed`."""
        rule = Calibration(method="contextual", around=["Message: ", "\nTask:"])
        ends = [await asyncio.gather(*(self._end(one, lane) for one in some)) for some in asked(rule, request)]
        return made_of(rule, request, ends).biases

    async def _end(self, request: Request, lane: Lane) -> Finished | Refusal:
        try:
            return await self._run(request, {}, lane)
        except Refusal as refusal:
            if refusal.code in OF_THE_TEXT:
                return refusal
            raise


def _shown(examples: RoutingExamples | None) -> dict[str, list[str]]:
    """Short examples for the model, the same each time, so that what comes before the text is computed once."""
    if examples is None:
        return {}
    return {
        endpoint: [text[:_SHOWN_CHARS] for text in texts[:_SHOWN]]
        for endpoint, texts in {**examples.texts, NONE: examples.none}.items()
    }


def refused_question(question: RoutingQuestion, refusal: Refusal) -> Outgoing:
    """What to publish for a question that cannot be answered."""
    failure = RoutingFailure(code=refusal.code, message=refusal.message)
    return _told(RoutingAnswer(id=question.id, failure=failure))


def _told(answer: RoutingAnswer) -> Outgoing:
    return Outgoing(topic=ROUTED_TOPIC, value=ROUTING_ANSWER.encode(answer))
