"""Whether an event may have its texts told piece by piece."""

from __future__ import annotations

from typing import Final

from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.topics import partial_topic_beside
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.request import ReplyAddress

MAX_BESIDE_BYTES: Final = 16 * 2**10
"""Key and echoed headers go with each piece."""


async def check_partial(caller: ReplyAddress, record: Record, topics: TopicDirectory) -> None:
    """Raises Refusal(invalid_header) where pieces cannot be told beside this reply address."""
    topic = partial_topic_beside(caller.topic)
    partitions = await topics.partitions(topic)
    if not partitions:
        raise _refused(
            f"needs the topic {topic}, which does not exist: apply the endpoint with `partial: true`, or have replies "
            "sent to where there is such a topic, or do not ask for pieces"
        )
    if caller.partition is not None and caller.partition >= partitions:
        raise _refused(
            f"needs partition {caller.partition} of the topic {topic}, which has {partitions}: name one of these for "
            "the reply, or none, or do not ask for pieces"
        )
    beside = Outgoing(
        topic=topic, value=None, key=record.key, headers=record.headers_named(header.ECHOED_HEADERS)
    ).beside_bytes
    if beside > MAX_BESIDE_BYTES:
        raise _refused(
            f"has key and echoed headers sent with each piece, and these have {beside} bytes: shorten them to "
            f"{MAX_BESIDE_BYTES}, or do not ask for pieces"
        )


def _refused(why: str) -> Refusal:
    return Refusal(FailureCode.INVALID_HEADER, f"to have the text told in pieces (`{header.PARTIAL}`) {why}")
