"""A Protobuf message becomes fields, or is refused with what to change."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protos import SHOP, input_rule, theirs

from guideway.catalogue.protobuf.message_type import message_type
from guideway.producers.events.contents import content
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field, InputRule

RULE = input_rule()
Ticket = theirs("shop.v1.Ticket")


def read(value: bytes, rule: InputRule | None = RULE, content_type: str = "application/protobuf") -> dict[str, Any]:
    found = content(value, content_type, rule)
    assert isinstance(found, dict)
    return found


def refused(value: bytes, rule: InputRule | None = RULE, content_type: str = "application/protobuf") -> Refusal:
    with pytest.raises(Refusal) as caught:
        content(value, content_type, rule)
    return caught.value


def changed(old: str, new: str) -> Any:
    """A writer's class, of the same file with a change."""
    assert old in SHOP
    return theirs("shop.v1.Ticket", SHOP.replace(old, new))


def test_fields_are_what_json_has() -> None:
    ticket = Ticket(
        text="It broke.",
        priority="HIGH",
        lines=[{"item": "cup", "amount": 2**53 + 1}],
        counts={"a": 2**62},
        phone=-7,
        shop={"value": "north"},
        ratio=0.1,
        customer={"name": "Ada", "number": 2**63 - 1, "referred_by": {"name": "Eve"}},
        marks=[1, -2],
        total=0.1,
        urgent=True,
        by_flag={True: {"name": "x"}},
        history=[1, 0],
    )
    ticket.at.FromJsonString("2030-01-31T12:00:00.5Z")
    ticket.free.update({"a": [1, {"b": None}], "c": 0.5})
    nobody = {"name": "", "number": 0, "priority": "PRIORITY_UNSPECIFIED"}
    assert read(ticket.SerializeToString()) == {
        "text": "It broke.",
        "priority": "HIGH",
        "lines": [{"item": "cup", "amount": 2**53 + 1}],
        "counts": {"a": 2**62},
        "phone": -7,
        "at": "2030-01-31T12:00:00.500Z",
        "shop": "north",
        "ratio": 0.1,
        "customer": {**nobody, "name": "Ada", "number": 2**63 - 1, "referred_by": {**nobody, "name": "Eve"}},
        "marks": [1, -2],
        "total": 0.1,
        "urgent": True,
        "number": 0,
        "free": {"a": [1, {"b": None}], "c": 0.5},
        "by_flag": {"true": {**nobody, "name": "x"}},
        "history": ["LOW", "PRIORITY_UNSPECIFIED"],
    }


def test_what_is_absent_is_absent_and_what_cannot_be_is_there() -> None:
    found = read(Ticket(text="a").SerializeToString())
    assert not {"note", "mail", "phone", "at", "shop", "customer", "free"} & found.keys()
    assert (found["number"], found["urgent"], found["priority"], found["marks"], found["counts"]) == (
        0,
        False,
        "PRIORITY_UNSPECIFIED",
        [],
        {},
    )
    # An empty string without presence is none; one with presence was sent.
    assert "text" not in read(Ticket(number=1).SerializeToString())
    assert read(Ticket(number=1, note="").SerializeToString())["note"] == ""


def test_only_declared_fields_are_read() -> None:
    rule = input_rule(fields={"text": Field(), "picture": Field()})
    assert read(Ticket(text="a", picture=b"\0\xff", total=float("nan")).SerializeToString(), rule) == {
        "text": "a",
        "picture": "AP8=",
    }


# A writer whose file has changed --------------------------------------------------------------------------------------


def test_new_fields_of_newer_writers_are_left_out() -> None:
    newer = changed("bool urgent = 15;", "bool urgent = 15; string added = 90; Customer more = 91;")
    value = newer(text="a", added="b", more={"name": "c"}, customer={"name": "d"}).SerializeToString()
    assert read(value) == read(Ticket(text="a", customer={"name": "d"}).SerializeToString())


def test_a_renamed_field_keeps_its_number() -> None:
    assert read(changed("string text = 1;", "string words = 1;")(words="a").SerializeToString())["text"] == "a"


@pytest.mark.parametrize(
    ("old", "new", "value", "said"),
    [
        ("Priority priority = 2;", "string priority = 2;", "high", "field priority"),
        ("string text = 1;", "int64 text = 1;", 5, "field text is sent as another type"),
        ("bool urgent = 15;", "string urgent = 15;", "yes", "field urgent"),
        ("double total = 14;", "int64 total = 14;", 5, "field total is sent as another type"),
    ],
)
def test_a_field_of_another_type_is_refused(old: str, new: str, value: Any, said: str) -> None:
    writer = changed(old, new)
    refusal = refused(writer(**{"number": 1, new.split()[1]: value}).SerializeToString())
    assert refusal.code == FailureCode.WRONG_FIELD
    assert refusal.message.startswith(said)


