"""Which characters nobody sees: a text of these alone says nothing."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from guideway.producers.events.unseen import UNSEEN, before_object, is_unseen
from guideway.producers.marshalling.template import parse

SEEN_FORMATS = {0x600, 0x601, 0x602, 0x603, 0x604, 0x605, 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
"""Unicode's Prepended_Concatenation_Mark: signs that stand below or around a number or a word."""
HIEROGLYPHS = range(0x13430, 0x13440)
"""Formats that join hieroglyphs; fonts show them."""


def test_format_characters_are_unseen_but_for_those_that_have_a_sign() -> None:
    formats = {code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cf"}
    assert formats - {*map(ord, UNSEEN)} == SEEN_FORMATS | (formats & {*HIEROGLYPHS})


def test_spaces_and_controls_are_unseen_and_nothing_else_is() -> None:
    blank = {code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "Z"}
    blank |= {code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cc"}
    assert blank <= {*map(ord, UNSEEN)}
    others = {one for one in UNSEEN if unicodedata.category(one)[0] not in "ZC"}
    # Fillers of Hangul, vowels of Khmer without a sign, variations of a character, the empty pattern of Braille.
    assert all(
        unicodedata.category(one) == "Mn" or ord(one) in {0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800} for one in others
    )


@pytest.mark.parametrize("code", sorted(SEEN_FORMATS))
def test_a_sign_of_arabic_alone_says_something(code: int) -> None:
    assert not parse("{text}").says_nothing(chr(code))
    assert not is_unseen(chr(code))


@pytest.mark.parametrize("char", ["\u3164", "\u2800", "\ufe0f", "\u200b\u00a0", "\U000e0020", "\x00\n\x7f"])
def test_a_text_of_what_nobody_sees_says_nothing(char: str) -> None:
    assert parse("{text}").says_nothing(char)


def test_white_space_of_json_is_nothing_strange_before_an_object() -> None:
    assert before_object(' \n{"a": 1}') == ""
    assert before_object('\u180f{"a": 1}') == "\u180f"
