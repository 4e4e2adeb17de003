"""Properties files are read as Java reads them, and what Java and librdkafka read differently is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.delivery.connection.properties import Malformed, read_properties

_SEPARATORS = st.sampled_from(["=", ":", " ", "\t", " = ", " : ", "  "])
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


def pairs(text: str) -> dict[str, str]:
    return {one.key: one.value for one in read_properties(text)}


def stored(text: str, *, is_key: bool = False) -> str:
    """As `java.util.Properties.store` writes it."""
    named = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}
    found = "".join(named.get(one, f"\\{one}" if one in "\\=:#!" else one) for one in text)
    found = re.sub(r"[^\x20-\x7e]", lambda one: "".join(f"\\u{unit:04X}" for unit in units(one[0])), found)
    return found.replace(" ", "\\ ") if is_key else re.sub("^ ", r"\\ ", found)


def units(letter: str) -> list[int]:
    encoded = letter.encode("utf-16-be")
    return [int.from_bytes(encoded[at : at + 2], "big") for at in range(0, len(encoded), 2)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=b", {"a": "b"}),
        ("\ufeffa=b\r\nc=d\re=f", {"a": "b", "c": "d", "e": "f"}),
        ("  a : b  ", {"a": "b  "}),
        ("a b=c", {"a": "b=c"}),
        ("a==b", {"a": "=b"}),
        ("a\nb=\nc", {"a": "", "b": "", "c": ""}),
        ("# a=b\n ! c=d\n\n \t\ne=f#g", {"e": "f#g"}),
        ("a=b\\\n   c\\\n  # d\ne=f", {"a": "bc# d", "e": "f"}),
        ("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}),
        ("a=b\\", {"a": "b"}),
        ("a\\ b\\=c\\:d=e", {"a b=c:d": "e"}),
        (r"a=\u00e4\ud83d\ude00\t\"", {"a": 'ä😀\t"'}),
    ],
)
def test_java_s_form(text: str, found: dict[str, str]) -> None:
    assert pairs(text) == found


@pytest.mark.parametrize("text", [r"a=\u12", r"a=C:\keys", r"a=\ud83d", "ok=1\nsasl.password=hush\\z"])
def test_what_is_malformed_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(Malformed, match=r"line \d") as caught:
        read_properties(text)
    assert "hush" not in str(caught.value)


@given(st.dictionaries(_TEXTS.filter(bool), _TEXTS, max_size=5), _SEPARATORS, st.sampled_from(["\n", "\r\n", "\r"]))
def test_what_java_writes_is_read_again(values: dict[str, str], separator: str, end: str) -> None:
    text = "".join(f"{stored(key, is_key=True)}{separator}{stored(value)}{end}" for key, value in values.items())
    assert pairs(text) == values


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = read_properties(text)
    except Malformed:
        return
    assert all(one.line >= 1 for one in found)
