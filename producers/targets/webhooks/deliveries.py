"""Deliveries of one process to webhooks: each is attempted, waits for its next attempt, or becomes a dead letter."""

from __future__ import annotations

import random
import time

import msgspec
import structlog

from guideway.catalogue.entries import Catalogue
from guideway.catalogue.targets.recipients import webhook_of
from guideway.delivery.dead_letters import dead_letter
from guideway.producers.targets.webhooks.gates import PATIENCE_S, Gates
from guideway.producers.targets.webhooks.held import HeldWebhooks
from guideway.producers.targets.webhooks.outcome import (
    Answer,
    Broken,
    Dead,
    Done,
    Later,
    Outcome,
    Step,
    held_refusal,
    next_step,
    put_off,
    restarted,
)
from guideway.producers.targets.webhooks.secret_files import SecretFiles
from guideway.producers.targets.webhooks.sender import Sender
from guideway.producers.targets.webhooks.signing import signed_headers
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.targets import Webhook
from guideway.schemas.names.service_topics import deliveries_topic
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.services.leaving import DELAYS_S, Delivery
from guideway.schemas.wire import DELIVERY

log = structlog.get_logger(__name__)


class Deliveries:
    """Owner of the gates. It keeps no delivery: what comes of one is published with its record's offset."""

    def __init__(self, sender: Sender, secrets: SecretFiles, held: HeldWebhooks) -> None:
        self._sender, self._secrets, self._held = sender, secrets, held
        self._gates = Gates()

    async def deliver(self, namespace: str, delivery: Delivery, record: Record, catalogue: Catalogue) -> list[Outgoing]:
        """What to publish: nothing, the delivery for later, or its dead letter. record: from which it was read."""
        key = (namespace, delivery.webhook)
        found = webhook_of(catalogue, *key)
        if found is None:
            step: Step = Dead(
                Refusal(
                    FailureCode.WEBHOOK_FAILED,
                    f"webhook {delivery.webhook} was deleted: apply it again, then replay these dead letters",
                )
            )
            return self._published(namespace, delivery, record, step, 0)
        version, webhook = found
        if self._held.holds(namespace, webhook.name, version):
            return self._published(namespace, delivery, record, Dead(held_refusal(webhook.name)), version)
        if self._gates.wait_s(key, (now := time.monotonic())) > PATIENCE_S:
            # How long it would wait is a guess, and no reason to wait for longer than the first times.
            wait_s = self._gates.closed_s(key, now)
            return self._published(namespace, delivery, record, put_off(delivery, _now_ms(), wait_s=wait_s), version)
        with self._gates.entered(key, time.monotonic()) as turn:
            async with turn:
                step = await self._attempt(key, webhook, delivery)
        return self._published(namespace, delivery, record, step, version)

    async def _attempt(self, key: tuple[str, str], webhook: Webhook, delivery: Delivery) -> Step:
        # While it waited for its turn the receiver may have said that it wants nothing for a while.
        if (wait_s := self._gates.closed_s(key, time.monotonic())) > 0:
            return put_off(delivery, _now_ms(), wait_s=wait_s)
        began = time.monotonic()
        outcome = await self._post(webhook, delivery)
        self._gates.took(key, time.monotonic() - began)
        if isinstance(outcome, Answer) and outcome.status in (429, 503) and outcome.retry_after_s:
            # Not for longer than a delivery waits: what never opens again would let none of them have its attempts.
            self._gates.close(key, time.monotonic() + min(outcome.retry_after_s, DELAYS_S[-1]))
        step = next_step(outcome, delivery, _now_ms(), random.random())
        log.info(
            "webhook attempted",
            namespace=webhook.namespace,
            webhook=webhook.name,
            delivery=delivery.id,
            attempt=delivery.attempts + 1,
            outcome=outcome.status if isinstance(outcome, Answer) else outcome.why,
        )
        return step

    async def _post(self, webhook: Webhook, delivery: Delivery) -> Outcome:
        try:
            secrets = self._secrets.read(webhook.namespace, webhook.secret)
        except Refusal as refusal:
            return Broken(refusal.message)
        body = delivery.payload.encode()
        headers = signed_headers(delivery.id, body, secrets, time.time())
        return await self._sender.post(webhook.address, headers, body, timeout_s=webhook.timeout_s)

    def _published(
        self, namespace: str, delivery: Delivery, record: Record, step: Step, version: int
    ) -> list[Outgoing]:
        match step:
            case Done():
                return []
            case Later(later, partition):
                topic = deliveries_topic(namespace)
                return [Outgoing(topic=topic, partition=partition, key=record.key, value=DELIVERY.encode(later))]
            case Dead(refusal, holds):
                log.warning(
                    "delivery given up",
                    namespace=namespace,
                    webhook=delivery.webhook,
                    delivery=delivery.id,
                    code=refusal.code.value,
                    why=refusal.message,
                )
                notes = [self._held.hold(namespace, delivery.webhook, version)] if holds else []
                return [*notes, self._dead(namespace, delivery, record, refusal)]

    def _dead(self, namespace: str, delivery: Delivery, record: Record, refusal: Refusal) -> Outgoing:
        """A dead letter of the topic of deliveries, wherever it was read: put back, it is this delivery only."""
        value = DELIVERY.encode(restarted(delivery, _now_ms()))
        of = msgspec.structs.replace(record, topic=deliveries_topic(namespace), partition=0, value=value, headers=())
        return dead_letter(of, refusal.code, refusal.message)


def due_in_s(delivery: Delivery, record: Record, longest_s: float) -> float:
    """In how many seconds the delivery is due, 0: it is; whatever it says, at most so long after it was written."""
    due_ms = min(delivery.due_ms, record.timestamp_ms + int(longest_s * 1000))
    return max(0.0, due_ms / 1000 - time.time())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
