"""What the proxy decides without a socket: where a frame ends, whose request it is, and which rule acts on it.

A frame is four bytes of length and a request or a response. Requests begin with a header, whatever their version;
responses begin with the correlation id of their request.
"""

from __future__ import annotations

import enum
import random
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Literal

from aiokafka.protocol.commit import OffsetFetchResponse_v1, OffsetFetchResponse_v2, OffsetFetchResponse_v3

MAX_FRAME_BYTES: Final = 128 * 2**20
"""A longer frame is none: these bytes are not Kafka's protocol."""


class Api(enum.IntEnum):
    """The requests that faults are aimed at, by Kafka's own numbers."""

    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    HEARTBEAT = 12
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


@dataclass(frozen=True)
class Header:
    """What every request says of itself."""

    api: int
    version: int
    correlation: int
    client: str


class FrameReader:
    """Cuts a stream into frames, however its bytes come in."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The frames that `chunk` completes, without their lengths. Raises ValueError for what is no frame."""
        self._buffer += chunk
        frames = []
        while len(self._buffer) >= 4:
            (length,) = struct.unpack_from(">i", self._buffer)
            if not 4 <= length <= MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes is not Kafka's")
            if len(self._buffer) < 4 + length:
                break
            frames.append(bytes(self._buffer[4 : 4 + length]))
            del self._buffer[: 4 + length]
        return frames


def framed(frame: bytes) -> bytes:
    """The frame as it is sent."""
    return struct.pack(">i", len(frame)) + frame


def request_header(frame: bytes) -> Header:
    """The header of a request. Raises ValueError for what is none."""
    try:
        api, version, correlation, length = struct.unpack_from(">hhih", frame)
    except struct.error as error:
        raise ValueError("a request that ends within its header") from error
    return Header(api, version, correlation, frame[10 : 10 + max(0, length)].decode())


def correlation_id(response: bytes) -> int:
    """Which request a response answers."""
    return int(struct.unpack_from(">i", response)[0])


Edit = Callable[[Header, bytes], bytes]
"""Given a request's header and its answer from after the correlation id, the answer to give instead."""


@dataclass(frozen=True)
class Delay:
    """Holds the frame for `seconds` after it came; what follows on the connection waits with it unless it overtakes."""

    seconds: float
    overtaken: bool = False


@dataclass(frozen=True)
class DeliverLate:
    """Breaks the client's connection, and delivers the request after `seconds` all the same."""

    seconds: float


@dataclass(frozen=True)
class Duplicate:
    """Delivers the request, and once more after `seconds`."""

    seconds: float


@dataclass(frozen=True)
class Drop:
    """Swallows the frame and breaks the connection."""


@dataclass(frozen=True)
class Answer:
    """Rewrites the response."""

    edit: Edit


Action = Delay | DeliverLate | Duplicate | Drop | Answer
Direction = Literal["request", "response"]


@dataclass(eq=False)
class Rule:
    """Which frames an action meets, and what came of it. Changed by its `Rules` and by the proxy only."""

    action: Action
    on: Direction
    api: int | None
    """None: every request."""
    client: str = ""
    """How the client id begins."""
    brokers: Collection[int] | None = None
    """None: whichever broker."""
    share: float = 1.0
    """Of the frames that it could meet, the share that it does."""
    count: int | None = None
    """How many frames it meets before it has spent itself; None: no end."""
    hits: int = 0
    """How many frames it has met."""
    answers: list[bytes] = field(default_factory=list)
    """What the broker answered to late requests and to duplicates, from the correlation id on: no client saw it."""
    undelivered: int = 0
    """Late requests and duplicates that the broker never answered."""

    def could_meet(self, header: Header, broker: int, on: Direction) -> bool:
        """Whether it is about such a frame and has not spent itself."""
        return (
            self.on == on
            and self.api in (None, header.api)
            and header.client.startswith(self.client)
            and (self.brokers is None or broker in self.brokers)
            and (self.count is None or self.hits < self.count)
        )


class Rules:
    """The rules in force; their one owner."""

    def __init__(self, seed: int = 0) -> None:
        self._rules: list[Rule] = []
        self._random = random.Random(seed)

    def add(self, rule: Rule) -> Rule:
        self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """Take a rule away; harmless when repeated."""
        self._rules = [one for one in self._rules if one is not rule]

    def choose(self, header: Header, broker: int, on: Direction) -> Rule | None:
        """The rule that meets this frame, which counts as a hit: of those that could, the latest to draw its share."""
        for rule in reversed(self._rules):
            if rule.could_meet(header, broker, on) and self._random.random() < rule.share:
                rule.hits += 1
                return rule
        return None


_OFFSET_FETCH: Final = {1: OffsetFetchResponse_v1, 2: OffsetFetchResponse_v2, 3: OffsetFetchResponse_v3}


def offset_fetch_error(code: int) -> Edit:
    """OffsetFetch v1 to v3 with this error: of the whole answer, without partitions; in v1, of each partition.

    As brokers give 14 (COORDINATOR_LOAD_IN_PROGRESS), 15 (COORDINATOR_NOT_AVAILABLE), 16 (NOT_COORDINATOR) and
    30 (GROUP_AUTHORIZATION_FAILED).
    """

    def edit(header: Header, body: bytes) -> bytes:
        answer = _OFFSET_FETCH[header.version].decode(body)
        if header.version == 1:
            answer.topics = [
                (topic, [(partition, -1, "", code) for partition, *_ in partitions])
                for topic, partitions in answer.topics
            ]
        else:
            answer.topics, answer.error_code = [], code
        return bytes(answer.encode())

    return edit


def offset_fetch_empty(header: Header, body: bytes) -> bytes:
    """OffsetFetch v1 to v3 without an error and without a partition, as if the group had never committed."""
    answer = _OFFSET_FETCH[header.version].decode(body)
    answer.topics = []
    return bytes(answer.encode())
