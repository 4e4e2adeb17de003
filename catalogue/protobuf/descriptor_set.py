"""A FileDescriptorSet as a file or a manifest holds it: read and bounded. Pure.

The bounds keep one endpoint's descriptors from costing the processes that use them memory or time.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf import (
    any_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

from guideway.schemas.input import EMBEDDED

MAX_BYTES: Final = 64 * 2**10
"""Of descriptors in a manifest, cut down."""
MAX_FILE_BYTES: Final = 16 * 2**20
"""Of descriptors in a file."""
MAX_MESSAGES: Final = 500
MAX_FIELDS: Final = 256
"""Of one message. An empty message takes about 16 bytes for each, whatever an event sets."""
MAX_ENUM_VALUES: Final = 5_000
WELL_KNOWN_PACKAGE: Final = "google.protobuf."
WELL_KNOWN: Final[tuple[FileDescriptorProto, ...]] = tuple(
    FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    for module in (any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
)
"""The files that every program with Protobuf has. No manifest holds them."""
PROTOC: Final = "protoc --include_imports --descriptor_set_out=FILE"


def embedded(descriptors: FileDescriptorSet) -> str:
    """The text of descriptors for a manifest."""
    return EMBEDDED + base64.b64encode(descriptors.SerializeToString(deterministic=True)).decode()


def of_manifest(text: str) -> FileDescriptorSet:
    """The descriptors in a manifest. Raises ValueError, which says what to change."""
    if not text.startswith(EMBEDDED):
        raise ValueError(f"{text[:60]!r} is no descriptors as a manifest holds them: apply the manifest from its file")
    if len(text) > 2 * MAX_BYTES:
        raise ValueError(f"the descriptors have more than {MAX_BYTES} bytes: apply the manifest from its file")
    try:
        return read(base64.b64decode(text.removeprefix(EMBEDDED), validate=True))
    except binascii.Error:
        raise ValueError("the descriptors are not base64: apply the manifest from its file") from None


def read(data: bytes) -> FileDescriptorSet:
    """The descriptors in a file. Raises ValueError, which says what to change."""
    try:
        found = FileDescriptorSet.FromString(data)
    except DecodeError:
        found = FileDescriptorSet()
    if not any(file.name for file in found.file):
        raise ValueError(f"it is no FileDescriptorSet: make one with `{PROTOC}`")
    return found


def check_bounds(descriptors: FileDescriptorSet) -> None:
    """Raises ValueError, which says what to change, where classes of these descriptors would cost too much."""
    messages = [one for file in descriptors.file for one in _messages(file.message_type, 0)]
    if len(messages) > MAX_MESSAGES:
        raise ValueError(
            f"{len(messages)} messages are needed, at most {MAX_MESSAGES} are taken: use a simpler message"
        )
    for message in messages:
        if len(message.field) > MAX_FIELDS:
            raise ValueError(
                f"message {message.name} has {len(message.field)} fields, at most {MAX_FIELDS} are taken: use a "
                "simpler message"
            )
    enums = [one for file in descriptors.file for one in file.enum_type]
    enums += [one for message in messages for one in message.enum_type]
    if sum(len(enum.value) for enum in enums) > MAX_ENUM_VALUES:
        raise ValueError(f"enums with more than {MAX_ENUM_VALUES} values together are needed: use a simpler message")


def _messages(found: Iterable[DescriptorProto], level: int) -> Iterator[DescriptorProto]:
    if level > 50:
        raise ValueError("its messages are declared inside of each other more than 50 levels deep: flatten them")
    for one in found:
        yield one
        yield from _messages(one.nested_type, level + 1)
