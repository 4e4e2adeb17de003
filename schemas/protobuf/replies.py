"""A reply ↔ the message `guideway.v1.Reply`. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from guideway.schemas.names.content_types import REPLY_MESSAGE
from guideway.schemas.protobuf.messages import message
from guideway.schemas.reply import Completed, Failed, FinishReason, Reply, Sample
from guideway.schemas.wire import Undecodable

_EXACT: Final = 2**53
"""The largest integer up to which a double holds every one."""
_MOST_LEVELS: Final = 30
"""Levels of a value. Readers of Protobuf take 100 levels of messages; an object makes three of them."""
_FINISH_REASONS: Final[dict[FinishReason, str]] = {"stop": "FINISH_REASON_STOP", "length": "FINISH_REASON_LENGTH"}
_REASONS_NAMED: Final = {name: reason for reason, name in _FINISH_REASONS.items()}
_WITH_RULES: Final = {"samples", "citations"}
"""Fields of `Completed` that are not written as they are."""


def reply_message(reply: Reply) -> Any:
    """The reply as a `guideway.v1.Reply`."""
    written = message(REPLY_MESSAGE)(id=reply.id, namespace=reply.namespace, endpoint=reply.endpoint)
    plain = msgspec.to_builtins(reply)
    for name in ("schema", "id", "namespace", "endpoint"):
        del plain[name]
    if not isinstance(reply, Completed):
        _fill(written.failed, plain)
        return written
    _fill(written.completed, {name: value for name, value in plain.items() if name not in _WITH_RULES})
    for sample in reply.samples:
        _write_sample(written.completed.samples.add(), sample)
    if reply.citations is not None:
        written.completed.citations.SetInParent()
        for citation in plain["citations"]:
            written.completed.citations.passages.add(**citation)
    return written


def reply_of(value: bytes) -> Reply:
    """The reply in a `guideway.v1.Reply`. Raises Undecodable."""
    try:
        read = message(REPLY_MESSAGE).FromString(value)
        outcome = read.WhichOneof("outcome") or "outcome"
        whole = json_format.MessageToDict(
            read, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        plain = whole.pop(outcome) | whole | {"schema": f"guideway.reply.{outcome}.v1"}
        for sample in plain.get("samples", ()):
            sample["value"] = msgspec.json.decode(sample.pop("value_json"))
            sample["finish_reason"] = _REASONS_NAMED[sample["finish_reason"]]
            if told := sample.pop("probabilities", ()):
                sample["probabilities"] = {one["label"]: one["probability"] for one in told}
            if not sample.get("logprobs"):
                sample.pop("logprobs", None)
        if "citations" in plain:
            plain["citations"] = plain["citations"]["passages"]
        if not plain.get("failed_samples"):
            plain.pop("failed_samples", None)
        # JSON has 64-bit integers as texts.
        return msgspec.convert(plain, Completed | Failed, strict=False)
    except (DecodeError, KeyError, msgspec.DecodeError, RecursionError) as error:
        raise Undecodable(f"it is no {REPLY_MESSAGE} ({type(error).__name__})") from None


def _fill(written: Any, plain: dict[str, Any]) -> None:
    """Write fields into the message. Raises ValueError for one that it does not have: a reply is never cut."""
    written.MergeFrom(type(written)(**{name: value for name, value in plain.items() if value is not None}))


def _write_sample(written: Any, sample: Sample) -> None:
    plain = msgspec.to_builtins(sample)
    value = plain.pop("value")
    plain["finish_reason"] = _FINISH_REASONS[plain["finish_reason"]]
    told = plain.pop("probabilities", None) or {}
    plain["probabilities"] = [{"label": label, "probability": one} for label, one in told.items()]
    _fill(written, plain)
    written.value_json = msgspec.json.encode(value).decode()
    if _fits(value):
        _write_value(written.value, value)


def _fits(value: Any, levels: int = _MOST_LEVELS) -> bool:
    """Whether a `google.protobuf.Value` holds it exactly, and every reader can read it."""
    match value:
        case dict():
            return levels > 0 and all(_fits(inner, levels - 1) for inner in value.values())
        case list():
            return levels > 0 and all(_fits(inner, levels - 1) for inner in value)
        case bool():
            return True
        case int():
            return abs(value) <= _EXACT
    return True


def _write_value(written: Any, value: Any) -> None:
    match value:
        case None:
            written.null_value = 0
        case bool():
            written.bool_value = value
        case int() | float():
            written.number_value = value
        case str():
            written.string_value = value
        case list():
            written.list_value.SetInParent()
            for inner in value:
                _write_value(written.list_value.values.add(), inner)
        case dict():
            written.struct_value.SetInParent()
            for name, inner in value.items():
                _write_value(written.struct_value.fields[name], inner)
        case _:
            raise TypeError(f"a value of type {type(value).__name__}")
