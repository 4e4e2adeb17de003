"""Headers of Kafka records. Their values are text in UTF-8 unless something else is said."""

from __future__ import annotations

from typing import Final

CORRELATION_ID: Final = "correlation_id"
REPLY_TO: Final = "reply_to"
DEADLINE: Final = "deadline"
"""Unix time in milliseconds, or RFC 3339 with an offset."""
ENDPOINT: Final = "endpoint"
"""On an event to a general address: the endpoint that it calls, as `/NAMESPACE/NAME`."""
PARTIAL: Final = "partial"
"""On an event: `true` has the text told piece by piece while it is made."""
GUIDANCE: Final = "guidance"
"""Guidance that the event names: `NAMESPACE/NAME[@VERSION]`, separated by commas."""
CONTENT_TYPE: Final = "content-type"
ACCEPT: Final = "accept"
"""On events: the content type that is wanted of the reply."""
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
GENERATION: Final = "generation"
"""On events: generation parameters that the event sets, as JSON."""
REQUEST_ID: Final = "request_id"
APPLIED_BY: Final = "guideway_applied_by"
"""On a record of the catalogue: the program that applied it by itself, `shadow`. Without it, somebody did."""
SHADOW: Final = "shadow"
"""The value of `APPLIED_BY`: a shadow that was promoted."""
CANCEL: Final = "cancel"
"""On an event without a value: the id of the request to cancel."""
STATUS: Final = "guideway_status"
"""On replies: `completed` or `failed`."""
FAILURE_CODE: Final = "guideway_failure_code"

SPRING_CORRELATION_ID: Final = "kafka_correlationId"
"""Opaque bytes."""
SPRING_REPLY_TOPIC: Final = "kafka_replyTopic"
SPRING_REPLY_PARTITION: Final = "kafka_replyPartition"
"""Four bytes, big-endian."""

SMALLRYE_CORRELATION_ID: Final = "REPLY_CORRELATION_ID"
SMALLRYE_REPLY_TOPIC: Final = "REPLY_TOPIC"
SMALLRYE_REPLY_PARTITION: Final = "REPLY_PARTITION"

CONTENT_TYPE_HEADERS: Final = (CONTENT_TYPE, "Content-Type", "contentType", "content_type")
"""The first header that is there counts. Spring Cloud Stream writes the third."""
REPLY_TOPIC_HEADERS: Final = (REPLY_TO, SPRING_REPLY_TOPIC, SMALLRYE_REPLY_TOPIC)
"""The first header that is there counts."""
REPLY_PARTITION_HEADERS: Final = (SPRING_REPLY_PARTITION, SMALLRYE_REPLY_PARTITION)
"""The first header that is there counts: four bytes, big-endian, or decimal digits as NestJS writes them."""

CLOUD_EVENT_PREFIX: Final = "ce_"
CLOUD_EVENT_SOURCE: Final = "ce_source"
"""On replies: the endpoint's address."""

OTHER_CORRELATION_IDS: Final = frozenset(
    {"correlationId", "CorrelationId", "correlation-id", "Correlation-Id", "Correlation-ID", "kafka_correlation_id"}
    | {"x-correlation-id", "X-Correlation-Id", "X-Correlation-ID"}
)
"""How others spell it. Who looks for one of these in replies would wait in vain without it."""
ECHOED_HEADERS: Final = OTHER_CORRELATION_IDS | {
    *(CORRELATION_ID, SPRING_CORRELATION_ID, SMALLRYE_CORRELATION_ID, TRACEPARENT, TRACESTATE)
}
"""Copied byte for byte from event to request to reply, repeated and empty ones included."""
ANSWERED_BY: Final = ECHOED_HEADERS | {REQUEST_ID, ENDPOINT, *REPLY_TOPIC_HEADERS, *REPLY_PARTITION_HEADERS}
"""What an answer needs of an event of which nothing else is read."""

DEAD_LETTER_PREFIX: Final = "guideway_dlq_"
CONNECT_ERROR_PREFIX: Final = "__connect.errors."
