"""Descriptors are cut down to what a message needs, and hostile ones are refused."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from tests.protos import SHOP, compiled, theirs

from guideway.catalogue.protobuf.descriptor_set import MAX_BYTES, embedded, of_manifest, read
from guideway.catalogue.protobuf.field_types import check_fields, derived
from guideway.catalogue.protobuf.message_type import message_type
from guideway.catalogue.protobuf.pruning import pruned
from guideway.schemas.input import Field

TICKET = "shop.v1.Ticket"


def described(fields: list[FieldDescriptorProto] | None = None, *, name: str = "A") -> DescriptorProto:
    return DescriptorProto(name=name, field=fields or [text_field()])


def text_field(number: int = 1, name: str = "text") -> FieldDescriptorProto:
    return FieldDescriptorProto(
        name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL, type=FieldDescriptorProto.TYPE_STRING
    )


def message_field(of: str, name: str = "inner") -> FieldDescriptorProto:
    return FieldDescriptorProto(
        name=name,
        number=1,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
        type=FieldDescriptorProto.TYPE_MESSAGE,
        type_name=of,
    )


def file(*messages: DescriptorProto, name: str = "a.proto", package: str = "a") -> FileDescriptorSet:
    return FileDescriptorSet(
        file=[FileDescriptorProto(name=name, package=package, syntax="proto3", message_type=messages)]
    )


def accepted(whole: FileDescriptorSet, message: str = "a.A") -> None:
    """As `apply` takes it."""
    message_type(embedded(pruned(whole, [message])), message)


def test_only_what_the_message_needs_is_kept() -> None:
    kept = pruned(compiled(SHOP), [TICKET])
    (shop,) = kept.file
    # Those before it stay as names: the frame of a schema registry counts them. Google's files are in every program.
    assert [one.name for one in shop.message_type] == ["Other", "Customer", "Ticket"]
    assert not shop.message_type[0].field
    assert kept.ByteSize() < 1200
    kind = message_type(embedded(kept), TICKET)
    assert kind.indexes == (2,)
    assert [one.name for one in kind.descriptor.fields] == [one.name for one in theirs(TICKET).DESCRIPTOR.fields]
    line = message_type(embedded(pruned(compiled(SHOP), ["shop.v1.Ticket.Line"])), "shop.v1.Ticket.Line")
    assert line.indexes == (2, 0)
    assert pruned(kept, [TICKET]) == kept, "what `describe` shows is taken again as it is"


def test_several_files_are_kept_in_the_order_of_their_imports() -> None:
    inner = FileDescriptorProto(name="b.proto", package="b", syntax="proto3", message_type=[described(name="B")])
    whole = FileDescriptorSet(file=[*file(described([message_field(".b.B", "b")])).file, inner])
    whole.file[0].dependency.append("b.proto")
    accepted(whole)
    assert [one.name for one in pruned(whole, ["a.A"]).file] == ["b.proto", "a.proto"]
    del whole.file[1]
    with pytest.raises(ValueError, match=r"b\.B is not described, and a\.A\.b is one: .*--include_imports"):
        pruned(whole, ["a.A"])


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("shop.v2.Ticket", r"'shop\.v2\.Ticket' is not described: there is shop\.v1\.Ticket"),
        ("Nothing", "there is shop.v1.Customer, shop.v1.Other"),
        ("shop.v1.Priority", "is not described"),
        ("google.protobuf.Struct", "put it into a message"),
    ],
)
def test_a_message_that_is_not_there_is_refused(message: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pruned(compiled(SHOP), [message])


@pytest.mark.parametrize("data", [b"", b"\0\1\2", b"syntax = 'proto3';", b"{}", b"\x0a\x00"])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="it is no FileDescriptorSet: make one with `protoc --include_imports"):
        read(data)


def test_whoever_describes_googles_types_is_not_believed() -> None:
    """They are those of every program, whatever a set says of them."""
    at = message_field(".google.protobuf.Timestamp", "at")
    false = file(described(name="Timestamp"), name="google/protobuf/timestamp.proto", package="google.protobuf")
    whole = FileDescriptorSet(file=[*false.file, *file(described([at])).file])
    kind = message_type(embedded(pruned(whole, ["a.A"])), "a.A")
    assert [one.name for one in kind.descriptor.fields[0].message_type.fields] == ["seconds", "nanos"]  # type: ignore[union-attr]
    own = file(described(), name="google/protobuf/timestamp.proto")
    with pytest.raises(ValueError, match="do not fit together"):
        accepted(own)
    other = file(described(name="Other"), package="google.protobuf.mine")
    with pytest.raises(ValueError, match="put it into a message"):
        pruned(other, ["google.protobuf.mine.Other"])


def hostile() -> dict[str, FileDescriptorSet]:
    deep = described()
    for _ in range(60):
        deep = DescriptorProto(name="A", nested_type=[deep])
    circle = FileDescriptorSet(
        file=[
            FileDescriptorProto(
                name=f"{mine}.proto",
                package=mine,
                syntax="proto3",
                dependency=[f"{other}.proto"],
                message_type=[
                    described(
                        [message_field(f".{other}.{other.upper()}")],
                        name=mine.upper(),
                    )
                ],
            )
            for mine, other in (("a", "b"), ("b", "a"))
        ]
    )
    chain = [
        described(
            [message_field(f".a.M{number + 1}")],
            name="A" if number == 0 else f"M{number}",
        )
        for number in range(1000)
    ]
    return {
        "twice": file(described(), described()),
        "deep": file(deep),
        "files in a circle": circle,
        "a thousand messages": file(*chain, described(name="M1000")),
        "wide": file(described([text_field(number, f"f{number}") for number in range(1, 400)])),
        "large": file(described([text_field(number, f"f{number}{'x' * 300}") for number in range(1, 250)])),
        "no type": file(described([FieldDescriptorProto(name="x", number=1)])),
        "number twice": file(described([text_field(), text_field(1, "other")])),
        "number 0": file(described([text_field(0)])),
        "no name": file(described([text_field(1, "")])),
        "enum without values": file(DescriptorProto(name="A", field=[text_field()], enum_type=[{"name": "E"}])),  # type: ignore[list-item]
        "map entry without fields": file(
            DescriptorProto(
                name="A",
                field=[message_field(".a.A.MEntry")],
                nested_type=[DescriptorProto(name="MEntry", options={"map_entry": True})],  # type: ignore[arg-type]
            )
        ),
    }


HARMLESS = {"enum without values", "no type"}
"""What is wrong is not needed, and so not kept; or it means something."""


@pytest.mark.parametrize("name", sorted(hostile()))
def test_hostile_descriptors_are_refused_or_harmless(name: str) -> None:
    if name in HARMLESS:
        accepted(hostile()[name])
        return
    with pytest.raises(ValueError, match=r".{20,300}"):
        accepted(hostile()[name])


def test_ten_thousand_messages_of_which_few_are_needed_are_taken() -> None:
    whole = file(described(), *(described(name=f"M{number}") for number in range(10_000)))
    assert pruned(whole, ["a.A"]).ByteSize() < 100
    with pytest.raises(ValueError, match=f"and {MAX_BYTES} are taken"):
        # Their names before it count in a frame.
        pruned(whole, ["a.M9999"])


def test_equal_names_of_two_sets_never_meet() -> None:
    text = 'syntax = "proto3"; package same; message A { TYPE text = 1; }'
    kinds = [
        message_type(embedded(pruned(compiled(text.replace("TYPE", one)), ["same.A"])), "same.A")
        for one in ("string", "int32")
    ]
    assert [one.factory(text=value).SerializeToString() for one, value in zip(kinds, ("a", 1), strict=True)] == [
        b"\x0a\x01a",
        b"\x08\x01",
    ]


def test_descriptors_of_a_manifest_that_are_none_say_so() -> None:
    for text in ("x", "base64:!", "base64:AAAA", "base64:" + "A" * 200_000):
        with pytest.raises(ValueError, match=r"apply the manifest|no FileDescriptorSet"):
            of_manifest(text)


def test_fields_are_derived_by_type() -> None:
    found = derived(theirs(TICKET).DESCRIPTOR, "{text} {note} {number} {{mail}}")
    assert {name: field.type for name, field in found.items()} == {
        "text": "string",
        "priority": "string",
        "note": "string",
        "lines": "array",
        "counts": "object",
        "mail": "string",
        "phone": "integer",
        "at": "string",
        "shop": "string",
        "ratio": "number",
        "customer": "object",
        "marks": "array",
        "total": "number",
        "urgent": "boolean",
        "number": "integer",
        "free": "object",
        "by_flag": "object",
        "history": "array",
    }
    assert [name for name, field in found.items() if field.required] == ["text"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"txt": Field()}, "input.fields.txt: message shop.v1.Ticket has no such field: did you mean 'text'?"),
        ({"number": Field()}, "input.fields.number is of type string, and in message shop.v1.Ticket it is integer"),
        ({"marks": Field(type="integer")}, "it is array"),
        ({"lines": Field(type="object")}, "it is array"),
        ({"counts": Field(type="array")}, "it is object"),
        ({"ratio": Field(type="integer")}, "it is number"),
        ({"shop": Field(type="object")}, "it is string"),
    ],
)
def test_declared_fields_that_do_not_fit_are_refused(fields: dict[str, Field], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        check_fields(fields, theirs(TICKET).DESCRIPTOR)


def test_declared_fields_that_fit_are_taken() -> None:
    check_fields(
        {"number": Field(type="number"), "picture": Field(), "at": Field(), "free": Field(type="object")},
        theirs(TICKET).DESCRIPTOR,
    )
