"""Passages: along the structure, within the length, with the overlap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.training.sets.split import sections, split


def test_whole_paragraphs_go_together_while_they_fit() -> None:
    text = "One is here.\n\nTwo is here.\n\nThree is here."
    assert split(text, max_chars=30, overlap_chars=0) == ["One is here.\n\nTwo is here.", "Three is here."]
    assert split(text, max_chars=200, overlap_chars=0) == [text]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    text = "The first sentence is this. The second one is that. A third."
    assert split(text, max_chars=30, overlap_chars=0) == [
        "The first sentence is this.",
        "The second one is that.",
        "A third.",
    ]


def test_a_passage_begins_with_the_last_sentence_of_the_one_before() -> None:
    text = "Alpha comes. Beta follows. Gamma ends it all."
    assert split(text, max_chars=32, overlap_chars=16) == [
        "Alpha comes. Beta follows.",
        "Beta follows. Gamma ends it all.",
    ]


def test_what_has_no_seam_is_cut_anyway() -> None:
    assert split("x" * 70, max_chars=30, overlap_chars=0) == ["x" * 30, "x" * 30, "x" * 10]


@pytest.mark.parametrize("text", ["", " \n\n ", "\t"])
def test_blank_text_has_no_passage(text: str) -> None:
    assert split(text, max_chars=30, overlap_chars=5) == []


@given(
    text=st.text(alphabet="ab .\n,", max_size=400),
    max_chars=st.integers(20, 80),
    overlap_chars=st.integers(0, 10),
)
def test_every_word_is_in_a_passage_and_none_is_too_long(text: str, max_chars: int, overlap_chars: int) -> None:
    passages = split(text, max_chars=max_chars, overlap_chars=overlap_chars)
    assert all(passage.strip() and len(passage) <= max_chars for passage in passages)
    letters = [letter for letter in text if not letter.isspace()]
    found = [letter for passage in passages for letter in passage if not letter.isspace()]
    assert len(found) >= len(letters)
    if not overlap_chars:
        assert found == letters


def test_sections_know_the_headings_above_them() -> None:
    text = "before\n# A\nin a\n## B\nin b\n```\n# no heading\n```\n# C #\nin c\n### D\nin d"
    assert sections(text) == [
        ("", "before"),
        ("A", "in a"),
        ("A > B", "in b\n```\n# no heading\n```"),
        ("C", "in c"),
        ("C > D", "in d"),
    ]


@pytest.mark.parametrize(
    ("line", "heading"),
    [
        ("## Two  words ##  ", "Two  words"),
        ("#\tTabbed\r", "Tabbed"),
        ("# C# and F#", "C# and F"),
        ("#none", None),
        ("####### seven", None),
        (" # indented", None),
        ("#   ", None),
    ],
)
def test_what_a_heading_is(line: str, heading: str | None) -> None:
    assert sections(f"{line}\nbody") == [("", f"{line}\nbody".strip()) if heading is None else (heading, "body")]


@pytest.mark.parametrize("line", ["# a" + " " * 200_000 + "b", "#" + " " * 200_000, "# " + "a #" * 100_000 + "b"])
def test_a_heading_is_found_in_time_by_its_length(line: str) -> None:
    """By the square or cube of it, this test would run for minutes and be ended."""
    assert len(sections(f"{line}\nbody")) == 1


def test_chinese_is_cut_at_its_own_full_stops() -> None:
    text = "图书馆每天上午九点开门。" * 3 + "“星期日关闭。”" + "对吗？" * 2
    pieces = split(text, max_chars=24, overlap_chars=0)
    assert "".join(pieces) == text
    assert all(piece.endswith(("。", "？", "”")) for piece in pieces)
