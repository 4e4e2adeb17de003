"""Batchers: each takes jobs of all namespaces that it may read, and carries out several at a time.

A job ends exactly once, because `delivery` publishes its end and its offset in one transaction, under the lock of the
job's partition. Until then the offset stays, and whoever owns the partition next goes on with the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec
import structlog
from aiokafka.errors import KafkaError

from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.intake import Limit
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.job_run import JobRun
from guideway.producers.batch.road import Way
from guideway.producers.batch.sweeping import DAY_S, sweep
from guideway.producers.batch.trouble import STORE_FAILS, said
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.groups import BATCHERS_GROUP
from guideway.schemas.names.service_topics import (
    BATCH_TOPICS,
    batch_events_topic,
    batch_topic,
    is_batch_cancel_topic,
    owner_of_batch,
)
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.services.batch import KEPT_DAYS, BatchEnded, BatchJob, BatchProgress, Counts
from guideway.schemas.wire import BATCH_JOB, BATCH_NEWS, BATCH_WISH, Undecodable

log = structlog.get_logger(__name__)

_TELL_S: Final = 1.0
_TELL_AGAIN_S: Final = 5.0
"""Where nothing has changed: that somebody has the job is to be seen all the same."""
_LOOK_S: Final = 0.5
"""How often it is looked whether a job only waits."""
_SWEEP_S: Final = 4 * 3600.0
_DEATHS: Final = 3
"""A job is given up after so many more deaths without progress than make it suspect."""
_Which = tuple[str, str]
"""(namespace, id) of a job."""


class BatcherSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one batcher."""

    cluster: Cluster
    store: str
    """The store in which jobs have their rows, any fsspec address."""
    jobs: int = 32
    """Jobs at a time, of all namespaces but for those that only wait, and of each namespace with those; more wait in
    their topics."""
    namespace: str | None = None
    """Whose jobs are taken; None: those of all namespaces."""
    kept_s: float = KEPT_DAYS * DAY_S
    """For how long results stay in the store."""

    @property
    def delivery(self) -> DeliverySettings:
        """Shutdown does not wait for jobs, because another batcher goes on with them; a dead one is missed soon."""
        return DeliverySettings(
            cluster=self.cluster, capacity=self.jobs, partition_capacity=64, drain_timeout_s=0.1, session_timeout_s=6.0
        )


class ByNamespace:
    """An `Intake`: namespaces share the slots, so that the jobs of one keep none of another's from beginning."""

    def __init__(self, jobs: int) -> None:
        """jobs: of one namespace at a time, with those that only wait and hold no slot."""
        self._jobs = jobs

    def party(self, topic: str) -> Hashable:
        """The namespace of a topic."""
        return owner_of_batch(topic)

    def limits(self, holding: Mapping[Hashable, int]) -> Limit:
        """Each has a road of its own, with its connections, also while it waits."""
        return lambda party: self._jobs


