"""Topics that are needed no more are deleted, as far as whoever asks may."""

from __future__ import annotations

from collections.abc import Collection

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from guideway.delivery.clients.administrator import administrator
from guideway.delivery.clients.kafka_client import unreachable
from guideway.delivery.connection.cluster import Cluster


async def remove_topics(cluster: Cluster, topics: Collection[str]) -> list[str]:
    """Delete these topics; returns those that stay, because they may not be deleted.

    One that is not there, or not to be seen, is no fault. Raises Refusal(broker_unreachable).
    """
    stay = []
    try:
        async with administrator(cluster) as admin:
            response = await admin.delete_topics(list(topics))
    except KafkaError as error:
        raise unreachable(cluster, error) from None
    for topic, code, *_ in response.topic_error_codes:
        fault: type[KafkaError] = for_code(code)
        if fault in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
            stay.append(topic)
        elif code and fault is not UnknownTopicOrPartitionError:
            if not fault.retriable:
                # As where a cluster deletes none: to ask again mends nothing.
                stay.append(topic)
                continue
            raise unreachable(cluster, fault())
    return stay
