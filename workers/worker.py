"""The worker: it reads the requests of one model size, runs them in its engine, and publishes one reply for each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import Any, Final

import msgspec
import structlog

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.intake import UNBOUNDED, Limit
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.replies import failed, reply_records
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal, our_fault
from guideway.schemas.manifests import Endpoint, Manifest
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Completed, FailedSample, Sample, Usage
from guideway.schemas.request import Request
from guideway.schemas.retrieval import Citation
from guideway.schemas.wire import REQUEST, Undecodable
from guideway.workers.calibration.calibrations import Calibrations, guidance_of
from guideway.workers.cancellations import CancellationFollower, Cancellations
from guideway.workers.engine_client import EngineClient, Poison
from guideway.workers.guidance.artefact_fetch import ArtefactFetch
from guideway.workers.guidance.guidance_fetch import GuidanceFetch
from guideway.workers.messages.from_engine import BatchReport, Finished, Generated
from guideway.workers.output_parser import read_value
from guideway.workers.retrieval.passages import Passages
from guideway.workers.retrieval.retrieval_client import RetrievalClient
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
        async with CatalogueFollower(settings.delivery.bootstrap) as reader:
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
            cancelled = CancellationFollower(settings.delivery.bootstrap, settings.size, self._cancellations)
            retrieval = RetrievalClient(settings.retrieval, model, settings.engine.model_cache)
            async with cancelled, link, retrieval:
                self._link = link
                self._artefacts = ArtefactFetch(ArtefactStore(settings.store), settings.artefact_cache)
                self._guidance = GuidanceFetch(reader, self._artefacts, link.fingerprint, link.former_fingerprint)
                self._passages = Passages(reader, self._artefacts, retrieval)
                self._calibrations = Calibrations(reader, settings.delivery.bootstrap, link.fingerprint)
                if any(_looks_up(one, settings.size) for _, one in reader.catalogue):
                    retrieval.warm()
                # The worker joins the group only now: before the model is loaded, requests would wait here for nothing.
                pipeline = Pipeline(
                    settings.delivery,
                    group=names.workers_group(settings.size),
                    topics=[names.request_topic(settings.size, lane) for lane in settings.lanes],
                    handle=self._handle,
                    refuse=self._refuse,
                    intake=ByLane() if len(settings.lanes) > 1 else None,
                )
                self._starting = None
                try:
                    await self._run_until_stopped(pipeline)
                finally:
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
        request = _request_in(record)
        if isinstance(request, Refusal):
            return [dead_letter(record, request.code, request.message)]
        try:
            async with self._cancellations.heeded(request, now=time.time()):
                completed = await self._complete(request, names.lane_of_topic(record.topic))
        except Poison as poison:
            return _refused(request, record, poison, keep=True)
        except Refusal as refusal:
            return _refused(request, record, refusal)
        except Exception as error:
            log.exception("request failed", request=request.id)
            return _refused(request, record, our_fault(error, "the worker"))
        return reply_records(completed, request.reply_to, record)

    async def _refuse(self, record: Record, refusal: Refusal) -> list[Outgoing]:
        """What to publish for a record that killed several workers in a row. The engine does not get it."""
        request = _request_in(record)
        if isinstance(request, Refusal):
            return [dead_letter(record, refusal.code, refusal.message)]
        return _refused(request, record, refusal, keep=True)

    async def _complete(self, request: Request, lane: names.Lane) -> Completed:
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
                        lambda: self._link.run(told, artefacts, lane, biases=biases)
                    )
        except TimeoutError:
            raise Refusal(
                FailureCode.DEADLINE_EXCEEDED, f"the deadline passed before the result was there: {_LATER}"
            ) from None
        return completed_reply(request, finished, self._link.fingerprint, citations)

    async def _told_partings(self, request: Request, lane: names.Lane) -> Finished:
        async with self._guidance.fetched(request.guidance, request.namespace) as artefacts:
            return await self._artefacts.with_good_copies(
                lambda: self._link.run(request, artefacts, lane, partings=True)
            )

    def _record_batch(self, report: BatchReport) -> None:
        if self._settings.record_batches is None:
            return
        try:
            with self._settings.record_batches.open("ab") as file:
                file.write(msgspec.json.encode(report) + b"\n")
        except OSError as error:
            log.warning("micro-batch not recorded", error=repr(error))


_LATER: Final = "set a later one, or run more workers if it happens often"


class ByLane:
    """A `delivery.intake.Intake` that gives each lane its own slots, however many requests the other lane has."""

    def party(self, topic: str) -> names.Lane:
        return names.lane_of_topic(topic)

    def limits(self, holding: Collection[Hashable]) -> Limit:
        return lambda lane: UNBOUNDED


def _looks_up(manifest: Manifest, size: str) -> bool:
    """Whether a manifest is an endpoint of this model size that uses retrieval sets."""
    return isinstance(manifest, Endpoint) and manifest.model_size == size and manifest.retrieval is not None


def _request_in(record: Record) -> Request | Refusal:
    """The request, or a Refusal if it cannot be read or its reply addresses are not allowed."""
    try:
        request = REQUEST.decode(record.value)
    except Undecodable:
        # The exact reason would quote the record, and a dead letter keeps its text in one place only.
        return Refusal(
            FailureCode.UNDECODABLE_REQUEST,
            "the value is no request of this version: look who else writes to this topic",
        )
    if not all(names.is_reply_topic_of(address.topic, request.namespace) for address in request.reply_to):
        return Refusal(
            FailureCode.REPLY_ADDRESS_REFUSED,
            "a reply address is outside the namespace: look who else writes to this topic",
        )
    return request


def _refused(request: Request, record: Record, refusal: Refusal, *, keep: bool = False) -> list[Outgoing]:
    """The failed reply, to the caller only. keep: add a dead letter too, because somebody has to look into it."""
    reply = failed(request.id, request.namespace, request.endpoint, refusal)
    letters = [dead_letter(record, refusal.code, refusal.message)] if keep else []
    return [*reply_records(reply, request.reply_to[:1], record), *letters]


def completed_reply(
    request: Request, finished: Finished, fingerprint: str, citations: list[Citation] | None = None
) -> Completed:
    """The typed reply: the samples that are complete, and for each other sample why it failed.

    Raises: Refusal, with the most frequent code of the samples, if none is complete.
    """
    samples: list[Sample] = []
    failed_samples: list[FailedSample] = []
    for index, one in enumerate(finished.samples):
        try:
            samples.append(_sample(request, one))
        except Refusal as refusal:
            failed_samples.append(FailedSample(sample=index, code=refusal.code, message=refusal.message))
    if not samples:
        raise _of_all(failed_samples)
    return Completed(
        id=request.id,
        namespace=request.namespace,
        endpoint=request.endpoint,
        endpoint_version=request.endpoint_version,
        samples=samples,
        usage=Usage(prompt_tokens=finished.prompt_tokens, output_tokens=finished.output_tokens),
        guidance=guidance_of(request),
        model_fingerprint=fingerprint,
        calibration=request.calibration,
        citations=citations,
        failed_samples=failed_samples or None,
    )


def _sample(request: Request, one: Generated) -> Sample:
    if one.failure is not None:
        raise Refusal(one.failure.code, one.failure.message)
    try:
        value = read_value(one.text, request.output, request.words)
    except ValueError as error:
        raise Refusal(
            FailureCode.INTERNAL_ERROR, f"the result does not have its declared form ({error}): report it"
        ) from None
    return Sample(value=value, text=one.text, finish_reason=one.finish_reason)


def _of_all(failed_samples: Sequence[FailedSample]) -> Refusal:
    """The refusal of a request all of whose samples failed."""
    [(code, _)] = Counter(one.code for one in failed_samples).most_common(1)
    message = next(one.message for one in failed_samples if one.code is code)
    several = f"none of {len(failed_samples)} samples is whole: " if len(failed_samples) > 1 else ""
    return Refusal(code, f"{several}{message}")
