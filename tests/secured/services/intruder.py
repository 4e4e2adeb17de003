"""A principal with an ordinary Kafka client who tries things. It is librdkafka: no code of ours stands in the way."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from tests.secured.cluster import SecuredCluster

from guideway.schemas.names.topics import own_reply_topic

Headers = Mapping[str, str | bytes] | Sequence[tuple[str, bytes]]

REFUSED: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        # librdkafka first asks where the leader is, and the cluster hides what one may not describe.
        KafkaError._NOENT,
    }
)
_TIMEOUT_S: Final = 20.0


@contextmanager
def refused() -> Any:
    """What is in it is refused by the cluster for want of a right, and for no other
    reason; or it is hidden."""
    with pytest.raises(KafkaException) as raised:
        yield
    error = raised.value.args[0]
    assert error.code() in REFUSED, error


@dataclass
class Intruder:
    """Each method raises KafkaException for what the cluster does not let it do."""

    secured: SecuredCluster
    principal: str

    def __post_init__(self) -> None:
        self._settings = self.secured.librdkafka(self.principal) | {"allow.auto.create.topics": False}
        # A client that is not there any more cannot be asked; librdkafka's administrator is thrown away too early.
        self.admin = AdminClient(self._settings)

    def send(
        self,
        topic: str,
        value: bytes | str | None = b"x",
        headers: Headers = (),
        *,
        key: bytes | str | None = None,
        partition: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> tuple[int, int]:
        """Publish one record; returns (partition, offset)."""
        producer = Producer(self._settings | {"message.timeout.ms": 15_000} | dict(settings or {}))
        outcomes: list[tuple[KafkaError | None, Message]] = []
        told = {} if partition is None else {"partition": partition}
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        producer.produce(
            topic, value, key=key, headers=pairs, on_delivery=lambda error, m: outcomes.append((error, m)), **told
        )
        producer.flush(_TIMEOUT_S)
        ((error, message),) = outcomes
        if error is not None:
            raise KafkaException(error)
        return message.partition(), message.offset()

    def send_all(self, topic: str, pairs: Sequence[tuple[str, bytes | None]]) -> None:
        """Publish records (key, value) in their order, to the first partition."""
        settings = {"message.timeout.ms": 15_000, "enable.idempotence": True, "message.max.bytes": 8_000_000}
        producer = Producer(self._settings | settings)
        errors: list[KafkaError] = []
        for key, value in pairs:
            producer.produce(
                topic, value, key=key, partition=0, on_delivery=lambda error, _: errors.append(error) if error else None
            )
        assert producer.flush(_TIMEOUT_S) == 0
        if errors:
            raise KafkaException(errors[0])

    def read(self, topic: str, *, partitions: int = 1) -> list[Message]:
        """All committed records that are there. partitions: how many the topic has, which the cluster may hide."""
        consumer = Consumer(
            self._settings
            | {
                "group.id": "unused",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 50,
            }
        )
        found, ended = [], 0
        try:
            # librdkafka waits half a minute for a topic that is hidden from it.
            if (hidden := consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].error) is not None:
                raise KafkaException(hidden)
            consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
            deadline = time.monotonic() + _TIMEOUT_S
            while ended < partitions and time.monotonic() < deadline:
                message = consumer.poll(1.0)
                if message is None:
                    continue
                if (error := message.error()) is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended += 1
                elif error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                    raise KafkaException(error)
                # librdkafka wants a group, and asks for it, also where it reads without one.
        finally:
            consumer.close()
        assert ended == partitions, f"{topic} was not read to its end"
        return found

    def call(
        self,
        topic: str,
        value: bytes | str | None,
        headers: Mapping[str, str | bytes] | None = None,
        *,
        key: bytes | str | None = None,
        replies: str = "",
        timeout_s: float = 30,
    ) -> dict[str, Any]:
        """Publish an event and await its reply, decoded. replies: where it comes; by default the topic's own.

        Raises TimeoutError.
        """
        correlation = uuid.uuid4().hex.encode()
        with self.listening(replies or own_reply_topic(topic)) as next_reply:
            self.send(topic, value, {**(headers or {}), "correlation_id": correlation}, key=key)
            deadline = time.monotonic() + timeout_s
            while (message := next_reply(deadline - time.monotonic())) is not None:
                if dict(message.headers() or []).get("correlation_id") == correlation:
                    decoded: dict[str, Any] = json.loads(message.value())
                    return decoded
        raise TimeoutError(f"no reply to what {self.principal} sent to {topic}")

    @contextmanager
    def listening(self, topic: str) -> Iterator[Callable[[float], Message | None]]:
        """Gives the next committed record that comes to a topic from now on, or None after so many seconds."""
        reading = {"group.id": "unused", "enable.auto.commit": False, "isolation.level": "read_committed"}
        consumer = Consumer(self._settings | reading | {"fetch.wait.max.ms": 50})

        def next_record(timeout_s: float) -> Message | None:
            deadline = time.monotonic() + timeout_s
            while (left_s := deadline - time.monotonic()) > 0:
                message = consumer.poll(left_s)
                if message is not None and message.error() is None:
                    return message
            return None

        try:
            known = consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
            if known.error is not None:
                raise KafkaException(known.error)
            ends = [TopicPartition(topic, number) for number in known.partitions]
            for one in ends:
                one.offset = consumer.get_watermark_offsets(one, timeout=_TIMEOUT_S)[1]
            consumer.assign(ends)
            yield next_record
        finally:
            consumer.close()

    def join(self, group: str, topic: str) -> None:
        """Become a member of a group that reads a topic."""
        consumer = Consumer(self._settings | {"group.id": group, "enable.auto.commit": False})
        assigned: list[Any] = []
        try:
            consumer.subscribe([topic], on_assign=lambda _, partitions: assigned.append(partitions))
            deadline = time.monotonic() + _TIMEOUT_S
            while not assigned and time.monotonic() < deadline:
                message = consumer.poll(0.5)
                if message is not None and (error := message.error()) is not None:
                    raise KafkaException(error)
        finally:
            consumer.close()
        assert assigned, f"neither member of {group} nor refused"

    def begin_transaction(self, transactional_id: str) -> None:
        """Take the place of whoever has this transactional id."""
        producer = Producer(self._settings | {"transactional.id": transactional_id})
        producer.init_transactions(_TIMEOUT_S)
        with suppress(KafkaException):
            producer.begin_transaction()

    def administer(self, request: Callable[[AdminClient], Any]) -> Any:
        """An administrator's request; of several futures all have to succeed."""
        outcome = request(self.admin)
        if isinstance(outcome, Future):
            return outcome.result(_TIMEOUT_S)
        return {name: future.result(_TIMEOUT_S) for name, future in outcome.items()}
