"""The worker: it reads the requests of one model size, runs them in its engine, and publishes one reply for each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.limits import limits_of
from guideway.catalogue.protobuf.message_type import MessageType, message_type
from guideway.catalogue.targets.recipients import still_accepted
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.telling.refusal_trail import RefusalTrail
from guideway.delivery.telling.usage_teller import UsageTeller
from guideway.schemas.failures import FailureCode, Refusal, our_fault
from guideway.schemas.names.addresses import ADDRESS, NAME, endpoint_address
from guideway.schemas.names.content_types import REPLY_MESSAGE
from guideway.schemas.names.groups import workers_group
from guideway.schemas.names.topics import Lane, lane_of_topic, request_topic
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Completed
from guideway.schemas.request import Request
from guideway.schemas.services.usage import Used
from guideway.schemas.wire import REQUEST, Undecodable
from guideway.workers.answers import addresses_of, answered, completed_reply, leaving_of, refused
from guideway.workers.calibration.calibrations import Calibrations
from guideway.workers.cancellations import CancellationFollower, Cancellations
from guideway.workers.engine_client import EngineClient, Poison
from guideway.workers.guidance.artefact_fetch import ArtefactFetch
from guideway.workers.guidance.guidance_fetch import GuidanceFetch
from guideway.workers.lanes import ByLane
from guideway.workers.messages.from_engine import BatchReport, Finished
from guideway.workers.partials import PartialPublisher, Telling
from guideway.workers.request_check import Forged, RequestCheck
from guideway.workers.retrieval.passages import Passages, needs_retrieval
from guideway.workers.retrieval.retrieval_client import RetrievalClient
from guideway.workers.routing.ahead import LearningAhead
from guideway.workers.routing.routing import Routing, question_in, refused_question
from guideway.workers.settings import WorkerSettings

log = structlog.get_logger(__name__)


class Worker:
    """One of any number of workers of a model size. `run` returns after `stop`, when its results are published."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._cancellations = Cancellations()
        self._stopping = asyncio.Event()
        self._within_s: float | None = None
        self._starting: asyncio.Task[Any] | None = None
        """The task in which `run` runs, until the model is loaded; then None."""

    def stop(self, within_s: float | None = None) -> None:
        """Finish what is running, publish it, and leave the group.

        within_s: seconds to finish; None: as the settings say. If a model is being loaded, `run` ends without it.
        """
        self._within_s = within_s
        self._stopping.set()
        if self._starting is not None:
            self._starting.cancel()

    async def run(self) -> None:
        """Work until `stop`. Raises: Refusal if the model or the catalogue cannot be loaded, or no broker answers."""
        starting = self._starting = asyncio.current_task()
        try:
            if not self._stopping.is_set():
                await self._start_and_serve()
        except asyncio.CancelledError:
            if starting is None or self._starting is None or not self._stopping.is_set():
                raise
            starting.uncancel()
        finally:
            self._starting = None

    async def _start_and_serve(self) -> None:
        settings = self._settings
        async with CatalogueFollower(settings.delivery.cluster) as reader:
            model = reader.catalogue.model(settings.size)
            link = EngineClient(
                model,
                settings.engine,
                attempts=settings.attempts,
                start_timeout_s=settings.engine_start_timeout_s,
                silence_s=settings.engine_silence_s,
                program=settings.engine_program,
                on_batch=self._record_batch,
            )
            cancelled = CancellationFollower(settings.delivery.cluster, settings.size, self._cancellations)
            retrieval = RetrievalClient(settings.retrieval, model, settings.engine.model_cache)
            partials = PartialPublisher(settings.delivery.cluster, self._partitions)
            async with cancelled, link, retrieval, partials:
                self._reader, self._link, self._partials = reader, link, partials
                self._check, self._trail = RequestCheck(settings.size), RefusalTrail("worker")
                self._artefacts = ArtefactFetch(ArtefactStore(settings.store), settings.artefact_cache)
                self._guidance = GuidanceFetch(reader, self._artefacts, link.fingerprint, link.former_fingerprint)
                self._passages = Passages(reader, self._artefacts, retrieval)
                self._calibrations = Calibrations(reader, settings.delivery.cluster, link.fingerprint)
                self._routing = Routing(reader, retrieval.embed, self._told_choice)
                if any(needs_retrieval(one, settings.size) for _, one in reader.catalogue):
                    retrieval.warm()
                # The worker joins the group only now: before the model is loaded, requests would wait here for nothing.
                pipeline = self._pipeline = Pipeline(
                    settings.delivery,
                    group=workers_group(settings.size),
                    topics=[request_topic(settings.size, lane) for lane in settings.lanes],
                    handle=self._handle,
                    refuse=self._refuse,
                    intake=ByLane() if len(settings.lanes) > 1 else None,
                )
                self._starting = None
                try:
                    ahead = LearningAhead(reader.catalogue, settings.size, self._routing.learn)
                    telling = UsageTeller(settings.delivery.cluster, pipeline.topics, "worker", lambda: _used(link))
                    async with ahead, telling:
                        await self._run_until_stopped(pipeline)
                finally:
                    await self._routing.stop()
                    await self._calibrations.stop()

    async def _run_until_stopped(self, pipeline: Pipeline) -> None:
        running = asyncio.create_task(pipeline.run(), name="pipeline")
        stopping = asyncio.create_task(self._stopping.wait())
        ends: list[asyncio.Future[Any]] = [running, stopping, self._link.broken]
        try:
            await asyncio.wait(ends, return_when="FIRST_COMPLETED")
        except asyncio.CancelledError:
            # What runs is given up unanswered, while the engine is there: another worker does it again.
            pipeline.stop(0)
            await asyncio.wait({running})
            raise
        finally:
            stopping.cancel()
        pipeline.stop(self._within_s)
        await running
        if self._link.broken.done():
            self._link.broken.result()

    async def _handle(self, record: Record) -> list[Outgoing]:
        lane = lane_of_topic(record.topic)
        if (question := question_in(record)) is not None:
            return await self._routing.handle(question, lane)
        request = _request_in(record)
        if isinstance(request, Refusal):
            return [dead_letter(record, request.code, request.message)]
        outgoing, completed = await self._answer(request, record, lane)
        return [*outgoing, *leaving_of(outgoing, request, record, self._reader.catalogue, completed)]

    async def _answer(self, request: Request, record: Record, lane: Lane) -> tuple[list[Outgoing], Completed | None]:
        """(the reply or a dead letter, the result if there is one)."""
        try:
            # First of all: until it agrees with the catalogue, nobody knows whose reply address it names.
            brought = await self._reader.eventually(lambda catalogue: self._check.brought(request, lane, catalogue))
            own = self._own_message(request)
            async with self._cancellations.heeded(request, now=time.time()):
                completed = await self._complete(request, record, brought)
            addresses = still_accepted(addresses_of(request, completed), request.namespace, self._reader.catalogue)
            return answered(request, record, completed, addresses, own), completed
        except Poison as poison:
            return refused(request, record, poison, keep=True), None
        except Refusal as refusal:
            return [*_answered(request, record, refusal), *await self._audited(request, record, refusal)], None
        except Exception as error:
            log.exception("request failed", request=request.id)
            return refused(request, record, our_fault(error, "the worker")), None

    def _own_message(self, request: Request) -> MessageType | None:
        """The endpoint's own message, where its reply is to be that. Raises Refusal if it cannot be used."""
        if request.reply_message in (None, REPLY_MESSAGE):
            return None
        endpoint = self._reader.catalogue.endpoint_at(request.namespace, request.endpoint, request.endpoint_version)
        try:
            return message_type(endpoint.input.descriptors, endpoint.output_message)
        except ValueError as error:
            why = f"the endpoint's descriptors cannot be used ({error})"
            raise Refusal(FailureCode.OUTPUT_UNREADABLE, why) from None

    async def _refuse(self, record: Record, refusal: Refusal) -> list[Outgoing]:
        """What to publish for a record that killed several workers in a row. The engine does not get it."""
        if (question := question_in(record)) is not None:
            # Its service would ask again and again.
            return [refused_question(question, refusal), dead_letter(record, refusal.code, refusal.message)]
        request = _request_in(record)
        if isinstance(request, Refusal):
            return [dead_letter(record, refusal.code, refusal.message)]
        try:
            self._check.brought(request, lane_of_topic(record.topic), self._reader.catalogue)
        except Forged:
            return [dead_letter(record, refusal.code, refusal.message)]
        except Refusal:
            # It was right once.
            pass
        outgoing = refused(request, record, refusal, keep=True)
        return [*outgoing, *leaving_of(outgoing, request, record, self._reader.catalogue)]

    async def _audited(self, request: Request, record: Record, refusal: Refusal) -> list[Outgoing]:
        """What the audit trail is told of a refusal."""
        address = endpoint_address(request.namespace, request.endpoint)
        return await self._trail.of(
            record,
            refusal,
            # What somebody else has written may be anything.
            namespace=request.calling_namespace if NAME.fullmatch(request.calling_namespace) else "",
            what=address if ADDRESS.fullmatch(address) else "",
            topics=self._pipeline.topics,
        )

    async def _complete(self, request: Request, record: Record, brought: Sequence[str]) -> Completed:
        lane = lane_of_topic(record.topic)
        telling = Telling(request, record, self._partials) if request.partial else None
        limits = limits_of(self._reader.catalogue, request.calling_namespace)
        left_s = None if request.deadline_ms is None else request.deadline_ms / 1000 - time.time()
        if left_s is not None and left_s <= 0:
            raise Refusal(FailureCode.DEADLINE_EXCEEDED, f"the deadline passed before a worker could begin: {_LATER}")
        try:
            # The engine checks deadlines itself. This timeout also works while the engine is being started.
            async with asyncio.timeout(left_s and left_s + 1):
                biases = await self._calibrations.of(request, lambda one: self._told_partings(one, lane))
                async with self._guidance.fetched(request.guidance, request.namespace) as artefacts:
                    told, citations = await self._passages.put_in(request)
                    finished = await self._artefacts.with_good_copies(
                        lambda: self._link.run(
                            told,
                            artefacts,
                            lane,
                            biases=biases,
                            weight=limits.weight,
                            most_rows=limits.rows,
                            telling=telling,
                        )
                    )
        except TimeoutError:
            raise Refusal(
                FailureCode.DEADLINE_EXCEEDED, f"the deadline passed before the result was there: {_LATER}"
            ) from None
        streamed = telling.streamed if telling is not None else None
        return completed_reply(request, finished, self._link.fingerprint, citations, brought=brought, partials=streamed)

    async def _partitions(self, topic: str) -> int:
        return await self._pipeline.topics.partitions(topic)

    async def _told_partings(self, request: Request, lane: Lane) -> Finished:
        limits = limits_of(self._reader.catalogue, request.calling_namespace)
        async with self._guidance.fetched(request.guidance, request.namespace) as artefacts:
            return await self._artefacts.with_good_copies(
                lambda: self._link.run(
                    request, artefacts, lane, partings=True, weight=limits.weight, most_rows=limits.rows
                )
            )

    async def _told_choice(self, request: Request, biases: Mapping[str, float], lane: Lane) -> Finished:
        return await self._link.run(request, [], lane, biases=biases, partings=True)

    def _record_batch(self, report: BatchReport) -> None:
        if self._settings.record_batches is None:
            return
        try:
            with self._settings.record_batches.open("ab") as file:
                file.write(msgspec.json.encode(report) + b"\n")
        except OSError as error:
            log.warning("micro-batch not recorded", error=repr(error))


_LATER: Final = "set a later one, or run more workers if it happens often"


def _used(link: EngineClient) -> dict[str, Used]:
    """Namespace → its rows, by the engine's last word; it says so once a second, and when it has none any more."""
    return {} if link.progress is None else {one: Used(rows=count) for one, count in link.progress.rows.items()}


def _request_in(record: Record) -> Request | Refusal:
    """The request in a record, or why there is none."""
    try:
        return REQUEST.decode(record.value)
    except Undecodable:
        # The exact reason would quote the record, and a dead letter keeps its text in one place only.
        return Refusal(
            FailureCode.UNDECODABLE_REQUEST,
            "the value is no request of this version: look who else writes to this topic",
        )


def _answered(request: Request, record: Record, refusal: Refusal) -> list[Outgoing]:
    """The failed reply, or a dead letter where nobody knows whose request it is.

    A reply would let whoever wrote it put our refusals on the reply topics of others.
    """
    if isinstance(refusal, Forged):
        return [dead_letter(record, refusal.code, refusal.message)]
    return refused(request, record, refusal)