class BatchService:
    """One of any number of batchers. `run` returns after `stop`; what it has at hand, others go on with."""

    def __init__(self, settings: BatcherSettings) -> None:
        self._settings = settings
        self._cancelled: set[_Which] = set()
        self._at_hand: dict[_Which, JobRun] = {}
        self._joining: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """One job of each namespace at a time, so that nobody's large jobs take all threads from the others."""
        self._choosing: WeakValueDictionary[_Which, asyncio.Lock] = WeakValueDictionary()
        """Of two records of one job, which is carried out. They come in the order of the topic, to any batcher."""
        self._told: dict[_Which, tuple[float, BatchProgress]] = {}
        self._producer: Any
        only = settings.namespace
        self.pipeline = Pipeline(
            settings.delivery,
            group=BATCHERS_GROUP,
            handle=self._handle,
            refuse=self._refuse,
            intake=ByNamespace(settings.jobs),
            on_published=self._published,
            **({"pattern": BATCH_TOPICS} if only is None else {"topics": [batch_topic(only)]}),
        )

    def stop(self, within_s: float | None = None) -> None:
        """Leave. What is under way stays in Kafka and in the store."""
        self.pipeline.stop(within_s)

    async def run(self) -> None:
        """Carry out jobs until `stop`. Raises: Refusal `broker_unreachable`, `not_allowed`."""
        cluster = self._settings.cluster
        cancellations = TopicFollower(TopicReader(cluster, "batcher", self._is_cancel_topic, self._note))
        async with started(make_producer(cluster, "batcher"), cluster) as self._producer, cancellations.followed():
            sweeping = asyncio.create_task(self._sweep(), name="remove what is kept no longer")
            try:
                await self.pipeline.run()
            finally:
                sweeping.cancel()

    async def _sweep(self) -> None:
        settings, over = self._settings, threading.Event()
        while True:
            # Not all at once, where many begin together.
            await asyncio.sleep(random.uniform(0.5, 1.0) * _SWEEP_S)
            try:
                count = await asyncio.to_thread(
                    sweep, settings.store, settings.namespace, time.time(), settings.kept_s, over.is_set
                )
                log.info("results of batch jobs are removed", jobs=count)
            except Exception as error:
                log.warning("results cannot be removed now", error=type(error).__name__)
            except asyncio.CancelledError:
                # A process waits for its threads.
                over.set()
                raise

    def _is_cancel_topic(self, topic: str) -> bool:
        only = self._settings.namespace
        return is_batch_cancel_topic(topic) and only in (None, owner_of_batch(topic))

    async def _handle(self, record: Record) -> list[Outgoing]:
        namespace = owner_of_batch(record.topic)
        assert namespace is not None, "a batcher reads topics of batch jobs only"
        try:
            job = BATCH_JOB.decode(record.value)
        except Undecodable as error:
            return [dead_letter(record, FailureCode.UNDECODABLE_EVENT, f"no batch job of this version: {error}")]
        which = (namespace, job.id)
        try:
            async with self._choosing.setdefault(which, asyncio.Lock()):
                is_first = await self._is_first(namespace, job, record)
            if not is_first:
                log.warning("a batch job was submitted twice", namespace=namespace, job=job.id)
                return []
            while (before := self._at_hand.get(which)) is not None:
                # The partition was away for a moment: what carried the job out is about to let go of it.
                await before.let_go.wait()
            return [_outgoing(namespace, await self._carry_out(namespace, job, record))]
        except Exception as error:
            # Watchers must see an end, whatever the error.
            log.exception("batch job failed", namespace=namespace, job=job.id)
            return [_outgoing(namespace, _failed(job, f"{type(error).__name__} in the batcher: report it"))]

    async def _is_first(self, namespace: str, job: BatchJob, record: Record) -> bool:
        """Whether this record is the one of the job that is carried out."""
        ours = f"{record.topic}/{record.partition}/{record.offset}/{record.timestamp_ms}"
        folder = JobFolder(self._settings.store, namespace, job.id)
        while True:
            try:
                return await asyncio.to_thread(folder.owner, ours) == ours
            except Exception as error:
                log.error("the store does not answer for a batch job", job=job.id, error=type(error).__name__)
                at_ms, trouble = time.time_ns() // 1_000_000, f"{STORE_FAILS} ({said(error)}): it is tried again"
                held_up = BatchProgress(job=job.id, at_ms=at_ms, stage="running", counts=Counts(), trouble=trouble)
                with contextlib.suppress(KafkaError):
                    await self._tell(namespace, held_up)
            await asyncio.sleep(5)

    async def _carry_out(self, namespace: str, job: BatchJob, record: Record) -> BatchEnded:
        which = (namespace, job.id)

        async def tell(progress: BatchProgress) -> None:
            await self._tell(namespace, progress)

        folder = JobFolder(self._settings.store, namespace, job.id)
        way = Way(namespace, job, record.partition)
        joining = self._joining[namespace]
        share = partial(self._share, which)
        run = JobRun(self._settings.cluster, folder, job, way, tell, share=share, joining=joining)
        self._at_hand[which] = run
        if which in self._cancelled:
            run.cancel()
        log.info("batch job begins", namespace=namespace, job=job.id, rows=job.rows)
        resting = asyncio.create_task(self._rest(run, record), name=f"rest of {job.id}")
        try:
            ended = await run.carry_out()
        finally:
            resting.cancel()
            del self._at_hand[which]
            run.let_go.set()
            self._told.pop(which, None)
        log.info("batch job has ended", namespace=namespace, job=job.id, outcome=ended.outcome)
        return ended

    def _share(self, which: _Which) -> int:
        """How many jobs of its namespace share the rows that may be unanswered: those that rest take nothing from the
        others, and little each.
        """
        jobs = [run for (of, _), run in self._at_hand.items() if of == which[0]]
        return len(jobs) if self._at_hand[which].rests else sum(not run.rests for run in jobs)

    async def _rest(self, run: JobRun, record: Record) -> None:
        """It holds no slot while it only waits, for a week perhaps: jobs of others have it."""
        while True:
            rests = run.rests
            async with self.pipeline.assigned.resting(record) if rests else contextlib.nullcontext():
                while run.rests == rests:  # noqa: ASYNC110 - time makes it rest
                    await asyncio.sleep(_LOOK_S)

    async def _refuse(self, record: Record, refusal: Refusal) -> list[Outgoing]:
        """A job under which batcher after batcher died. Over a night that may be no fault of the job's: it goes on."""
        namespace = owner_of_batch(record.topic) or ""
        try:
            job = BATCH_JOB.decode(record.value)
            deaths = await asyncio.to_thread(JobFolder(self._settings.store, namespace, job.id).died)
        except Exception as error:
            # What cannot be read is answered below, and a store that does not answer is waited for there.
            log.warning("nobody knows how often a batch job was given up", error=type(error).__name__)
        else:
            if deaths > _DEATHS:
                message = "batcher after batcher died with it, and no row more was answered: report it, with their logs"
                return [_outgoing(namespace, _failed(job, message))]
        return await self._handle(record)

    async def _tell(self, namespace: str, progress: BatchProgress) -> None:
        """Tell the watchers, now and then."""
        which, now = (namespace, progress.job), asyncio.get_running_loop().time()
        told_at, before = self._told.get(which, (float("-inf"), None))
        has_changed = before is None or msgspec.structs.replace(before, at_ms=progress.at_ms) != progress
        if now - told_at >= (_TELL_S if has_changed else _TELL_AGAIN_S):
            self._told[which] = now, progress
            topic = batch_events_topic(namespace)
            await self._producer.send(topic, key=progress.job.encode(), value=BATCH_NEWS.encode(progress))

    def _note(self, records: Sequence[Any]) -> None:
        for record in records:
            with contextlib.suppress(Undecodable):
                # A cancellation counts for jobs of its topic's namespace only; what is deleted has ended.
                which = (owner_of_batch(record.topic) or "", BATCH_WISH.decode(record.value).job)
                self._cancelled.add(which)
                if (run := self._at_hand.get(which)) is not None:
                    run.cancel()

    def _published(self, topic: str, placed: Sequence[tuple[Outgoing, Any]]) -> None:
        """Jobs of this topic have ended, as everybody can see now: their pieces are needed no more."""
        namespace = owner_of_batch(topic)
        for outgoing, _ in placed:
            if namespace is not None and outgoing.topic == batch_events_topic(namespace):
                job = (outgoing.key or b"").decode().partition("/")[0]
                folder = JobFolder(self._settings.store, namespace, job)
                asyncio.get_running_loop().run_in_executor(None, _forget, folder)


def _forget(folder: JobFolder) -> None:
    with contextlib.suppress(Exception):
        folder.forget_pieces()


def _failed(job: BatchJob, message: str) -> BatchEnded:
    code = FailureCode.INTERNAL_ERROR.value
    at_ms = time.time_ns() // 1_000_000
    return BatchEnded(job=job.id, at_ms=at_ms, outcome="failed", counts=Counts(), code=code, message=message)


def _outgoing(namespace: str, ended: BatchEnded) -> Outgoing:
    key = f"{ended.job}/ended".encode()
    return Outgoing(topic=batch_events_topic(namespace), key=key, value=BATCH_NEWS.encode(ended))
