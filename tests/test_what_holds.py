"""Each line of `what_holds.md` and `what_users_bring.md` names tests that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent
ROWS: Final = re.findall(
    r"^\| (?!what holds|---)(.+?) \| (.+) \|$", (HERE / "what_holds.md").read_text("utf-8"), re.MULTILINE
)


def test_the_table_is_read() -> None:
    assert len(ROWS) > 40


BROUGHT: Final = [
    (what, held_by)
    for what, held_by in re.findall(
        r"^\| (?!brought|---)(.+?) \| .+? \| (`.+) \|$", (HERE / "what_users_bring.md").read_text("utf-8"), re.MULTILINE
    )
]


def test_every_line_of_what_users_bring_is_read() -> None:
    text = (HERE / "what_users_bring.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| brought |")]
    assert len(BROUGHT) == len(lines) > 50
    assert [int(one) for one in re.findall(r"^## (\d+)\. ", text, re.MULTILINE)] == [*range(1, 13)]


@pytest.mark.parametrize(("what", "held_by"), ROWS + BROUGHT, ids=[what for what, _ in ROWS + BROUGHT])
def test_what_holds_is_held_by_a_test(what: str, held_by: str) -> None:
    for cell in held_by.split("; "):
        file, *function = re.findall(r"`([^`]+)`", cell)
        nodes = ast.walk(ast.parse((HERE / file).read_text("utf-8")))
        functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert {*function} <= functions, f"{what}: {cell}"
        assert any(name.startswith("test_") for name in functions)
