"""The pages that name code are true: files are there, names are defined in them, and the tree has every folder."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from tests.rooms import ROOMS, ROOT

PAGES: Final = ("ARCHITECTURE.md", "CONTRIBUTING.md", "docs/glossary.md")
DOCUMENTS: Final = ("README.md", *PAGES, *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md"))))
LINK: Final = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAMES: Final = re.compile(r":\s+(`[\w.]+`(?:(?:,| and|, and)\s+`[\w.]+`)*)")
"""After a link: what is defined in its file."""


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def links(page: str) -> Iterator[tuple[str, Path, list[str]]]:
    """(text, file, names given with it) of each link to a file of ours."""
    text = text_of(page)
    for link in LINK.finditer(text):
        if not link[2].startswith(("http", "mailto")):
            names = NAMES.match(text, link.end())
            yield link[1], (ROOT / page).parent / link[2], re.findall(r"`([\w.]+)`", names[1]) if names else []


NAMED: Final = sorted(
    {
        (str(file.resolve().relative_to(ROOT)), name)
        for page in PAGES
        for _, file, names in links(page)
        if file.suffix == ".py"
        for name in names
    }
)


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


def tree() -> list[str]:
    """The folders of ARCHITECTURE's tree, by their paths."""
    drawn = re.search(r"^## Folders\n+```\n(.*?)^```", text_of("ARCHITECTURE.md"), re.MULTILINE | re.DOTALL)
    assert drawn is not None
    path: list[str] = []
    found = []
    for indent, name in re.findall(r"^( *)([\w/-]+)/ ", drawn[1], re.MULTILINE):
        path = [*path[: len(indent) // 4], name]
        found.append("/".join(path))
    return found


@pytest.mark.parametrize("page", DOCUMENTS)
def test_each_link_leads_to_a_file(page: str) -> None:
    assert not [str(file) for _, file, _ in links(page) if not file.exists()]


@pytest.mark.parametrize("page", DOCUMENTS)
def test_each_link_to_a_heading_leads_to_one(page: str) -> None:
    for path, heading in re.findall(r"\]\(((?!http)[^)#\s]*)#([^)\s]+)\)", text_of(page)):
        file = (ROOT / page).parent / path if path else ROOT / page
        lines = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        anchors = [re.sub(r"[^\w -]", "", one.lower()) for one in re.findall(r"^#+ (.+?) *$", lines, re.MULTILINE)]
        assert heading in {one.replace(" ", "-") for one in anchors}, heading


def test_a_link_to_code_shows_its_path() -> None:
    shown = [(text, file.resolve()) for page in PAGES for text, file, _ in links(page) if file.suffix == ".py"]
    assert len(shown) > 200
    assert not [text for text, file in shown if ROOT / text != file]


def test_each_file_named_without_a_link_is_there() -> None:
    named = {path for page in PAGES for path in re.findall(r"`([\w/]+/[\w/]+\.(?:py|md))`", text_of(page))}
    assert not [path for path in named if "NAME" not in path and not (ROOT / path).exists()]


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_name_is_defined_in_its_file(file: str, name: str) -> None:
    assert name in set(defined(ast.parse((ROOT / file).read_text(encoding="utf-8")).body))


@pytest.mark.parametrize("page", PAGES)
def test_each_method_named_without_a_file_is_in_one_of_those_linked(page: str) -> None:
    linked = {file for _, file, _ in links(page) if file.suffix == ".py"}
    known = {name for file in linked for name in defined(ast.parse(file.read_text(encoding="utf-8")).body)}
    assert not {*re.findall(r"`([A-Z]\w+\.\w+)`", text_of(page))} - known


def test_the_table_of_questions_is_read() -> None:
    answers = re.findall(r"^\| [^|]+\? \| (.+) \|$", text_of("ARCHITECTURE.md"), re.MULTILINE)
    assert len(answers) >= 10
    assert all(LINK.search(answer) for answer in answers)


def test_the_tree_has_each_folder() -> None:
    drawn = tree()
    assert not [path for path in drawn if not (ROOT / path).is_dir()]
    with_code = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    with_code |= {path.parent for path in (ROOT / "src" / "guideway").glob("*/*.py") if not path.parent.is_symlink()}
    assert not {str(path.relative_to(ROOT)) for path in with_code} - {*drawn}
