"""CloudEvents 1.0 in Kafka records, in both modes: what makes one, and what its specification refuses. Pure.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from guideway.producers.contents import content, from_json, undecodable
from guideway.schemas import names
from guideway.schemas.failures import Refusal
from guideway.schemas.record import Record

_REQUIRED: Final = ("specversion", "id", "source", "type")
_VERSION: Final = "1.0"
_FORMATS: Final = frozenset({"application/cloudevents", "application/cloudevents+json"})


def is_structured(content_type: str) -> bool:
    """Whether the value is a CloudEvent with all its attributes, or a batch of them."""
    return content_type.lower().startswith(names.CLOUD_EVENT_STRUCTURED)


def read_structured(value: bytes | None, content_type: str) -> tuple[str, dict[str, Any] | str]:
    """(id, fields or text). Raises Refusal(undecodable_event)."""
    media = content_type.partition(";")[0].strip().lower()
    if media not in _FORMATS:
        raise undecodable(
            f"content type {media[:60]!r} is not read: send application/cloudevents+json, one event a record"
        )
    envelope = _envelope(value)
    _check({name: envelope.get(name) for name in _REQUIRED})
    if "data" in envelope and "data_base64" in envelope:
        raise undecodable("a CloudEvent has `data` or `data_base64`, and this one has both: send one of them")
    declared = envelope.get("datacontenttype", "")
    if "data_base64" in envelope:
        try:
            data = base64.b64decode(envelope["data_base64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise undecodable("`data_base64` is not base64") from None
        return envelope["id"], content(data, str(declared))
    found = envelope.get("data")
    if not isinstance(found, dict | str):
        raise undecodable("a CloudEvent's `data` is a JSON object of fields, or a string")
    return envelope["id"], found


def structured_id(value: bytes | None) -> str:
    """The id of a structured CloudEvent, however wrong the rest is; empty where there is none."""
    try:
        found = _envelope(value).get("id")
    except Refusal:
        return ""
    return found if isinstance(found, str) else ""


def check_binary(record: Record) -> None:
    """Raises Refusal(undecodable_event) for a record that says it is a CloudEvent and is none.

    A header `ce_id` alone says no more than an id.
    """
    given = {name: record.header(names.CLOUD_EVENT_PREFIX + name) for name in _REQUIRED}
    if any(given[name] is not None for name in _REQUIRED if name != "id"):
        _check({name: None if one is None else one.decode("utf-8", "replace") for name, one in given.items()})


def _envelope(value: bytes | None) -> dict[str, Any]:
    envelope = from_json(value)
    if not isinstance(envelope, dict):
        raise undecodable(f"a structured CloudEvent is a JSON object with {', '.join(_REQUIRED)} and `data`")
    return envelope


def _check(attributes: dict[str, Any]) -> None:
    missing = [name for name, value in attributes.items() if not (isinstance(value, str) and value)]
    if missing:
        raise undecodable(
            f"a CloudEvent needs {', '.join(_REQUIRED)}, each a text: this one lacks {', '.join(missing)}"
        )
    if attributes["specversion"] != _VERSION:
        raise undecodable(
            f"a CloudEvent of specversion {attributes['specversion'][:20]!r} is not read: send version {_VERSION}"
        )
