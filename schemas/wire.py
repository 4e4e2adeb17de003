"""Bytes ↔ messages. Each message has one typed codec, built once. Bytes that are no message raise `Undecodable`."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from guideway.schemas.manifests import Deleted, Manifest
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.request import Request
from guideway.schemas.services.accepted import Accepted, Claim, Published
from guideway.schemas.services.audit import Audited
from guideway.schemas.services.batch import (
    BatchCancelled,
    BatchDeleted,
    BatchEnded,
    BatchJob,
    BatchNews,
    BatchProgress,
    BatchWish,
)
from guideway.schemas.services.cancellation import Cancellation
from guideway.schemas.services.keys import Key
from guideway.schemas.services.leaving import Delivery, Held, Result
from guideway.schemas.services.routing import RoutingAnswer, RoutingQuestion
from guideway.schemas.services.shadow import ShadowNews, ShadowRow, ShadowState
from guideway.schemas.services.usage import Usage

T = TypeVar("T")


class Undecodable(ValueError):
    """The bytes are no such message. The text says where and why, and does not quote them."""


class Codec(Generic[T]):
    """JSON codec of one message type; compact, UTF-8, unknown fields refused."""

    def __init__(self, kind: object) -> None:
        self._encoder = msgspec.json.Encoder()
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)

    def encode(self, message: T) -> bytes:
        """The message as JSON."""
        return self._encoder.encode(message)

    def decode(self, data: bytes | None) -> T:
        """The message of these bytes. Raises Undecodable."""
        if data is None:
            raise Undecodable("the value is null")
        try:
            return self._decoder.decode(data)
        except RecursionError:
            # msgspec raises it for deep nesting; it is no DecodeError.
            raise Undecodable("the JSON is nested too deeply") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Undecodable(str(error)) from None


REQUEST: Codec[Request] = Codec(Request)
CANCELLATION: Codec[Cancellation] = Codec(Cancellation)
ROUTING_QUESTION: Codec[RoutingQuestion] = Codec(RoutingQuestion)
ROUTING_ANSWER: Codec[RoutingAnswer] = Codec(RoutingAnswer)
AUDITED: Codec[Audited] = Codec(Audited)
USAGE: Codec[Usage] = Codec(Usage)
ACCEPTED: Codec[Accepted] = Codec(Claim | Published)
KEY: Codec[Key] = Codec(Key)
REPLY: Codec[Reply] = Codec(Completed | Failed)
PARTIAL: Codec[Partial] = Codec(Partial)
RESULT: Codec[Result] = Codec(Result)
DELIVERY: Codec[Delivery] = Codec(Delivery)
HELD_WEBHOOK: Codec[Held] = Codec(Held)
BATCH_JOB: Codec[BatchJob] = Codec(BatchJob)
BATCH_NEWS: Codec[BatchNews] = Codec(BatchProgress | BatchEnded)
BATCH_WISH: Codec[BatchWish] = Codec(BatchCancelled | BatchDeleted)
SHADOW: Codec[ShadowNews] = Codec(ShadowRow | ShadowState)
MANIFEST: Codec[Manifest] = Codec(Manifest)
CATALOGUE_ENTRY: Codec[Manifest | Deleted] = Codec(Manifest | Deleted)
