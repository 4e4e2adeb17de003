"""`docs/manifests.md` and `docs/task.md`: every field with its type, default, bounds and meaning."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect as types

from guideway.catalogue.bounds import MAX_MANIFEST_BYTES, MAX_SCHEMA_BYTES
from guideway.catalogue.documents.document import MAX_DEPTH, MAX_FILE_BYTES, MAX_FILE_VALUES
from guideway.catalogue.documents.yaml_text import MAX_VALUES
from guideway.reference.types import DEADLINE_S, MANIFESTS, bounds, meanings, structs_in
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Json
from guideway.training.runs.task import Task

_UNIONS: Final = {"type": "Output", "form": "Method"}
"""What a struct that is told by this field is called."""
_MADE: Final = "<!-- Made by `make docs` from the types that read it: change those, not this page. -->"
_PAGES: Final = {"manifests.md": MANIFESTS, "task.md": (Task,)}


def pages() -> dict[str, str]:
    """File name → what stands in it."""
    there: dict[type[Any], str] = {}
    found = {}
    for name, kinds in _PAGES.items():
        new = [struct for struct in structs_in(*kinds) if struct.cls not in there]
        there |= {struct.cls: name for struct in new}
        head = (Path(__file__).parent / "heads" / name).read_text("utf-8").rstrip()
        sections = [_section(struct, name, there) for struct in new]
        found[name] = "\n\n".join([_MADE, head % _words(), *sections]) + "\n"
    return found


def write(folder: Path) -> None:
    """Write all pages into the folder."""
    for name, text in pages().items():
        (folder / name).write_text(text, "utf-8")


def _words() -> dict[str, str]:
    return {
        "file_bytes": f"{MAX_FILE_BYTES // 2**20} MiB",
        "file_values": f"{MAX_FILE_VALUES:,}",
        "values": f"{MAX_VALUES:,}",
        "depth": str(MAX_DEPTH),
        "manifest_bytes": f"{MAX_MANIFEST_BYTES:,}",
    }


def _heading(struct: types.StructType) -> str:
    if struct.tag_field is None:
        return re.sub(r"(?<!^)([A-Z])", lambda found: f" {found[1].lower()}", struct.cls.__name__)
    return f"{_UNIONS[struct.tag_field]} `{struct.tag}`" if struct.tag_field in _UNIONS else f"`{struct.tag}`"


def _link(struct: types.StructType, page: str, there: dict[type[Any], str]) -> str:
    heading = _heading(struct)
    # As GitHub makes them of headings.
    anchor = re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")
    text = f"`{struct.tag}`" if struct.tag_field is not None else heading
    return f"[{text}]({'' if there.get(struct.cls, page) == page else there[struct.cls]}#{anchor})"


def _section(struct: types.StructType, page: str, there: dict[type[Any], str]) -> str:
    level = "##" if struct.tag_field == "kind" else "###"
    said = " ".join((struct.cls.__doc__ or "").split())
    lines = [f"{level} {_heading(struct)}", "", said]
    rows = [*_rows(struct, page, there)]
    if rows:
        lines += ["", "| field | type | default | meaning |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _rows(struct: types.StructType, page: str, there: dict[type[Any], str]) -> Iterator[tuple[str, str, str, str]]:
    if struct.tag_field is not None:
        yield f"`{struct.tag_field}`", f"`{struct.tag}`", "required", "Which of them it is."
    for field in struct.fields:
        most = bounds().get((struct.cls, field.encode_name))
        kind = _kind(field.type, page, there, most)
        if struct.cls is Endpoint and field.name == "deadline_s":
            kind = f"number from {DEADLINE_S[0]:g} to {DEADLINE_S[1]:,.0f}, or null"
        if struct.cls is Json and field.name == "schema":
            kind = f"JSON Schema of at most {MAX_SCHEMA_BYTES // 1024} KiB"
        yield f"`{field.encode_name}`", kind, _default(field), meanings(struct.cls)[field.encode_name]


def _default(field: types.Field) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Struct):
        return "as below"
    plain = msgspec.to_builtins(value)
    return "none" if plain is None else f"`{json.dumps(plain, ensure_ascii=False)}`" if plain != "" else "empty"


def _kind(shape: types.Type, page: str, there: dict[type[Any], str], most: int | None = None) -> str:
    """In words, with its bounds; most: how much of it may be beside what the type says."""
    match shape:
        case types.Metadata(type=inner, extra_json_schema=extra):
            words = (extra or {}).get("description") or _kind(inner, page, there, most)
        case types.UnionType(types=kinds):
            words = _union(kinds, page, there, most)
        case types.StructType():
            words = _link(shape, page, there)
        case types.ListType(item_type=item, min_length=least, max_length=length):
            number = _range(least or None, _less(length, most))
            words = f"list{f' of {number}' if number else ''}: {_kind(item, page, there)}"
        case types.DictType(value_type=item, min_length=least):
            number = _range(least or None, most)
            words = f"names{f', {number}' if number else ''}, each with {_kind(item, page, there)}"
        case _:
            words = _simple(shape, most)
    return words


def _simple(shape: types.Type, most: int | None) -> str:
    match shape:
        case types.LiteralType(values=values):
            words = _or([f"`{value}`" for value in sorted(map(str, values))])
        case types.StrType(min_length=least, max_length=length):
            number = _range(least or None, _less(length, most))
            words = f"text of {number} characters" if number else "text"
        case types.IntType() | types.FloatType():
            words = _number(shape, most)
        case types.BoolType():
            words = "`true` or `false`"
        case types.AnyType():
            words = "any value"
        case _:
            raise TypeError(f"{shape} has no words yet: add them here")
    return words


def _union(kinds: tuple[types.Type, ...], page: str, there: dict[type[Any], str], most: int | None) -> str:
    named = [kind for kind in kinds if not isinstance(kind, types.NoneType)]
    words = [_kind(kind, page, there, most) for kind in named]
    null = ", or null" if len(named) < len(kinds) else ""
    return (_or(words) if len(words) > 1 else words[0]) + null


def _number(shape: types.IntType | types.FloatType, most: int | None) -> str:
    word = "integer" if isinstance(shape, types.IntType) else "number"
    low = f"above {shape.gt:g}" if shape.gt is not None else ""
    high = f"below {_digits(shape.lt)}" if shape.lt is not None else ""
    closed = _range(shape.ge, _less(shape.le, most), words=("from", "to", "up to"))
    return " ".join(filter(None, (word, " and ".join(filter(None, (low, closed, high))))))


def _range(least: float | None, most: float | None, *, words: tuple[str, str, str] = ("", "to", "at most")) -> str:
    if least is not None and most is not None:
        return f"{words[0]} {_digits(least)} {words[1]} {_digits(most)}".strip()
    if least is not None:
        return f"from {_digits(least)}" if words[0] else f"at least {_digits(least)}"
    return f"{words[2]} {_digits(most)}" if most is not None else ""


def _less(one: float | None, other: float | None) -> float | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _digits(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.10g}"


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
