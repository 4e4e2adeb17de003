"""Messages of `inference.GRPCInferenceService` ↔ what they ask and answer. Pure."""

from __future__ import annotations

from typing import Any, Final

from guideway.producers.gateway.inference.models import ModelInfo
from guideway.producers.gateway.inference.tensors import Answered, Requested, Tensor, from_raw, to_raw, wrong
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.protobuf.messages import message

_CONTENTS: Final = {
    "BYTES": "bytes_contents",
    "INT64": "int64_contents",
    "FP64": "fp64_contents",
    "BOOL": "bool_contents",
}
_MOST_ELEMENTS: Final = 2**20
"""Of a shape: what is above is never a request that is answered."""


def requested(asked: Any) -> Requested:
    """What a `ModelInferRequest` asks. Raises Refusal: undecodable_event, wrong_field, unknown_field."""
    raw = asked.raw_input_contents
    if raw and len(raw) != len(asked.inputs):
        raise Refusal(
            FailureCode.UNDECODABLE_EVENT,
            f"the request has {len(asked.inputs)} inputs and {len(raw)} raw contents: send one for each input, or none",
        )
    for output in asked.outputs:
        if output.parameters:
            raise _no_parameter("output", output.name, next(iter(output.parameters)))
    return Requested(
        model=asked.model_name,
        version=asked.model_version,
        id=asked.id,
        parameters={name: _parameter(name, value) for name, value in asked.parameters.items()},
        inputs=[_input(one, raw[at] if raw else None) for at, one in enumerate(asked.inputs)],
        outputs=[output.name for output in asked.outputs],
    )


def _parameter(name: str, value: Any) -> Any:
    kind = value.WhichOneof("parameter_choice")
    if kind is None:
        raise Refusal(FailureCode.WRONG_FIELD, f"parameter {name[:60]!r} has no value: give it one")
    return getattr(value, kind)


def _input(given: Any, raw: bytes | None) -> Tensor:
    if given.parameters:
        raise _no_parameter("input", given.name, next(iter(given.parameters)))
    shape = tuple(given.shape)
    field = _CONTENTS.get(given.datatype)
    if field is None:
        raise wrong(given.name, f"has datatype {given.datatype[:40]!r}; here are {', '.join(_CONTENTS)}")
    filled = [one.name for one, _ in given.contents.ListFields()]
    if raw is not None:
        if filled:
            raise wrong(given.name, "has contents, and the request has raw contents as well")
        return Tensor(
            given.name, given.datatype, shape, from_raw(given.name, given.datatype, elements(given.name, shape), raw)
        )
    if filled not in ([], [field]):
        raise wrong(given.name, f"is {given.datatype} and has {', '.join(filled)}, and {field} is read")
    return Tensor(given.name, given.datatype, shape, list(getattr(given.contents, field)))


def elements(name: str, shape: tuple[int, ...]) -> int:
    """How many elements a tensor of this shape has. Raises Refusal(wrong_field)."""
    count = 1
    for size in shape[:8]:
        if size < 0:
            raise wrong(name, f"has a size of {size} in its shape")
        count *= size
    if count > _MOST_ELEMENTS or len(shape) > 8:
        raise wrong(name, f"has the shape {list(shape)[:8]}, which is too large")
    return count


def _no_parameter(what: str, name: str, parameter: str) -> Refusal:
    return Refusal(
        FailureCode.UNKNOWN_FIELD,
        f"{what} {name[:60]!r} has the parameter {parameter[:60]!r}, which means nothing here: leave it out",
    )


def infer_response(answered: Answered, *, raw: bool) -> Any:
    """The answer as a `ModelInferResponse`. raw: with raw contents, as the request had."""
    made = message("inference.ModelInferResponse")(
        model_name=answered.model, model_version=answered.version, id=answered.id
    )
    for tensor in answered.outputs:
        written = made.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            made.raw_output_contents.append(to_raw(tensor))
        else:
            getattr(written.contents, _CONTENTS[tensor.datatype]).extend(tensor.values)
    return made


def metadata_response(info: ModelInfo) -> Any:
    """The metadata as a `ModelMetadataResponse`."""
    made = message("inference.ModelMetadataResponse")(name=info.name, versions=info.versions, platform=info.platform)
    for one in info.inputs:
        made.inputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
    for one in info.outputs:
        made.outputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
    return made
