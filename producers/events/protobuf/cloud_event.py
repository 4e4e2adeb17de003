"""A structured CloudEvent in Protobuf → the members that it would have in JSON. Pure.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/protobuf-format.md
"""

from __future__ import annotations

import base64
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from guideway.catalogue.protobuf.descriptor_set import WELL_KNOWN
from guideway.catalogue.protobuf.message_type import MessageType
from guideway.producers.events.protobuf.weighing import TooMuch, check_weight
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.content_types import PROTOBUF

MEDIA_TYPE: Final = "application/cloudevents+protobuf"
_PACKAGE: Final = "io.cloudevents.v1"
_STRING, _BYTES, _BOOL, _INT32, _MESSAGE = (
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_BYTES,
    FieldDescriptorProto.TYPE_BOOL,
    FieldDescriptorProto.TYPE_INT32,
    FieldDescriptorProto.TYPE_MESSAGE,
)
_ENTRY: Final = f".{_PACKAGE}.CloudEvent.AttributesEntry"
_VALUE: Final = f".{_PACKAGE}.CloudEventAttributeValue"


def read_protobuf_event(value: bytes | None) -> dict[str, Any]:
    """The attributes and data, unchecked. Data is in base64, to be read by `datacontenttype`.

    Raises Refusal(undecodable_event).
    """
    kind = _kind()
    try:
        check_weight(value or b"", kind)
        event: Any = kind.factory.FromString(value or b"")
        found = {name: _attribute(one) for name, one in event.attributes.items()}
    except TooMuch as error:
        raise Refusal(FailureCode.UNDECODABLE_EVENT, str(error)) from None
    except (DecodeError, ValueError, OverflowError):
        raise Refusal(
            FailureCode.UNDECODABLE_EVENT,
            f"the value is no message {kind.name}: send a CloudEvent in Protobuf, or declare what it is",
        ) from None
    given = {"id": event.id, "source": event.source, "specversion": event.spec_version, "type": event.type}
    found |= {name: text for name, text in given.items() if text}
    match event.WhichOneof("data"):
        case "binary_data":
            found["data_base64"] = _base64(event.binary_data)
        case "text_data":
            found["data_base64"] = _base64(event.text_data.encode())
        case "proto_data":
            message = event.proto_data.type_url.rpartition("/")[2]
            found["datacontenttype"] = f'{PROTOBUF}; messageType="{message}"'
            found["data_base64"] = _base64(event.proto_data.value)
    return found


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _attribute(value: Any) -> Any:
    match value.WhichOneof("attr"):
        case "ce_bytes":
            return _base64(value.ce_bytes)
        case "ce_timestamp":
            return value.ce_timestamp.ToJsonString()
        case None:
            raise ValueError("an attribute has no value")
        case which:
            return getattr(value, which)


@cache
def _kind() -> MessageType:
    """The message, as the specification numbers its fields."""

    def field(name: str, number: int, kind: Any, of: str = "", oneof: bool = False) -> FieldDescriptorProto:
        made = FieldDescriptorProto(
            name=name, number=number, type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL, type_name=of or None
        )
        if oneof:
            made.oneof_index = 0
        return made

    entry = DescriptorProto(
        name="AttributesEntry", field=[field("key", 1, _STRING), field("value", 2, _MESSAGE, _VALUE)]
    )
    entry.options.map_entry = True
    attributes = field("attributes", 5, _MESSAGE, _ENTRY)
    attributes.label = FieldDescriptorProto.LABEL_REPEATED
    event = DescriptorProto(
        name="CloudEvent",
        field=[
            *(field(name, number, _STRING) for number, name in enumerate(("id", "source", "spec_version", "type"), 1)),
            attributes,
            field("binary_data", 6, _BYTES, oneof=True),
            field("text_data", 7, _STRING, oneof=True),
            field("proto_data", 8, _MESSAGE, ".google.protobuf.Any", oneof=True),
        ],
        nested_type=[entry],
    )
    event.oneof_decl.add(name="data")
    value = DescriptorProto(
        name="CloudEventAttributeValue",
        field=[
            field("ce_boolean", 1, _BOOL, oneof=True),
            field("ce_integer", 2, _INT32, oneof=True),
            field("ce_string", 3, _STRING, oneof=True),
            field("ce_bytes", 4, _BYTES, oneof=True),
            field("ce_uri", 5, _STRING, oneof=True),
            field("ce_uri_ref", 6, _STRING, oneof=True),
            field("ce_timestamp", 7, _MESSAGE, ".google.protobuf.Timestamp", oneof=True),
        ],
    )
    value.oneof_decl.add(name="attr")
    pool = DescriptorPool()
    for file in WELL_KNOWN:
        pool.Add(file)
    pool.Add(
        FileDescriptorProto(
            name="cloudevents.proto",
            package=_PACKAGE,
            syntax="proto3",
            dependency=["google/protobuf/any.proto", "google/protobuf/timestamp.proto"],
            message_type=[event, value],
        )
    )
    return MessageType(pool.FindMessageTypeByName(f"{_PACKAGE}.CloudEvent"))
