"""The classes of our Protobuf messages, made of the descriptors that lie beside this file.

There is no generated code: it would run with newer releases of `protobuf` only. The classes stand in a pool of their
own, so that a program may have the same files from elsewhere as well.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

FOLDER: Final = Path(__file__).parent
"""Where the `.proto` files lie, by their import paths."""
DESCRIPTORS: Final = FOLDER / "descriptors.binpb"
"""A FileDescriptorSet of all of them and of what they import. `make protos` writes it."""


def descriptors() -> list[FileDescriptorProto]:
    """All our files, and those that they import before them."""
    return list(FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file)


@cache
def pool() -> DescriptorPool:
    """All our files."""
    made = DescriptorPool()
    for file in descriptors():
        made.Add(file)
    return made


@cache
def message(name: str) -> Any:
    """The class of the message with this full name, such as `guideway.v1.Reply`. Raises KeyError if there is none."""
    return GetMessageClass(pool().FindMessageTypeByName(name))
