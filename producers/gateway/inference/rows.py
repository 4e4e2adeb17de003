"""Tensors → the fields of one event for each row; replies → tensors. Pure."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from guideway.producers.events.contents import from_json
from guideway.producers.events.read_event import GUIDANCE_FORM, no_guidance
from guideway.producers.gateway.inference.models import OUTPUTS, PER_SAMPLE, datatype_of, shape_of
from guideway.producers.gateway.inference.tensors import Requested, Tensor, wrong
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import AskedGeneration
from guideway.schemas.input import Field
from guideway.schemas.names import header
from guideway.schemas.reply import Completed

MAX_ROWS: Final = 128
"""Rows of one request, at most: each is an event of its own."""
_TYPES: Final[dict[str, tuple[type, ...]]] = {"BYTES": (bytes,), "INT64": (int,), "FP64": (float, int), "BOOL": (bool,)}
"""Of elements. JSON has whole numbers as integers, which are not to be rounded."""
_TIMEOUT: Final = "timeout"
"""Triton's: microseconds."""
_LONGEST_US: Final = 10**15
"""Decades: one that is longer is as long, for clients write such numbers for `never`."""
_GUIDANCE: Final = "guidance"
_GENERATION: Final = AskedGeneration.__struct_fields__


class RowFailed(Exception):
    """One row of a request has no result, so the request has none."""

    def __init__(self, row: int, rows: int, code: FailureCode, message: str) -> None:
        self.code = code
        self.message = message if rows == 1 else f"row {row} of {rows}: {message}"
        super().__init__(self.message)


class Options(NamedTuple):
    """What the parameters of a request ask for."""

    headers: tuple[tuple[str, bytes], ...]
    """Of each event."""
    guidance: tuple[str, ...]
    timeout_s: float | None
    samples: int | None
    """How many samples are asked for; None: as the endpoint has it."""


def rows_of(requested: Requested, fields: Mapping[str, Field]) -> list[dict[str, Any]]:
    """The fields of each row's event; those without an input are absent.

    Raises Refusal: undecodable_event, unknown_field, wrong_field.
    """
    if not requested.inputs:
        raise Refusal(FailureCode.UNDECODABLE_EVENT, f"the request has no input: send {', '.join(fields)}")
    count = _count(requested.inputs)
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    seen: set[str] = set()
    for tensor in requested.inputs:
        if tensor.name in seen:
            raise wrong(tensor.name, "is there twice")
        seen.add(tensor.name)
        field = fields.get(tensor.name)
        if field is None:
            raise Refusal(
                FailureCode.UNKNOWN_FIELD,
                f"unknown input {tensor.name[:60]!r}: remove it; the endpoint takes {', '.join(fields)}",
            )
        if tensor.datatype != datatype_of(field):
            raise wrong(
                tensor.name, f"has datatype {tensor.datatype[:40]!r}, and a field of type {field.type} is "
                f"{datatype_of(field)}"
            )  # fmt: skip
        if len(tensor.values) != count:
            raise wrong(tensor.name, f"has {len(tensor.values)} elements, and its shape means {count}")
        for row, value in zip(rows, tensor.values, strict=True):
            row[tensor.name] = _value(tensor, field, value)
    return rows


def _count(inputs: Sequence[Tensor]) -> int:
    first = inputs[0]
    for tensor in inputs:
        if len(tensor.shape) != 1:
            raise wrong(tensor.name, f"has the shape {list(tensor.shape)[:8]}, and [rows] is read")
        if tensor.shape != first.shape:
            raise wrong(tensor.name, f"has {tensor.shape[0]} rows, and {first.name[:100]!r} has {first.shape[0]}")
    if not 1 <= first.shape[0] <= MAX_ROWS:
        raise wrong(first.name, f"has {first.shape[0]} rows, and 1 to {MAX_ROWS} are taken in one request")
    return first.shape[0]


def _value(tensor: Tensor, field: Field, value: Any) -> Any:
    """An element as a value of its field."""
    if type(value) not in _TYPES[tensor.datatype]:
        raise wrong(tensor.name, f"has an element that is no {tensor.datatype}")
    if tensor.datatype == "INT64" and not -(2**63) <= value < 2**63:
        raise wrong(tensor.name, "has an element that is no INT64, for it has more than 64 bits")
    if tensor.datatype == "FP64" and abs(value) > sys.float_info.max:
        value = math.inf
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong(tensor.name, f"has an element that is {value}, which is no number of JSON's")
    if not isinstance(value, bytes):
        return value
    if field.type in {"array", "object"}:
        try:
            return from_json(value)
        except Refusal as refusal:
            raise wrong(tensor.name, f"is of type {field.type}, so JSON is read, and {refusal.message}") from None
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise wrong(tensor.name, "has an element that is not UTF-8") from None


