"""A house to find one's way in: folders of few files, files of few lines. A longer file says why in its docstring.

A file of tests is a list of cases beside their fixtures, read one case at a time: it may have 500 lines.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from tests.rooms import ROOMS, ROOT

MOST_FILES, MOST_LINES, MOST_LINES_OF_TESTS = 15, 300, 500
CODE = (*ROOMS, "src/guideway", "tests", "benchmarks")


def sources() -> list[Path]:
    """Every source file once: the links below `src` lead to rooms that are listed themselves."""
    found = {path for top in CODE for suffix in ("py", "c", "h") for path in (ROOT / top).rglob(f"*.{suffix}")}
    return sorted(path.relative_to(ROOT) for path in found if path.resolve() == path)


def test_a_folder_holds_few_files() -> None:
    held = Counter(path.parent for path in sources() if path.name != "__init__.py")
    assert held
    assert not {str(folder): count for folder, count in held.items() if count > MOST_FILES}


@pytest.mark.parametrize("path", [path for path in sources() if path.suffix == ".py"], ids=str)
def test_a_long_file_says_why(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    if len(text.splitlines()) > (MOST_LINES_OF_TESTS if path.parts[0] == "tests" else MOST_LINES):
        said = " ".join((ast.get_docstring(ast.parse(text)) or "").split())
        assert f"past {MOST_LINES} lines" in said, "divide it, or say in its docstring why it is past 300 lines"


def test_each_decision_has_a_number_of_its_own() -> None:
    names = sorted(path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert [int(name[:4]) for name in names] == [*range(1, len(names) + 1)]
    for name in names:
        assert (ROOT / "docs/decisions" / name).read_text(encoding="utf-8").startswith(f"# {int(name[:4])}. ")
