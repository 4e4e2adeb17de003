"""Bytes ↔ messages. Each message has one typed codec, built once. Bytes that are no message raise `Undecodable`."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from guideway.schemas.cancellation import Cancellation
from guideway.schemas.manifests import Calibrated, Deleted, Endpoint, Guidance, Manifest, Model, RetrievalSet, SetAlias
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.request import Request

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
REPLY: Codec[Reply] = Codec(Completed | Failed)
MANIFEST: Codec[Manifest] = Codec(Endpoint | Guidance | Model | RetrievalSet | SetAlias | Calibrated)
CATALOGUE_ENTRY: Codec[Manifest | Deleted] = Codec(
    Endpoint | Guidance | Model | RetrievalSet | SetAlias | Calibrated | Deleted
)
