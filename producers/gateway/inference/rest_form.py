"""Bodies of the protocol's REST form ↔ what they ask and answer, with the extension for binary tensors. Pure.

https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; the extension for binary
tensors is Triton's: the JSON comes first, a header says how long it is, and raw tensors follow it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from guideway.producers.events.contents import from_json
from guideway.producers.gateway.inference.grpc_form import elements
from guideway.producers.gateway.inference.tensors import Answered, Requested, Tensor, from_raw, to_raw, wrong
from guideway.schemas.failures import FailureCode, Refusal

JSON_LENGTH: Final = "inference-header-content-length"
"""The header that says how many bytes of the body are JSON."""
BINARY_TENSORS: Final = "binary_tensor_data"
"""The name of the extension."""
_BINARY: Final = "binary_data"
_BINARY_SIZE: Final = "binary_data_size"
_ALL_BINARY: Final = "binary_data_output"
_MOST_LEVELS: Final = 8


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class _Input(_Strict, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Output(_Strict, frozen=True):
    name: str
    parameters: dict[str, Any] = {}


class _Request(_Strict, frozen=True):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


class _Made(_Strict, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class _Response(_Strict, frozen=True):
    model_name: str
    model_version: str
    outputs: list[_Made]
    id: str = ""


class Read(NamedTuple):
    """A request, and which of its outputs are to be raw."""

    requested: Requested
    raw: frozenset[str]
    all_raw: bool

    def is_raw(self, output: str) -> bool:
        """Whether this output is wanted as raw bytes."""
        return self.all_raw or output in self.raw


def read_request(body: bytes, json_length: str | None, *, model: str, version: str) -> Read:
    """The request in this body. json_length: the header `JSON_LENGTH`; None: all of it is JSON.

    Raises Refusal: undecodable_event, wrong_field, unknown_field, invalid_header.
    """
    end = len(body)
    if json_length is not None:
        if not json_length.isascii() or not json_length.isdigit() or int(json_length[:18]) > end:
            raise Refusal(
                FailureCode.INVALID_HEADER,
                f"header {JSON_LENGTH} is {json_length[:40]!r}: it is how many of the {end} bytes of the body are JSON",
            )
        end = int(json_length)
    try:
        asked = msgspec.convert(from_json(body[:end]), _Request)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Refusal(
            FailureCode.UNDECODABLE_EVENT,
            f"the body is no inference request ({str(error)[:200]}): see docs/grpc.md for one",
        ) from None
    rest = _Rest(body, end)
    inputs = [_tensor(one, rest) for one in asked.inputs]
    rest.require_end()
    parameters = dict(asked.parameters)
    all_raw = _flag(_ALL_BINARY, parameters.pop(_ALL_BINARY, False))
    for output in asked.outputs:
        if other := {*output.parameters} - {_BINARY}:
            raise _no_parameter("output", output.name, min(other))
    return Read(
        Requested(
            model=model,
            version=version,
            id=asked.id,
            parameters=parameters,
            inputs=inputs,
            outputs=[output.name for output in asked.outputs],
        ),
        frozenset(output.name for output in asked.outputs if _flag(_BINARY, output.parameters.get(_BINARY, False))),
        # What an output says for itself counts before what is said for all.
        all_raw and not any(_BINARY in output.parameters for output in asked.outputs),
    )


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refusal(FailureCode.WRONG_FIELD, f"parameter {name!r} is true or false: correct it")
    return value


class _Rest:
    """The raw tensors behind the JSON, handed out in order."""

    def __init__(self, body: bytes, at: int) -> None:
        self._body = body
        self._at = at

    def take(self, name: str, size: Any) -> bytes:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(self._body) - self._at:
            raise wrong(
                name,
                f"has {_BINARY_SIZE} {str(size)[:20]}, and {len(self._body) - self._at} bytes are left in the body",
            )
        self._at += size
        return self._body[self._at - size : self._at]

    def require_end(self) -> None:
        if left := len(self._body) - self._at:
            raise Refusal(
                FailureCode.UNDECODABLE_EVENT,
                f"the body has {left} bytes more than its JSON and its raw tensors: give each raw input its "
                f"{_BINARY_SIZE}",
            )


def _tensor(given: _Input, rest: _Rest) -> Tensor:
    if other := {*given.parameters} - {_BINARY_SIZE}:
        raise _no_parameter("input", given.name, min(other))
    shape = tuple(given.shape)
    count = elements(given.name, shape)
    if _BINARY_SIZE in given.parameters:
        if given.data is not None:
            raise wrong(given.name, f"has data and {_BINARY_SIZE}, and one of them is read")
        raw = rest.take(given.name, given.parameters[_BINARY_SIZE])
        return Tensor(given.name, given.datatype, shape, from_raw(given.name, given.datatype, count, raw))
    values = [_element(given, one) for one in _flat(given.name, given.data or [])]
    return Tensor(given.name, given.datatype, shape, values)


def _flat(name: str, data: list[Any], level: int = 0) -> Iterator[Any]:
    """Elements in row-major order, whether they are nested by the shape or not."""
    if level > _MOST_LEVELS:
        raise wrong(name, "has data in too many lists")
    for one in data:
        if isinstance(one, list):
            yield from _flat(name, one, level + 1)
        else:
            yield one


def _element(given: _Input, value: Any) -> Any:
    """An element as its datatype has it, if it can be."""
    return value.encode() if given.datatype == "BYTES" and isinstance(value, str) else value


def _no_parameter(what: str, name: str, parameter: str) -> Refusal:
    return Refusal(
        FailureCode.UNKNOWN_FIELD,
        f"{what} {name[:60]!r} has the parameter {parameter[:60]!r}, which means nothing here: leave it out",
    )


def write_response(answered: Answered, read: Read) -> tuple[bytes, int | None]:
    """(body, how many of its bytes are JSON); None: all."""
    made, raws = [], []
    for tensor in answered.outputs:
        if read.is_raw(tensor.name):
            raws.append(to_raw(tensor))
            said = {_BINARY_SIZE: len(raws[-1])}
            made.append(_Made(tensor.name, list(tensor.shape), tensor.datatype, parameters=said))
        else:
            data = [one.decode() if isinstance(one, bytes) else one for one in tensor.values]
            made.append(_Made(tensor.name, list(tensor.shape), tensor.datatype, data))
    head = msgspec.json.encode(_Response(answered.model, answered.version, made, answered.id))
    return head + b"".join(raws), len(head) if raws else None
