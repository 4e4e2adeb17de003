"""ARCHITECTURE.md is true: what it names is there, and its tree has every folder of the rooms."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Final

import pytest
from tests.rooms import ROOMS, ROOT

PAGE: Final = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
LINK: Final = re.compile(r"\[([^\]]+)\]\(([^)#]+)\)")
NAMES: Final = re.compile(r":\s(`[\w.]+`(?:(?:,| and|, and)\s`[\w.]+`)*)")
"""After a link: what is defined in its file."""
TREE: Final = re.search(r"^## Folders\n+```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def named() -> list[tuple[str, str]]:
    """(file, name) for each name that the page gives with a file."""
    found = []
    for link in LINK.finditer(PAGE):
        if names := NAMES.match(PAGE, link.end()):
            found += [(link[2], name) for name in re.findall(r"`([\w.]+)`", names[1])]
    return found


def defined(body: list[ast.stmt], before: str = "") -> Iterator[str]:
    """The functions, classes, methods and constants of a file, methods as `Class.method`."""
    for node in body:
        match node:
            case ast.ClassDef(name=name):
                yield before + name
                yield from defined(node.body, f"{before}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield before + name
            case ast.Assign(targets=targets):
                yield from (before + target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield before + name


def folders() -> list[str]:
    """Those of the tree, by their paths."""
    assert TREE is not None
    path: list[str] = []
    found = []
    for indent, name in re.findall(r"^( *)([\w/-]+)/ ", TREE[1], re.MULTILINE):
        path = [*path[: len(indent) // 4], name]
        found.append("/".join(path))
    return found


def test_each_file_is_there() -> None:
    links = LINK.findall(PAGE)
    assert len(links) > 100
    assert not [target for _, target in links if not target.startswith("http") and not (ROOT / target).exists()]
    assert not [(text, target) for text, target in links if text.endswith(".py") and text != target]
    assert not [path for path in re.findall(r"`([\w/]+\.py)`", PAGE) if not (ROOT / path).exists()]


@pytest.mark.parametrize(("file", "name"), named())
def test_each_name_is_defined_in_its_file(file: str, name: str) -> None:
    assert name in set(defined(ast.parse((ROOT / file).read_text(encoding="utf-8")).body))


def test_the_table_of_questions_is_read() -> None:
    questions = re.findall(r"^\| [^|]+\? \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(questions) >= 10
    assert all(LINK.search(answer) for answer in questions)


def test_the_tree_has_each_folder() -> None:
    tree = folders()
    assert not [path for path in tree if not (ROOT / path).is_dir()]
    # Two levels; of the engine three, for it is large.
    below = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert not {str(path.relative_to(ROOT)) for path in below} - {*tree}
