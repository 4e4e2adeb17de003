"""Descriptors are cut down to what some messages need. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from guideway.catalogue.protobuf.descriptor_set import MAX_BYTES, PROTOC, WELL_KNOWN, WELL_KNOWN_PACKAGE

_NEEDED_OF_MESSAGES: Final = ("map_entry", "features")
_NEEDED_OF_FIELDS: Final = ("packed", "features")
_NEEDED_OF_ENUMS: Final = ("allow_alias", "features")

Described = DescriptorProto | EnumDescriptorProto


class _Place(NamedTuple):
    """Where a message or an enum is described."""

    file: FileDescriptorProto
    path: tuple[str, ...]
    """The names of the messages around it, and its own."""
    described: Described


def pruned(whole: FileDescriptorSet, messages: Sequence[str]) -> FileDescriptorSet:
    """What these messages need, without comments, services, extensions and options.

    In its file the first message keeps its place among the others, which stay as names without fields: the frames of
    schema registries count them. Raises ValueError, which says what to change.
    """
    places = _places(whole)
    needed = _needed(messages, places)
    kept: dict[str, FileDescriptorProto] = {}
    dependencies: dict[str, list[str]] = {}
    shells = _before(messages[0], places)
    for name in [*needed, *shells]:
        file = places[name].file
        if file.name not in kept:
            kept[file.name] = FileDescriptorProto(name=file.name, package=file.package)
            for one in ("syntax", "edition"):
                if file.HasField(one):
                    setattr(kept[file.name], one, getattr(file, one))
            _copy_options(file, kept[file.name], ("features",))
            dependencies[file.name] = []
        dependencies[file.name] += needed.get(name, ())
    there = {*needed, *shells}
    there |= {".".join(name.split(".")[:end]) for name in there for end in range(1, name.count(".") + 1)}
    for file in whole.file:
        if file.name in kept:
            prefix = f"{file.package}." if file.package else ""
            for message in file.message_type:
                _keep(message, prefix, there, needed, kept[file.name].message_type)
            for enum in file.enum_type:
                if prefix + enum.name in needed:
                    kept[file.name].enum_type.append(_bare_enum(enum))
            kept[file.name].dependency.extend(sorted({*dependencies[file.name]} - {file.name}))
    found = FileDescriptorSet(file=_in_order(kept))
    if (size := found.ByteSize()) > MAX_BYTES:
        raise ValueError(
            f"what {' and '.join(messages)} need of the descriptors has {size} bytes, and {MAX_BYTES} are taken: "
            "use a message that needs fewer others"
        )
    return found


def _places(whole: FileDescriptorSet) -> dict[str, _Place]:
    found: dict[str, _Place] = {}

    def note(file: FileDescriptorProto, path: tuple[str, ...], described: Described) -> None:
        name = ".".join(filter(None, (file.package, *path)))
        if name in found:
            raise ValueError(f"{name} is described twice, in {found[name].file.name} and {file.name}: keep one")
        found[name] = _Place(file, path, described)

    def visit(file: FileDescriptorProto, path: tuple[str, ...], message: DescriptorProto) -> None:
        note(file, path, message)
        if len(path) > 50:
            raise ValueError(f"{path[0]} holds messages inside of each other more than 50 levels deep: flatten them")
        for enum in message.enum_type:
            note(file, (*path, enum.name), enum)
        for one in message.nested_type:
            visit(file, (*path, one.name), one)

    # What else says that it is Google's is not looked at: ours are the same or newer.
    for file in (*WELL_KNOWN, *(one for one in whole.file if not f"{one.package}.".startswith(WELL_KNOWN_PACKAGE))):
        for enum in file.enum_type:
            note(file, (enum.name,), enum)
        for message in file.message_type:
            visit(file, (message.name,), message)
    return found


def _needed(messages: Sequence[str], places: dict[str, _Place]) -> dict[str, set[str]]:
    """Full name → the files of what it names, for these messages and all that they need. Without the well-known."""
    found: dict[str, set[str]] = {}
    for name in messages:
        if name.startswith(WELL_KNOWN_PACKAGE):
            raise ValueError(f"message {name[:200]} has no fields of its own: put it into a message, and name that")
        if name not in places or not isinstance(places[name].described, DescriptorProto):
            raise ValueError(_not_there(name, places))
    waiting = [*messages]
    while waiting:
        name = waiting.pop()
        if name in found or name.startswith(WELL_KNOWN_PACKAGE):
            continue
        described = places[name].described
        found[name] = set()
        for field in described.field if isinstance(described, DescriptorProto) else ():
            if not field.type_name:
                continue
            of = field.type_name.removeprefix(".")
            if not field.type_name.startswith(".") or of not in places:
                raise ValueError(
                    f"{of} is not described, and {name}.{field.name} is one: make the set with `{PROTOC}`, which "
                    "includes what is imported"
                )
            found[name].add(places[of].file.name)
            waiting.append(of)
    return found


def _not_there(name: str, places: dict[str, _Place]) -> str:
    listed = sorted(
        one
        for one, place in places.items()
        if isinstance(place.described, DescriptorProto)
        and not place.described.options.map_entry
        and not one.startswith(WELL_KNOWN_PACKAGE)
    )
    last = name.rpartition(".")[2].lower()
    near = [one for one in listed if one.rpartition(".")[2].lower() == last] or listed
    shown = ", ".join(near[:8]) + (", …" if len(near) > 8 else "")
    return f"message {name[:200]!r} is not described: " + (f"there is {shown}" if near else "no message is")


def _before(message: str, places: dict[str, _Place]) -> list[str]:
    """The messages that stand before this one in its file, or before one of those around it."""
    file, path, _ = places[message]
    found: list[str] = []
    beside: Iterable[DescriptorProto] = file.message_type
    around = [file.package] if file.package else []
    for name in path:
        for one in beside:
            found.append(".".join([*around, one.name]))
            if one.name == name:
                around.append(name)
                beside = one.nested_type
                break
    return found


def _keep(message: DescriptorProto, prefix: str, there: set[str], needed: dict[str, set[str]], into: Any) -> None:
    """Put what is to be there of a message and those inside of it into the list `into`."""
    name = prefix + message.name
    if name not in there:
        return
    kept = into.add(name=message.name)
    if "visibility" in DescriptorProto.DESCRIPTOR.fields_by_name and message.HasField("visibility"):
        kept.visibility = message.visibility
    if name in needed:
        _copy_options(message, kept, _NEEDED_OF_MESSAGES)
        for field in message.field:
            kept.field.append(_bare_field(field))
        for oneof in message.oneof_decl:
            kept.oneof_decl.add(name=oneof.name)
    for one in message.nested_type:
        _keep(one, f"{name}.", there, needed, kept.nested_type)
    for enum in message.enum_type:
        if f"{name}.{enum.name}" in needed:
            kept.enum_type.append(_bare_enum(enum))


def _bare_field(field: FieldDescriptorProto) -> FieldDescriptorProto:
    bare = FieldDescriptorProto()
    for name in ("name", "number", "label", "type", "type_name", "default_value", "oneof_index", "proto3_optional"):
        if field.HasField(name):
            setattr(bare, name, getattr(field, name))
    _copy_options(field, bare, _NEEDED_OF_FIELDS)
    return bare


def _bare_enum(enum: EnumDescriptorProto) -> EnumDescriptorProto:
    bare = EnumDescriptorProto(name=enum.name)
    for value in enum.value:
        bare.value.add(name=value.name, number=value.number)
    _copy_options(enum, bare, _NEEDED_OF_ENUMS)
    return bare


def _copy_options(source: Any, into: Any, names: Iterable[str]) -> None:
    for name in names:
        if source.options.HasField(name):
            if name == "features":
                into.options.features.CopyFrom(source.options.features)
                into.options.features.DiscardUnknownFields()
            else:
                setattr(into.options, name, getattr(source.options, name))


def _in_order(files: dict[str, FileDescriptorProto]) -> list[FileDescriptorProto]:
    """Each file after those that it imports."""
    ordered: dict[str, FileDescriptorProto] = {}
    under_way: list[str] = []

    def visit(name: str) -> None:
        if name in ordered or name not in files:
            return
        if name in under_way:
            raise ValueError(f"the files {', '.join(under_way)[:300]} import each other in a circle: part them")
        under_way.append(name)
        for one in files[name].dependency:
            visit(one)
        under_way.pop()
        ordered[name] = files[name]

    for name in files:
        visit(name)
    return list(ordered.values())
