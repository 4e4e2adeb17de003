"""Reads CloudEvents 1.0 in Kafka records, in both modes, and refuses what the specification refuses. Pure.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import Any, Final

from guideway.producers.events.contents import as_utf8, check_content, content, declared_charset, from_json, undecodable
from guideway.producers.events.protobuf.cloud_event import MEDIA_TYPE, read_protobuf_event
from guideway.schemas.failures import Refusal
from guideway.schemas.input import InputRule
from guideway.schemas.names import header
from guideway.schemas.names.content_types import CLOUD_EVENT_STRUCTURED
from guideway.schemas.record import Record

_REQUIRED: Final = ("specversion", "id", "source", "type")
_TELLING: Final = frozenset(header.CLOUD_EVENT_PREFIX + name for name in _REQUIRED if name != "id")
"""Headers of which each says that a record is a CloudEvent."""
_VERSION: Final = "1.0"
_TEXTS: Final = frozenset({"datacontenttype", "dataschema", "subject", "time"})
_NAME: Final = re.compile(r"[a-z0-9]+")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_OTHER_PREFIX: Final = re.compile(r"(?:ce-|cloudevents[:_-]|ce_)specversion", re.IGNORECASE)
"""Headers of other bindings than Kafka's."""
_FORMATS: Final = frozenset({"application/cloudevents", "application/cloudevents+json"})


def is_structured(content_type: str) -> bool:
    """Whether the value is a CloudEvent with all its attributes, or a batch of them."""
    return content_type.lower().startswith(CLOUD_EVENT_STRUCTURED)


def read_cloud_event(value: bytes | None, content_type: str) -> dict[str, Any]:
    """The attributes and data of a structured CloudEvent, unchecked. Raises Refusal(undecodable_event)."""
    media = _media(content_type)
    if media == MEDIA_TYPE:
        return read_protobuf_event(value)
    if media not in _FORMATS:
        raise undecodable(
            f"content type {media[:60]!r} is not read: send application/cloudevents+json or {MEDIA_TYPE}, one event a "
            "record"
        )
    return _members(_as_json(value, content_type))


def structured_content(cloud_event: dict[str, Any], rule: InputRule | None = None) -> dict[str, Any] | str:
    """Fields or text. rule: as for `content`. Raises Refusal(undecodable_event) for no CloudEvent, or other data."""
    _check({name: cloud_event.get(name) for name in _REQUIRED})
    _check_context(cloud_event)
    if "data" in cloud_event and "data_base64" in cloud_event:
        raise undecodable("a CloudEvent has `data` or `data_base64`, and this one has both: send one of them")
    declared = cloud_event.get("datacontenttype", "")
    if "data_base64" in cloud_event:
        try:
            data = base64.b64decode(cloud_event["data_base64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise undecodable("`data_base64` is not base64") from None
        return content(data, str(declared), rule)
    found = cloud_event.get("data")
    if not isinstance(found, dict | str):
        raise undecodable("a CloudEvent's `data` is a JSON object of fields, or a string")
    # Whether that is a type which is read.
    content(b"{}", str(declared))
    return check_content(found) if isinstance(found, str) and not _is_text(declared) else found


def _media(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _as_json(value: bytes | None, content_type: str) -> bytes:
    """The value in UTF-8, by the charset of the content type."""
    return as_utf8(value or b"", declared_charset(content_type))


def _is_text(declared: str) -> bool:
    return declared.lower().startswith("text/plain")


def structured_id(value: bytes | None, content_type: str = "") -> str:
    """The id of a structured CloudEvent, however wrong the rest is; empty where there is none."""
    try:
        found = (read_protobuf_event if _media(content_type) == MEDIA_TYPE else _members)(value).get("id")
    except Refusal:
        return ""
    return found if isinstance(found, str) else ""


def check_binary(record: Record) -> None:
    """Raises Refusal(undecodable_event) for a record that says it is a CloudEvent and is none.

    A header `ce_id` alone says no more than an id.
    """
    if any(name in _TELLING and value is not None for name, value in record.headers):
        given = {name: record.header(header.CLOUD_EVENT_PREFIX + name) for name in _REQUIRED}
        _check({name: None if one is None else _decoded(name, one) for name, one in given.items()})
        if (time := record.header(header.CLOUD_EVENT_PREFIX + "time")) is not None:
            _check_time(_decoded("time", time))
        return
    for name, _ in record.headers:
        if _OTHER_PREFIX.fullmatch(name):
            raise undecodable(f"header {name} is of a CloudEvent for another protocol: in Kafka it is ce_specversion")


def _decoded(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise undecodable(f"header {header.CLOUD_EVENT_PREFIX}{name} is not UTF-8 text") from None


def _members(value: bytes | None) -> dict[str, Any]:
    cloud_event = from_json(value)
    if not isinstance(cloud_event, dict):
        raise undecodable(f"a structured CloudEvent is a JSON object with {', '.join(_REQUIRED)} and `data`")
    # As many libraries write what an event does not have.
    return {name: one for name, one in cloud_event.items() if one is not None}


def _check_context(cloud_event: dict[str, Any]) -> None:
    """Whether the specification allows the other attributes. Raises Refusal(undecodable_event)."""
    for name, one in cloud_event.items():
        if name in ("data", "data_base64"):
            continue
        if not _NAME.fullmatch(name):
            raise undecodable(f"a CloudEvent's attributes are lower-case letters and digits: {name[:60]!r} is none")
        if not isinstance(one, str | int | bool):
            raise undecodable(
                f"the CloudEvent's attribute {name[:60]} is no text, integer or boolean: it can have no other"
            )
        if name in _TEXTS and not (isinstance(one, str) and one):
            raise undecodable(f"the CloudEvent's attribute {name[:60]} is no text: leave it out, or make it one")
    if "time" in cloud_event:
        _check_time(cloud_event["time"])


def _check_time(text: str) -> None:
    try:
        known = bool(_TIME.fullmatch(text)) and datetime.fromisoformat(text.upper()) is not None
    except ValueError:
        known = False
    if not known:
        raise undecodable(f"the CloudEvent's time {text[:40]!r} is none of RFC 3339: write 2030-01-31T12:00:00Z")


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
