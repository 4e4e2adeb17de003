"""A partition's questions to Kafka, asked by aiokafka."""

from __future__ import annotations

from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.clients.kafka_client import make_producer
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.guards import group_guards, transaction_guards
from guideway.delivery.settings import BATCH_BYTES, MAX_REQUEST_BYTES, DeliverySettings
from guideway.schemas.names.clients import token_of_client_id

SMALL_BATCH_BYTES: Final = 1
"""Each record goes alone: aiokafka puts the first one into a batch whatever its size."""


class PartitionClient:
    """A `PartitionKafka` by aiokafka."""

    def __init__(self, consumer: AIOKafkaConsumer, topics: TopicDirectory, settings: DeliverySettings) -> None:
        self._consumer = consumer
        self._settings = settings
        self._topics = topics

    def producer(self, transactional_id: str) -> AIOKafkaProducer:
        return make_producer(
            self._settings.cluster,
            "delivery",
            transactional_id=transactional_id,
            transaction_timeout_ms=int(self._settings.transaction_timeout_s * 1000),
            request_timeout_ms=15_000,
            retry_backoff_ms=20,
            max_request_size=MAX_REQUEST_BYTES,
            max_batch_size=BATCH_BYTES,
        )

    def in_small_batches(self, producer: AIOKafkaProducer) -> None:
        producer._message_accumulator._batch_size = SMALL_BATCH_BYTES

    async def renew(self, producer: AIOKafkaProducer) -> None:
        await transaction_guards.renew_epoch(producer)

    async def discard(self, producer: AIOKafkaProducer) -> None:
        await transaction_guards.discard(producer)

    async def committed(self, tp: TopicPartition) -> OffsetAndMetadata | None:
        return await group_guards.committed(self._consumer, tp)

    async def alive(self) -> frozenset[int]:
        tokens = map(token_of_client_id, await group_guards.members(self._consumer))
        return frozenset(token for token in tokens if token is not None)

    async def first_offset(self, tp: TopicPartition) -> int:
        return int((await self._consumer.beginning_offsets([tp]))[tp])

    async def end_offset(self, tp: TopicPartition) -> int:
        return int((await self._consumer.end_offsets([tp]))[tp])

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._consumer.seek(tp, offset)

    async def partitions(self, topic: str) -> int:
        return await self._topics.partitions(topic)
