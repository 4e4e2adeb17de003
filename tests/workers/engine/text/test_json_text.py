"""Where a text of JSON stands, against a reader of whole JSON; and what has grown too large in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.schemas.json_schema.places import MOST_CHARS, MOST_DIGITS, MOST_ITEMS
from guideway.workers.engine.text.json_text import JsonText

names = st.text(max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def seen(text: str) -> JsonText:
    made = JsonText()
    made.see(text.encode())
    return made


def places(value: Any) -> list[tuple[str | int, ...]]:
    """Of all values that are neither arrays nor objects, in the order of their writing."""
    if isinstance(value, dict):
        return [(name, *rest) for name, inner in value.items() for rest in places(inner)]
    if isinstance(value, list):
        return [(index, *rest) for index, inner in enumerate(value) for rest in places(inner)]
    return [()]


class Marked(str):
    """Ends a text."""


def ends(value: Any) -> list[str]:
    """The texts that end in each of those values."""
    marks: list[str] = []

    def marked(one: Any) -> Any:
        if isinstance(one, dict):
            return {name: marked(inner) for name, inner in one.items()}
        if isinstance(one, list):
            return [marked(inner) for inner in one]
        marks.append(f"\ue000{len(marks)}\ue001")
        return marks[-1]

    text = json.dumps(marked(value), ensure_ascii=False)
    return [text[: text.index(mark)] for mark in marks]


@given(values)
def test_a_text_that_ends_in_a_value_says_where_that_stands(value: Any) -> None:
    assert [seen(text).path for text in ends(value)] == places(value)


@given(values, st.booleans())
def test_nothing_is_open_after_a_whole_text(value: Any, ascii_: bool) -> None:
    text = seen(json.dumps(value, ensure_ascii=ascii_) + " ")
    assert text.open == []
    assert text.path == ()


@given(values, st.integers(1, 5))
def test_where_a_text_is_cut_makes_no_difference(value: Any, size: int) -> None:
    data = json.dumps(value).encode()[:-1]
    whole, cut = JsonText(), JsonText()
    whole.see(data)
    for at in range(0, len(data), size):
        cut.see(data[at : at + size])
    assert (whole.open, whole.path, whole.size) == (cut.open, cut.path, cut.size)


MANY = json.dumps([True] * (MOST_ITEMS + 1))


@pytest.mark.parametrize(
    ("text", "what", "path"),
    [
        ('{"a":[0,' + "1" * (MOST_DIGITS + 1), "number", ("a", 1)),
        ('{"a":[0,-' + "1" * (MOST_DIGITS + 1), "number", ("a", 1)),
        ('{"a":"' + "é" * (MOST_CHARS + 1), "string", ("a",)),
        ('{"a":{"b":' + MANY, "array", ("a", "b")),
        ('{"a":{"' + "n" * (MOST_CHARS + 1), "object", ("a",)),
        ('{"a":[{"x":1,"x"', "twice", ("a", 0, "x")),
        ('{"a":0.' + "0" * 40, "fraction", ("a",)),
        ('{"a":1e' + "0" * 40, "exponent", ("a",)),
    ],
    ids=lambda one: str(one)[:20],
)
def test_what_grows_too_large_is_told_once(text: str, what: str, path: tuple[Any, ...]) -> None:
    (crossing,) = seen(text + ("" if what in {"twice", "array"} else text[-1] * 3)).crossings
    assert (crossing.what, crossing.path) == (what, path)
    assert crossing.negative == ("-" in text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' + "1" * MOST_DIGITS + ".5,",
        '["' + "a" * MOST_CHARS + '","b"]',
        '["' + "\\n" * MOST_CHARS + '"]',
        json.dumps([[1]] * MOST_ITEMS),
        json.dumps([{"x": 1}, {"x": 1}, {"y": {"x": "x"}}]),
        "[0." + "3" * 40 + "]",
        "[" + ",".join(["9" * MOST_DIGITS] * 9) + "]",
        '"' + "1" * 100 + '"',
    ],
    ids=lambda one: str(one)[:20],
)
def test_what_is_within_the_bounds_is_not(text: str) -> None:
    assert seen(text).crossings == []


def test_many_names_are_told_with_what_they_are() -> None:
    text = seen("{" + ",".join(f'"n{n}":{{"m":1}}' for n in range(MOST_ITEMS + 1)))
    (crossing,) = text.crossings
    assert (crossing.what, crossing.path, len(crossing.names)) == ("object", (), MOST_ITEMS + 1)


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("0." + "3" * 19, False),
        ("0." + "3" * 20, True),
        ("1." + "0" * 18, False),
        ("1." + "0" * 19, True),
        ("0." + "0" * 30 + "3", False),
        ("[1." + "0" * 19 + ",2.", False),
        ("1" * 30, False),
        ("1" * 30 + ".", False),
        ("1.5e-999", False),
        ("1.5e-1000", True),
        ("1.5E-0001000", True),
        ("1.5e-00010", False),
        ("1.5e1000", False),
    ],
)
def test_a_number_is_exact_once_no_float_could_tell_more(text: str, exact: bool) -> None:
    assert seen(text).is_exact is exact
    if exact:
        assert {float(text + more) for more in ("", "1", "5", "99999", "4" * 60)} == {float(text)}


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ('{"na', b""),
        ('{"name"', b""),
        ('{"name":"', b'"'),
        ('{"name":"x', b'"'),
        ('{"name":"x\\', b""),
        ('{"name":"x\\"', b'"'),
        ('{"name":"x"', b""),
        ("[1", b",]}"),
        ("[-", b",]}"),
        ("[true", b""),
    ],
)
def test_what_may_end_a_value(text: str, ends: bytes) -> None:
    made = JsonText()
    made.see(text.encode())
    assert made.ends == ends


def test_a_copy_goes_its_own_way() -> None:
    text = b'{"a":[1,{"b":"x\\u00e9 ","c":-1.5e3},"y"],"a":"z'
    for at in range(len(text)):
        one = JsonText()
        one.see(text[:at])
        other = one.copy()
        before = repr(vars(one))
        other.see(text[at:])
        assert repr(vars(one)) == before
        one.see(text[at:])
        assert repr(vars(one)) == repr(vars(other))