def test_a_field_of_another_type_within_is_refused_with_its_path() -> None:
    writer = changed("int64 number = 2;", "string number = 2;")
    refusal = refused(writer(text="a", customer={"referred_by": {"number": "7"}}).SerializeToString())
    assert refusal.message.startswith("field customer.referred_by.number is sent as another type")


def test_an_unknown_enum_value_is_refused() -> None:
    for value in (Ticket(text="a", priority=9), Ticket(text="a", history=[1, 9]), Ticket(customer={"priority": 9})):
        refusal = refused(value.SerializeToString())
        assert refusal.code == FailureCode.WRONG_FIELD
        assert "has number 9, which enum shop.v1.Priority does not know" in refusal.message


def test_numbers_that_json_lacks_are_refused() -> None:
    assert "ratio is inf" in refused(Ticket(text="a", ratio=float("inf")).SerializeToString()).message
    assert "total is nan" in refused(Ticket(text="a", total=float("nan")).SerializeToString()).message
    endless = Ticket(text="a")
    endless.free["x"] = float("nan")
    assert refused(endless.SerializeToString()).code == FailureCode.WRONG_FIELD
    late = Ticket(text="a", at={"seconds": 2**60})
    assert "field at is beyond" in refused(late.SerializeToString()).message


# Foreign, broken and hostile bytes ------------------------------------------------------------------------------------


def test_a_message_with_nothing_known_is_refused() -> None:
    foreign = theirs("a.B", 'syntax = "proto3"; package a; message B { string x = 50; B y = 51; }')
    assert "is it another message?" in refused(foreign(x="a", y={"x": "b"}).SerializeToString()).message
    assert "the value is empty" in refused(b"").message


@pytest.mark.parametrize("value", [b"\x0a\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe", b"\xff" * 20, b"\x00", b"\x03abc"])
def test_broken_bytes_are_refused(value: bytes) -> None:
    refusal = refused(value)
    assert refusal.code == FailureCode.UNDECODABLE_EVENT
    assert len(refusal.message) < 300


def test_each_cut_is_refused_or_less() -> None:
    """Protobuf has no end mark: what is cut between two fields is a message, and is read as one."""
    whole = Ticket(text="abc", priority=1, note="d").SerializeToString()
    for end in range(len(whole)):
        try:
            found = read(whole[:end])
        except Refusal:
            continue
        assert found.get("text", "abc") == "abc"
        assert found.get("note", "d") == "d"


def test_of_a_field_that_comes_twice_the_last_counts() -> None:
    """As Protobuf has it: messages are merged by putting them one after the other."""
    one, other = (
        Ticket(text="a", marks=[1], customer={"name": "x"}),
        Ticket(text="b", marks=[2], customer={"number": 3}),
    )
    found = read(one.SerializeToString() + other.SerializeToString())
    assert (found["text"], found["marks"]) == ("b", [1, 2])
    assert (found["customer"]["name"], found["customer"]["number"]) == ("x", 3)


def test_deep_nesting_is_refused() -> None:
    deep = Ticket(text="a")
    place = deep.customer
    for _ in range(90):
        place = place.referred_by
    place.name = "deep"
    assert read(deep.SerializeToString())["customer"]
    for _ in range(20):
        place = place.referred_by
    place.name = "too deep"
    assert refused(deep.SerializeToString()).code == FailureCode.UNDECODABLE_EVENT


def test_eight_megabytes_are_read_and_too_many_values_are_not() -> None:
    assert len(read(Ticket(text="a" * 8_000_000).SerializeToString())["text"]) == 8_000_000
    for value in (
        Ticket(text="a", marks=[1] * 200_000).SerializeToString(),
        b"\x22\x00" * 4_000_000,
        b"\x62\x00" * 4_000_000,
        b"\x78\x01" * 4_000_000,
    ):
        assert "more than 100000 values" in refused(value).message


def test_what_stands_in_a_group_is_counted_as_what_it_is() -> None:
    """There a number may be a list of messages that is a text outside."""
    text = """
    syntax = "proto2";
    package g;
    message Event { optional string text = 1; optional group Extra = 2 { repeated Event inner = 1; } }
    """
    rule, event = input_rule("g.Event", text), theirs("g.Event", text)
    assert read(event(text="a", extra={"inner": [{"text": "b"}]}).SerializeToString(), rule)["extra"]["inner"]
    many = event(extra={"inner": [{"extra": {"inner": [{}] * 200_000}}]})
    assert "more than 100000 values" in refused(many.SerializeToString(), rule).message


