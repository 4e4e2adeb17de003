"""The topics of training jobs: submits, watches and cancels jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from aiokafka.errors import KafkaError

from guideway.delivery.clients.kafka_client import make_producer, started, unreachable
from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.wire import Undecodable
from guideway.training.jobs.messages import JOB, JOB_CANCELLED, JOB_NEWS, Followed, Job, JobCancelled, JobEnded, JobNews


async def submit(bootstrap: str, job: Job) -> None:
    """Send the job to the jobs topic. Raises: Refusal `broker_unreachable`, or `invalid_setting` if it is too large."""
    value = JOB.encode(job)
    if len(value) > MAX_RECORD_BYTES:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the task takes {len(value)} bytes, {MAX_RECORD_BYTES} can be sent: shorten its instruction or schema",
        )
    await _send(bootstrap, names.TRAINING_JOBS_TOPIC, job.id, value)


async def cancel(bootstrap: str, job: str) -> None:
    """Cancel the job: no trainer begins it, and a trainer that runs it ends it.

    Raises: Refusal `broker_unreachable`, or `invalid_setting` if there is no such job or it has ended.
    """
    await require(bootstrap, job)
    async with aclosing(records(bootstrap, names.TRAINING_EVENTS_TOPIC, follow=False)) as told:
        async for record in told:
            match _news(record.value):
                case JobEnded(job=ended, outcome=outcome) if ended == job:
                    raise Refusal(FailureCode.INVALID_SETTING, f"job {job} has ended already: it is {outcome}")
    await _send(bootstrap, names.TRAINING_CANCEL_TOPIC, job, JOB_CANCELLED.encode(JobCancelled(job=job)))


async def watch(bootstrap: str, job: str) -> AsyncIterator[JobNews]:
    """All events of the job, past ones first, until it has ended.

    Raises: Refusal `broker_unreachable`, or `invalid_setting` if there is no such job.
    """
    await require(bootstrap, job)
    followed = Followed(job)
    async with aclosing(records(bootstrap, names.TRAINING_EVENTS_TOPIC, follow=True)) as told:
        async for record in told:
            news = _news(record.value)
            if news is not None and followed.is_new(news):
                yield news
                if isinstance(news, JobEnded):
                    return


async def require(bootstrap: str, job: str) -> None:
    """Check that a job of this id was submitted. Raises: Refusal `invalid_setting` if not; it names the latest jobs."""
    known: list[str] = []
    async for record in records(bootstrap, names.TRAINING_JOBS_TOPIC, follow=False):
        known.append((record.key or b"").decode("utf-8", "replace"))
    if job not in known:
        # A key may be any bytes of any length.
        latest = ", ".join(one[:200] for one in known[-5:]) or "none"
        raise Refusal(FailureCode.INVALID_SETTING, f"there is no job {job!r}; the latest are: {latest}")


async def records(bootstrap: str, topic: str, *, follow: bool) -> AsyncGenerator[Any, None]:
    """All records of a topic from its beginning. follow: also wait for new ones, for ever.

    Raises: Refusal `broker_unreachable`, or `invalid_setting` if there is no such topic.
    """
    taken: deque[Any] = deque()
    async with TopicFollower(bootstrap, "training", topic, taken.extend) as follower:
        try:
            await _find(follower, bootstrap, topic)
            async with aclosing(follower.catching_up()) as catching_up:
                async for _ in catching_up:
                    while taken:
                        yield taken.popleft()
            while follow:
                await follower.read(timeout_ms=200)
                while taken:
                    yield taken.popleft()
        except (KafkaError, TimeoutError) as error:
            raise unreachable(bootstrap, error, connected=True) from None


@asynccontextmanager
async def followed(bootstrap: str, topic: str, take: Callable[[Sequence[Any]], None]) -> AsyncIterator[None]:
    """`async with followed(...):` – gives `take` all records of the topic on entry, and then each new one.

    Raises: Refusal `broker_unreachable`, or `invalid_setting` if there is no such topic.
    """
    async with TopicFollower(bootstrap, "training", topic, take) as follower:
        try:
            await _find(follower, bootstrap, topic)
            await follower.catch_up()
        except (KafkaError, TimeoutError) as error:
            raise unreachable(bootstrap, error, connected=True) from None
        follower.follow()
        yield


async def _find(follower: TopicFollower, bootstrap: str, topic: str) -> None:
    if not await follower.find():
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the cluster at {bootstrap} has no topic {topic}: submit a job, or start `guideway trainer`",
        )


async def _send(bootstrap: str, topic: str, key: str, value: bytes) -> None:
    async with started(make_producer(bootstrap, "training"), bootstrap) as producer:
        try:
            await producer.send_and_wait(topic, key=key.encode(), value=value)
        except KafkaError as error:
            raise unreachable(bootstrap, error) from None


def _news(value: bytes | None) -> JobNews | None:
    """The decoded record; None if it cannot be decoded, as one of a newer version: nobody waits for an error here."""
    try:
        return JOB_NEWS.decode(value)
    except Undecodable:
        return None
