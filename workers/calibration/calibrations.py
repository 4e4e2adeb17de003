"""The biases of endpoints' labels: a worker looks them up in the catalogue. The first that needs them computes them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog
from aiokafka.errors import KafkaError

from guideway.catalogue.changes import Change, plan_changes
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish_planned
from guideway.delivery.clients.kafka_client import unreachable
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.calibration import Calibration
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.calibrated import Calibrated, LabelBias
from guideway.schemas.names.service_topics import CALIBRATIONS_TOPIC
from guideway.schemas.request import Request
from guideway.workers.calibration.calibrating import OF_THE_TEXT, asked, made_of
from guideway.workers.messages.from_engine import Finished

log = structlog.get_logger(__name__)

Run = Callable[[Request], Awaitable[Finished]]
"""Runs one request with partings (see `messages.Admit`), under the guidance of the request to be answered."""
_TRIES: Final = 4
_GATHER_S: Final = 0.2
"""Seconds to wait for others, to publish them together."""


class Calibrations:
    """The first request that needs unknown biases starts their calibration; the others wait.

    If several workers calibrate the same endpoint, all of them use the biases that were published first. Not
    thread-safe.
    """

    def __init__(self, reader: CatalogueFollower, cluster: Cluster, fingerprint: str) -> None:
        """fingerprint: of the loaded model."""
        self._reader = reader
        self._cluster = cluster
        self._fingerprint = fingerprint
        self._making: dict[tuple[str, ...], asyncio.Task[Calibrated]] = {}
        self._unpublished: dict[tuple[str, ...], Calibrated] = {}
        """Computed, but not in the catalogue yet. If it cannot be written, the next request publishes them again."""
        self._waiting: list[tuple[Calibrated, asyncio.Future[None]]] = []
        self._publishing: asyncio.Task[None] | None = None

    async def of(self, request: Request, run: Run) -> Mapping[str, float]:
        """Label → the number to add to its log-likelihood; empty if the request asks for no calibration.

        run: runs the texts of the calibration.

        Raises: Refusal `unknown_endpoint` if its version of the endpoint is gone; `broker_unreachable` if the biases
        cannot be published; the engine's Refusal if it refuses the texts.
        """
        if request.calibration is None:
            return {}
        guidance = guidance_of(request)
        if (known := self._known(self._reader.catalogue, request, guidance)) is not None:
            return known.by_label
        key = (request.namespace, request.endpoint, str(request.endpoint_version), *guidance)
        if (making := self._making.get(key)) is None:
            # In a task of its own: if this request is cancelled or late, the others still wait for the result.
            making = self._making[key] = asyncio.create_task(self._make(key, request, guidance, run))
            making.add_done_callback(lambda done: self._made(key, done))
        return (await asyncio.shield(making)).by_label

    async def stop(self) -> None:
        """Cancel the calibrations that are under way."""
        tasks = [*self._making.values(), *filter(None, [self._publishing])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _made(self, key: tuple[str, ...], done: asyncio.Task[Calibrated]) -> None:
        del self._making[key]
        if not done.cancelled() and (error := done.exception()) is not None:
            log.warning("an endpoint's labels are not calibrated", endpoint=f"{key[0]}/{key[1]}", error=str(error))

    def _known(self, catalogue: Catalogue, request: Request, guidance: Sequence[str]) -> Calibrated | None:
        return catalogue.calibrated(
            request.namespace,
            request.endpoint,
            endpoint_version=request.endpoint_version,
            guidance=guidance,
            model_fingerprint=self._fingerprint,
        )

    async def _make(self, key: tuple[str, ...], request: Request, guidance: Sequence[str], run: Run) -> Calibrated:
        """Compute the biases and publish them. If others published theirs first, return those."""
        endpoint = await self._reader.eventually(
            lambda catalogue: catalogue.endpoint_at(request.namespace, request.endpoint, request.endpoint_version)
        )
        rule = endpoint.calibration
        if not isinstance(rule, Calibration):
            raise Refusal(FailureCode.UNDECODABLE_REQUEST, "it asks for a calibration that its endpoint does not have")
        try:
            # Another worker may have published it a moment ago.
            await self._reader.current()
        except KafkaError as error:
            raise unreachable(self._cluster, error) from None
        if (known := self._known(self._reader.catalogue, request, guidance)) is not None:
            return known
        if (entry := self._unpublished.get(key)) is None:
            entry = self._unpublished[key] = await self._made_by(rule, request, guidance, run)
        await self._publish(entry)
        del self._unpublished[key]
        return self._known(self._reader.catalogue, request, guidance) or entry

    async def _made_by(self, rule: Calibration, request: Request, guidance: Sequence[str], run: Run) -> Calibrated:
        made = made_of(rule, request, [await self._ends(some, run) for some in asked(rule, request)])
        return Calibrated(
            namespace=request.namespace,
            name=request.endpoint,
            endpoint_version=request.endpoint_version,
            guidance=[*guidance],
            model_fingerprint=self._fingerprint,
            method=rule.method,
            biases=[LabelBias(label=label, bias=bias) for label, bias in made.biases.items()],
            texts=made.texts,
        )

    async def _ends(self, requests: Sequence[Request], run: Run) -> list[Finished | Refusal]:
        """The ends of requests, run together. Raises any other error: a temporary error must not change the biases."""
        ends = await asyncio.gather(*map(run, requests), return_exceptions=True)
        found: list[Finished | Refusal] = []
        for end in ends:
            if isinstance(end, BaseException) and not (isinstance(end, Refusal) and end.code in OF_THE_TEXT):
                raise end
            found.append(end)
        return found

    async def _publish(self, entry: Calibrated) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        if self._publishing is None or self._publishing.done():
            self._publishing = asyncio.create_task(self._publish_waiting(), name="publish calibrations")
        await done

    async def _publish_waiting(self) -> None:
        """Publish all that wait together, because each publication takes the only lock of all workers."""
        while self._waiting:
            await asyncio.sleep(_GATHER_S)
            some = {Identity.of(entry): (entry, done) for entry, done in reversed(self._waiting)}
            taken = [*some.values()]
            self._waiting = [one for one in self._waiting if one not in taken]

            async def planned(catalogue: Catalogue, taken: Sequence[tuple[Calibrated, object]] = taken) -> list[Change]:
                return plan_changes(catalogue, [entry for entry, _ in taken if not _has(catalogue, entry)])

            error: Exception | None = None
            for _ in range(_TRIES):
                try:
                    await publish_planned(self._cluster, [CALIBRATIONS_TOPIC], planned, reader=self._reader)
                except KafkaError as problem:
                    error = unreachable(self._cluster, problem)
                except Exception as problem:
                    error = problem
                else:
                    error = None
                    break
                # If workers take the lock from each other, any of several errors may come.
                await asyncio.sleep(random.uniform(0.1, 1))
            for _, done in taken:
                if not done.done():
                    with contextlib.suppress(asyncio.InvalidStateError):
                        done.set_exception(error) if error is not None else done.set_result(None)


def guidance_of(request: Request) -> list[str]:
    """The names of a request's guidance, as they stand in replies."""
    return [str(ref) for ref in request.guidance] + [
        part.source for part in request.parts if part.kind == "instruction" and part.source != "endpoint"
    ]


def _has(catalogue: Catalogue, entry: Calibrated) -> bool:
    return (
        catalogue.calibrated(
            entry.namespace,
            entry.name,
            endpoint_version=entry.endpoint_version,
            guidance=entry.guidance,
            model_fingerprint=entry.model_fingerprint,
        )
        is not None
    )