def test_a_large_message_that_is_broken_at_its_end_is_not_parsed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(value: bytes) -> None:
        raise AssertionError("it would take memory for nothing")

    kind = message_type(RULE.descriptors, RULE.message)
    monkeypatch.setattr(kind, "factory", type("Never", (), {"FromString": staticmethod(parsed)}))
    many = theirs("shop.v1.Customer")(referred_by={}).SerializeToString() * 20_000
    large = b"\x62" + b"\xe0\xd4\x03" + many[:60_000]
    for end in (b"\x07", b"\x0a\xff\xff\x03", b"\x0c"):
        assert refused(large + end).code is FailureCode.UNDECODABLE_EVENT


@given(st.binary(max_size=200))
def test_random_bytes_are_fields_or_a_refusal(value: bytes) -> None:
    with contextlib.suppress(Refusal):
        assert isinstance(content(value, "application/x-protobuf", RULE), dict)


def test_one_changed_byte_never_raises_anything_else() -> None:
    whole = Ticket(text="abc", lines=[{"item": "x", "amount": 3}], counts={"k": 1}, ratio=0.5).SerializeToString()
    for place in range(len(whole)):
        for byte in (0, 0x7F, 0x80, 0xFF, whole[place] ^ 1, whole[place] ^ 8):
            with contextlib.suppress(Refusal):
                content(whole[:place] + bytes([byte]) + whole[place + 1 :], "application/protobuf", RULE)


# proto2 ---------------------------------------------------------------------------------------------------------------

OLD = """
syntax = "proto2";
package old;
enum Kind { A = 1; B = 2; }
message Part { required string name = 1; }
message Event {
  required string text = 1;
  optional int32 level = 2 [default = 5];
  optional Kind kind = 3 [default = B];
  optional group Extra = 4 { optional string inner = 5; }
  repeated int32 packed = 6 [packed = true];
  optional Part part = 7;
  extensions 100 to 200;
}
extend Event { optional string more = 100; }
"""


def test_proto2_has_defaults_groups_and_required_fields() -> None:
    rule, event = input_rule("old.Event", OLD), theirs("old.Event", OLD)
    assert rule.fields["text"].required
    assert rule.fields["level"] == Field(type="integer", required=False, default=5)
    assert rule.fields["kind"] == Field(required=False, default="B")
    assert read(event(text="a", extra={"inner": "x"}, packed=[1, 2]).SerializeToString(), rule) == {
        "text": "a",
        "extra": {"inner": "x"},
        "packed": [1, 2],
    }
    # An extension is not declared by the message: it is left out.
    assert read(event(text="a").SerializeToString() + b"\xa2\x06\x01x", rule) == {"text": "a", "packed": []}


def test_proto2_refuses_as_protobuf_does() -> None:
    rule, event = input_rule("old.Event", OLD), theirs("old.Event", OLD)
    assert refused(event(level=1).SerializePartialToString(), rule).code == FailureCode.MISSING_FIELD
    refusal = refused(event(text="a", part={}).SerializePartialToString(), rule)
    assert "field 'part.name' is missing" in refusal.message
    # Its enums are closed, and its strings are any bytes.
    refusal = refused(event(text="a").SerializeToString() + b"\x18\x09", rule)
    assert refusal.code == FailureCode.WRONG_FIELD
    assert "kind has a number that its enum does not know" in refusal.message
    assert refused(b"\x0a\x02\xff\xfe", rule).code == FailureCode.UNDECODABLE_EVENT


def test_an_event_says_which_message_it_is() -> None:
    value = Ticket(text="a").SerializeToString()
    for name in ("messageType", "proto", "message", "MESSAGETYPE"):
        assert read(value, content_type=f'application/x-protobuf; {name}="shop.v1.Ticket"')["text"] == "a"
        assert (
            "names message 'shop.v1.Other'"
            in refused(value, content_type=f"application/protobuf;{name}=shop.v1.Other").message
        )
    assert "have its manifest say `input: {format: protobuf" in refused(value, InputRule()).message
    assert "name one in the header endpoint" in refused(value, None).message


def test_descriptors_that_cannot_be_used_refuse_each_event() -> None:
    """Whoever writes the catalogue's topic by hand has passed no check."""
    for descriptors in ("base64:AAAA", "base64:", "base64:!", "x", "base64:CgA="):
        rule = InputRule(format="protobuf", message="a.B", descriptors=descriptors)
        assert refused(b"\x0a\x01a", rule).code == FailureCode.UNDECODABLE_EVENT
