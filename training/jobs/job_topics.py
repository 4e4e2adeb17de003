"""The topics of training jobs: submits, watches and cancels jobs of a namespace."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from aiokafka.errors import KafkaError

from guideway.delivery.clients.kafka_client import make_producer, started, unreachable
from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.clients.topic_records import topic_records
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import training_cancel_topic, training_events_topic, training_topic
from guideway.schemas.wire import Undecodable
from guideway.training.jobs.messages import JOB, JOB_CANCELLED, JOB_NEWS, Followed, Job, JobCancelled, JobEnded, JobNews


async def submit(cluster: Cluster, job: Job) -> None:
    """Send the job to the topic of its namespace.

    Raises: Refusal `broker_unreachable`, or `invalid_setting` if it is too large.
    """
    value = JOB.encode(job)
    if len(value) > MAX_RECORD_BYTES:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the task takes {len(value)} bytes, {MAX_RECORD_BYTES} can be sent: shorten its instruction or schema",
        )
    await _send(cluster, training_topic(job.task.namespace), job.id, value)


async def cancel(cluster: Cluster, namespace: str, job: str) -> None:
    """Cancel the job: no trainer begins it, and a trainer that runs it ends it.

    Raises: Refusal `broker_unreachable`, or `invalid_setting` if there is no such job or it has ended.
    """
    await require(cluster, namespace, job)
    async with aclosing(records(cluster, training_events_topic(namespace), follow=False)) as told:
        async for record in told:
            match _news(record.value):
                case JobEnded(job=ended, outcome=outcome) if ended == job:
                    raise Refusal(FailureCode.INVALID_SETTING, f"job {job} has ended already: it is {outcome}")
    await _send(cluster, training_cancel_topic(namespace), job, JOB_CANCELLED.encode(JobCancelled(job=job)))


async def watch(cluster: Cluster, namespace: str, job: str) -> AsyncIterator[JobNews]:
    """All events of the job, past ones first, until it has ended.

    Raises: Refusal `broker_unreachable`, or `invalid_setting` if there is no such job.
    """
    await require(cluster, namespace, job)
    followed = Followed(job)
    async with aclosing(records(cluster, training_events_topic(namespace), follow=True)) as told:
        async for record in told:
            news = _news(record.value)
            if news is not None and followed.is_new(news):
                yield news
                if isinstance(news, JobEnded):
                    return


async def require(cluster: Cluster, namespace: str, job: str) -> None:
    """Check that a job of this id was submitted in the namespace.

    Raises: Refusal `invalid_setting` if not; it names the latest jobs.
    """
    known: list[str] = []
    async for record in records(cluster, training_topic(namespace), follow=False):
        known.append((record.key or b"").decode("utf-8", "replace"))
    if job not in known:
        # A key may be any bytes of any length.
        latest = ", ".join(one[:200] for one in known[-5:]) or "none"
        raise Refusal(
            FailureCode.INVALID_SETTING, f"there is no job {job!r} in namespace {namespace}; the latest are: {latest}"
        )


async def records(cluster: Cluster, topic: str, *, follow: bool) -> AsyncGenerator[Any, None]:
    """All records of a topic from its beginning. follow: also wait for new ones, for ever.

    Raises: Refusal `broker_unreachable`, or `invalid_setting` if there is no such topic.
    """
    async with aclosing(
        topic_records(cluster, "training", topic, follow=follow, absent=_absent(cluster, topic))
    ) as found:
        async for record in found:
            yield record


@asynccontextmanager
async def followed(
    cluster: Cluster, is_one: Callable[[str], bool], take: Callable[[Sequence[Any]], None]
) -> AsyncIterator[None]:
    """`async with followed(...):` – gives `take` all records of such topics on entry, and then each new one.

    Raises: Refusal `broker_unreachable`.
    """
    async with TopicFollower(TopicReader(cluster, "training", is_one, take)).followed():
        yield


def _absent(cluster: Cluster, topic: str) -> Refusal:
    return Refusal(
        FailureCode.INVALID_SETTING,
        f"the cluster at {cluster} has no topic {topic}: submit a job, or start `guideway trainer`",
    )


async def _send(cluster: Cluster, topic: str, key: str, value: bytes) -> None:
    async with started(make_producer(cluster, "training"), cluster) as producer:
        try:
            await producer.send_and_wait(topic, key=key.encode(), value=value)
        except KafkaError as error:
            raise unreachable(cluster, error) from None


def _news(value: bytes | None) -> JobNews | None:
    """The decoded record; None if it cannot be decoded, as one of a newer version: nobody waits for an error here."""
    try:
        return JOB_NEWS.decode(value)
    except Undecodable:
        return None
