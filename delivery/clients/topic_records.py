"""The records of a topic, or of a few, one after the other, for whoever looks for something there."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Any

from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from guideway.delivery.clients.kafka_client import unreachable
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.failures import Refusal


async def topic_records(
    cluster: Cluster, role: str, topics: str | Collection[str], *, follow: bool, absent: Refusal | None = None
) -> AsyncGenerator[Any, None]:
    """All records of a topic from its beginning. Close it, also where it is left before its end (`aclosing`).

    role: names the client. topics: one, or several, whose records come in no order but that of each partition.
    follow: then also each new one, for ever. absent: raised where there is no such topic; None: then there are no
    records. Raises also Refusal(broker_unreachable | not_allowed).
    """
    taken: deque[Any] = deque()
    ours = topics if isinstance(topics, str) else frozenset(topics).__contains__
    async with TopicReader(cluster, role, ours, taken.extend) as reader:
        try:
            is_there = await reader.find()
            _require_all(reader)
            if not is_there:
                if absent is not None:
                    raise absent
                return
            async with aclosing(reader.catching_up()) as catching_up:
                async for _ in catching_up:
                    while taken:
                        yield taken.popleft()
            _require_all(reader)
            while follow:
                await reader.read(timeout_ms=200)
                while taken:
                    yield taken.popleft()
        except (KafkaError, TimeoutError) as error:
            raise unreachable(cluster, error, connected=True) from None


def _require_all(reader: TopicReader) -> None:
    if reader.refused:
        # Half of what there is would look like all of it.
        raise TopicAuthorizationFailedError(sorted(reader.refused))
