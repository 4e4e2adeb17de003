"""The audit trail, as whoever may read it sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import ConsumerRecord, TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, started, unreachable
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards.fetch_guards import know_topics
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import AUDIT_TOPIC
from guideway.schemas.services.audit import Audited
from guideway.schemas.wire import AUDITED, Undecodable

_LOOK_MS: Final = 500


async def audited(
    cluster: Cluster, *, follow: bool, on_undecodable: Callable[[ConsumerRecord, Undecodable], None] = lambda *_: None
) -> AsyncIterator[Audited]:
    """The trail from its beginning; with `follow` also what comes, for ever.

    Raises Refusal: invalid_setting where there is no trail or it may not be read, broker_unreachable.
    """
    async with started(make_consumer(cluster, "audit"), cluster) as consumer:
        try:
            if AUDIT_TOPIC not in await consumer.topics():
                raise _no_trail(cluster)
            await know_topics(consumer, [AUDIT_TOPIC])
            numbers = consumer.partitions_for_topic(AUDIT_TOPIC) or {0}
            consumer.assign([TopicPartition(AUDIT_TOPIC, number) for number in sorted(numbers)])
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(list(consumer.assignment()))
            while follow or any([await consumer.position(tp) < end for tp, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=_LOOK_MS)).values():
                    for record in records:
                        try:
                            yield AUDITED.decode(record.value)
                        except Undecodable as error:
                            on_undecodable(record, error)
        except TopicAuthorizationFailedError:
            raise _no_trail(cluster) from None
        except (KafkaError, TimeoutError) as error:
            raise unreachable(cluster, error, connected=True) from None


def _no_trail(cluster: Cluster) -> Refusal:
    return Refusal(
        FailureCode.INVALID_SETTING,
        f"the cluster at {cluster} shows no topic {AUDIT_TOPIC}: an administrator reads it; `guideway services "
        "create` makes it, `guideway steward` writes it",
    )