def options_of(parameters: Mapping[str, Any]) -> Options:
    """What the parameters of a request mean. Raises Refusal: unknown_field, wrong_field."""
    for name in parameters:
        if name not in {_TIMEOUT, _GUIDANCE, *_GENERATION}:
            raise Refusal(
                FailureCode.UNKNOWN_FIELD,
                f"parameter {name[:60]!r} means nothing here, so it is refused: leave it out; there are "
                f"{', '.join((_GUIDANCE, _TIMEOUT, *_GENERATION))}",
            )
    timeout = parameters.get(_TIMEOUT)
    if timeout is not None and (not isinstance(timeout, int) or isinstance(timeout, bool) or timeout <= 0):
        raise Refusal(FailureCode.WRONG_FIELD, f"parameter {_TIMEOUT!r} is in microseconds: give an integer above 0")
    guidance = parameters.get(_GUIDANCE, "")
    if not isinstance(guidance, str):
        raise Refusal(FailureCode.WRONG_FIELD, f"parameter {_GUIDANCE!r} is text: NAMESPACE/NAME, several with commas")
    if (bad := no_guidance(guidance)) is not None:
        raise Refusal(
            FailureCode.WRONG_FIELD, f"parameter {_GUIDANCE!r} has {bad!r}, which is no name: write {GUIDANCE_FORM}"
        )
    asked = {name: parameters[name] for name in _GENERATION if name in parameters}
    if isinstance(stop := asked.get("stop"), str):
        asked["stop"] = [stop]
    try:
        checked = msgspec.convert(asked, AskedGeneration)
    except msgspec.ValidationError as error:
        raise Refusal(FailureCode.WRONG_FIELD, f"a parameter cannot be used ({str(error)[:140]}): correct it") from None
    return Options(
        headers=((header.GENERATION, msgspec.json.encode(asked)),) if asked else (),
        guidance=tuple(name.strip() for name in guidance.split(",") if name.strip()),
        timeout_s=None if timeout is None else min(timeout, _LONGEST_US) / 1e6,
        samples=checked.samples if isinstance(checked.samples, int) else None,
    )


def wanted(requested: Requested) -> list[str]:
    """The outputs that are wanted. Raises Refusal(unknown_field)."""
    for name in requested.outputs:
        if requested.outputs.count(name) > 1 and name in OUTPUTS:
            # Each would hold all replies once more.
            raise Refusal(FailureCode.WRONG_FIELD, f"output {name!r} is asked for twice: ask for it once")
        if name not in OUTPUTS:
            raise Refusal(
                FailureCode.UNKNOWN_FIELD, f"unknown output {name[:60]!r}: ask for some of {', '.join(OUTPUTS)}"
            )
    return requested.outputs or list(OUTPUTS)


def outputs_of(replies: Sequence[Completed], outputs: Sequence[str], samples: int) -> list[Tensor]:
    """The outputs of all rows.

    samples: how many each row was to have. Raises RowFailed where one has fewer, and its samples are wanted.
    """
    rows = len(replies)
    if PER_SAMPLE & {*outputs}:
        for row, reply in enumerate(replies):
            if len(reply.samples) != samples:
                raise _short_of_samples(row, rows, reply)
    made = []
    for name in outputs:
        values = [one for reply in replies for one in _of(reply, name)]
        made.append(Tensor(name, "BYTES", shape_of(name, rows, samples), values))
    return made


def _short_of_samples(row: int, rows: int, reply: Completed) -> RowFailed:
    if not reply.failed_samples:
        return RowFailed(row, rows, FailureCode.INTERNAL_ERROR, "the reply has another number of samples")
    failed = reply.failed_samples[0]
    return RowFailed(
        row, rows, failed.code, f"sample {failed.sample}: {failed.message}; the output `reply` alone has the others"
    )


def _of(reply: Completed, output: str) -> list[bytes]:
    match output:
        case "value":
            return [msgspec.json.encode(sample.value) for sample in reply.samples]
        case "text":
            return [sample.text.encode() for sample in reply.samples]
    return [msgspec.json.encode(reply)]
