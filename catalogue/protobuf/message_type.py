"""A message that an endpoint declares, as a class. Each set of descriptors has a pool of its own."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from guideway.catalogue.protobuf.descriptor_set import WELL_KNOWN, check_bounds, of_manifest

_KEPT_CHARS: Final = 4 * 2**20
"""Of descriptors whose classes are kept, as texts in manifests; the classes take some twenty times as much memory."""


class MessageType:
    """A message by name, with what reading it needs to know of it."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.name: str = descriptor.full_name
        self.factory: type[Message] = message_factory.GetMessageClass(descriptor)
        self.indexes = _indexes(descriptor)
        """Its place in its file: the index of the outermost message around it first."""
        within = _within(descriptor)
        self.has_required = any(field.is_required for one in within for field in one.fields)
        """Whether it, or a message within, has fields that must be there, as only proto2 and editions have."""
        self.made: dict[tuple[str, frozenset[str] | None], Callable[[Any], Any]] = {}
        """What whoever reads messages has made of it. It goes when the class goes."""


def message_type(descriptors: str, name: str) -> MessageType:
    """descriptors: as a manifest holds them. Raises ValueError, which says what to change."""
    found = _SETS.of(descriptors)
    if isinstance(found.pool, str):
        raise ValueError(found.pool)
    if name not in found.types:
        try:
            found.types[name] = MessageType(found.pool.FindMessageTypeByName(name))
        except KeyError:
            again = "apply the manifest from its file again"
            raise ValueError(f"message {name[:200]!r} is not described: {again}") from None
    return found.types[name]


class _Set:
    """The classes of one text of descriptors."""

    def __init__(self, descriptors: str) -> None:
        self.pool: Any = _pool(descriptors)
        self.types: dict[str, MessageType] = {}


class _Sets:
    """The sets that were used last, and that fit. All threads of a process may ask."""

    def __init__(self, most_chars: int) -> None:
        self._most = most_chars
        self._chars = 0
        self._kept: OrderedDict[str, _Set] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, descriptors: str) -> _Set:
        """The set of this text: kept, or made."""
        with self._lock:
            found = self._kept.get(descriptors)
            if found is None:
                found = self._kept[descriptors] = _Set(descriptors)
                self._chars += len(descriptors)
                while self._chars > self._most and len(self._kept) > 1:
                    self._chars -= len(self._kept.popitem(last=False)[0])
            self._kept.move_to_end(descriptors)
            return found


_SETS: Final = _Sets(_KEPT_CHARS)


def _pool(descriptors: str) -> Any:
    """A pool that nobody else's descriptors are in, so that equal names never meet; a text: why there can be none."""
    try:
        found = of_manifest(descriptors)
        check_bounds(found)
    except ValueError as error:
        return str(error)
    pool = descriptor_pool.DescriptorPool()
    for file in (*WELL_KNOWN, *found.file):
        try:
            pool.Add(file)
        except (TypeError, ValueError, KeyError, NotImplementedError) as error:
            reason = str(error).partition("\n")[0]
            return f"the descriptors do not fit together ({file.name[:100]}: {reason[:200]})"
    return pool


def _indexes(descriptor: Descriptor) -> tuple[int, ...]:
    around = descriptor.containing_type
    if around is None:
        return (list(descriptor.file.message_types_by_name).index(descriptor.name),)
    return (*_indexes(around), [one.name for one in around.nested_types].index(descriptor.name))


def _within(descriptor: Descriptor) -> list[Descriptor]:
    """The message and all that stand in its fields, each once."""
    found: dict[str, Descriptor] = {}
    waiting = [descriptor]
    while waiting:
        one = waiting.pop()
        if one.full_name not in found:
            found[one.full_name] = one
            waiting += [field.message_type for field in one.fields if field.message_type is not None]
    return list(found.values())
