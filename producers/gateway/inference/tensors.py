"""Tensors of the Open Inference Protocol, and their bytes. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from guideway.schemas.failures import FailureCode, Refusal

Datatype = Literal["BYTES", "INT64", "FP64", "BOOL"]

_FORMATS: Final = {"INT64": "q", "FP64": "d", "BOOL": "?"}
_LENGTH_BYTES: Final = 4


class Tensor(msgspec.Struct, frozen=True):
    """Values with a name. BYTES are `bytes`, INT64 `int`, FP64 `float`, BOOL `bool`."""

    name: str
    datatype: str
    """One of `Datatype` in what is sent; whatever a client names in what is received."""
    shape: tuple[int, ...]
    values: Sequence[Any]
    """In row-major order; as many as the shape says."""


class Requested(msgspec.Struct, frozen=True):
    """What a client asks of a model, whichever way it came."""

    model: str
    version: str
    """Empty: the present one."""
    id: str
    """Given back as it is."""
    parameters: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[str]
    """Names of those that are wanted; empty: all."""


class Answered(msgspec.Struct, frozen=True):
    """What the model answers."""

    model: str
    version: str
    id: str
    outputs: list[Tensor]


def to_raw(tensor: Tensor) -> bytes:
    """The values as bytes, little-endian; each of BYTES has its length before it."""
    if tensor.datatype == "BYTES":
        return b"".join(len(one).to_bytes(_LENGTH_BYTES, "little") + one for one in tensor.values)
    return struct.pack(f"<{len(tensor.values)}{_FORMATS[tensor.datatype]}", *tensor.values)


def from_raw(name: str, datatype: str, count: int, raw: bytes) -> list[Any]:
    """`count` values of bytes as `to_raw` makes them. Raises Refusal: wrong_field."""
    if datatype == "BYTES":
        return _texts(name, count, raw)
    form = _FORMATS.get(datatype)
    if form is None:
        raise wrong(name, f"has datatype {datatype[:40]!r}, and the datatypes here are BYTES, INT64, FP64 and BOOL")
    size = struct.calcsize(f"<{form}")
    if len(raw) != count * size:
        raise wrong(name, f"has {len(raw)} raw bytes, and its shape and datatype mean {count * size}")
    if datatype == "BOOL" and not set(raw) <= {0, 1}:
        raise wrong(name, "has a BOOL that is neither 0 nor 1")
    return list(struct.unpack(f"<{count}{form}", raw))


def _texts(name: str, count: int, raw: bytes) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(raw) and len(found) < count:
        begin = at + _LENGTH_BYTES
        end = begin + int.from_bytes(raw[at:begin], "little")
        if begin > len(raw) or end > len(raw):
            raise wrong(name, "has raw BYTES that end within an element: put its length in four bytes before each")
        found.append(raw[begin:end])
        at = end
    if len(found) != count or at != len(raw):
        more = "more than" if at != len(raw) else f"{len(found)} of"
        raise wrong(name, f"has {more} the {count} elements of its shape in its raw BYTES")
    return found


def wrong(name: str, what: str) -> Refusal:
    """The refusal for an input that cannot be used."""
    return Refusal(FailureCode.WRONG_FIELD, f"input {name[:100]!r} {what}: correct it")
