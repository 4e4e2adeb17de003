"""attacks.md says what the tests try."""

from __future__ import annotations

from pathlib import Path

from . import page


def test_the_page_says_what_is_tried() -> None:
    assert page.PAGE.read_text("utf-8") == page.written(), "PYTHONPATH=. python -m tests.secured.attacks.page"


def test_what_is_tried_elsewhere_is_there() -> None:
    tests = Path(__file__).parents[2]
    for file, name in page.ELSEWHERE.values():
        assert f"def {name}(" in (tests / file).read_text("utf-8"), name


def test_there_are_many() -> None:
    listed = page.lines()
    assert len(listed) >= 100
    assert len(listed) == len(set(listed))
    assert set(page.CASES) <= {name for module in page.MODULES for name in page.tests_of(module)}
