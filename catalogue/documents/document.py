"""Reads YAML 1.2 and TOML into values that JSON has too. Sizes are checked before the values are built.

Each document knows the line of each of its values.
"""

from __future__ import annotations

import contextlib
import math
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import yaml

from guideway.catalogue.documents import toml_lines
from guideway.catalogue.documents.faults import MAX_FOUND, MAX_TOLD, Fault, FieldPath, dotted
from guideway.catalogue.documents.yaml_text import MAX_VALUES, Loader, Wrong

STDIN: Final = Path("-")
MAX_FILE_BYTES: Final = 16 * 2**20
MAX_FILE_VALUES: Final = 1_000_000
"""The most values of all documents of a YAML file; each takes some microseconds."""
MAX_DEPTH: Final = 100
_INTEGERS: Final = range(-(10**308), 10**308)
"""Integers that a float can hold, roughly."""


class Document:
    """One document of a file, as a value that JSON has too."""

    def __init__(
        self,
        file: str,
        value: Any,
        line_of: Callable[[FieldPath], int],
        written: Callable[[FieldPath], str] = lambda _: "",
    ) -> None:
        """written: gives the spelling in the file of a value without quotes; empty if that is unknown."""
        self.file = file
        self.value = value
        self._line_of = line_of
        self.written = written

    def line(self, place: FieldPath = ()) -> int:
        """The line, from 1 on, of the name or item at `place`, or of the nearest part that contains it."""
        return self._line_of(place)

    def fault(self, message: str, place: FieldPath = (), what: str = "") -> Fault:
        """A fault of the value at `place`, with its line."""
        return Fault(message=message, file=self.file, line=self.line(place), what=what, field=dotted(place))


def name_of(path: Path) -> str:
    """The name of a file in messages."""
    return "standard input" if path == STDIN else str(path)


def parse_documents(path: Path) -> tuple[list[Document], list[Fault]]:
    """(documents, faults) of a file: one document of TOML, any number of YAML, without empty ones; `-`: standard input.

    A fault says that the file cannot be read, is too large, or has a value that JSON lacks. The rest of the file after
    such a fault is not read.
    """
    file = name_of(path)
    documents: list[Document] = []
    faults: list[Fault] = []
    try:
        for document in _documents(file, path.suffix.lower() == ".toml", _text(path)):
            strange = islice(_strange(document.value, ()), MAX_TOLD + 1)
            found = [document.fault(f"{dotted(where) or 'the document'}: {why}", where) for where, why in strange]
            faults += found
            documents += [] if found else [document]
            if len(faults) >= MAX_FOUND:
                break
    except OSError as error:
        faults.append(Fault(file=file, message=f"it cannot be read: {error.strerror}"))
    except Wrong as error:
        faults.append(Fault(file=file, line=error.line, message=str(error)))
    except ValueError as error:
        faults.append(Fault(file=file, message=str(error)))
    except Exception as error:
        # Any exception of Python, for a tag such as `!!bool x` or a date such as 2024-13-45.
        faults.append(Fault(file=file, message=f"it is no YAML: {error!r}"))
    return documents, faults


def _text(path: Path) -> str:
    if path == STDIN:
        data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    else:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes: write several files")
    if b"\0" in data[:4]:
        raise Wrong("it is not UTF-8 but UTF-16, UTF-32 or binary, by its first bytes: save it as UTF-8", 1)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16 or UTF-32" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "binary or of another encoding"
        line = data.count(b"\n", 0, error.start) + 1
        raise Wrong(f"it is not UTF-8 but {kind} (byte {error.start}): save it as UTF-8", line) from None


def _documents(file: str, is_toml: bool, text: str) -> Iterator[Document]:
    if is_toml:
        try:
            yield Document(file, tomllib.loads(text), partial(toml_lines.line_of, text))
        except tomllib.TOMLDecodeError as error:
            raise _wrong_toml(error) from None
        except RecursionError:
            raise _too_deep() from None
        return
    try:
        yield from _yaml_documents(file, text)
    except yaml.MarkedYAMLError as error:
        raise _wrong_yaml(error) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Wrong(f"it is no YAML: it has the character U+{ord(text[error.position]):04X}: remove it", line) from None


def _yaml_documents(file: str, text: str) -> Iterator[Document]:
    loader = Loader(text)
    whole = 0
    try:
        while loader.check_node():
            whole += loader.composed
            if whole > MAX_FILE_VALUES:
                raise Wrong(f"it holds more than {MAX_FILE_VALUES:,} values: write several files")
            loader.composed = 0
            # A node's size, with aliases written out, is known before a value is built of it.
            node = loader.get_node()
            assert node is not None, "it was looked for"
            _values(node, {}, 0)
            if (value := loader.construct_document(node)) is not None:
                lines = _Lines(text, node.start_mark, node.end_mark)
                yield Document(file, value, lines.line_of, lines.written)
    except RecursionError:
        raise _too_deep() from None
    finally:
        loader.dispose()


_HINTS: Final = (
    ("'\\t'", "indent with spaces, not with tabs"),
    ("cannot start any token", "put the text in quotes"),
    ("mapping values are not allowed", "put a text that has a colon in quotes, or mend the indentation"),
    ("expected <block end>", "mend the indentation"),
    ("expected '<document start>'", "write a line `---` between two documents"),
    ("unknown escape character", "write a backslash twice, or put the text in single quotes"),
    ("2002:merge'", "put `<<` in quotes where it merges nothing"),
    ("constructor for the tag", "write it without the tag"),
    ("undefined alias", "put a text that begins with `*` in quotes"),
)


def _wrong_yaml(error: yaml.MarkedYAMLError) -> Wrong:
    mark = error.problem_mark or error.context_mark
    since = f", in what begins on line {error.context_mark.line + 1}" if error.context_mark is not None else ""
    hint = next((f": {hint}" for part, hint in _HINTS if part in str(error.problem)), "")
    return Wrong(f"it is no YAML: {error.problem}{since}{hint}", mark.line + 1 if mark is not None else None)


def _wrong_toml(error: tomllib.TOMLDecodeError) -> Wrong:
    reason, _, place = str(error).partition(" (at line ")
    number, _, _ = place.partition(",")
    return Wrong(f"it is no TOML: {reason}", int(number) if number.isdigit() else None)


class _Lines:
    """The lines of one YAML document. It is parsed again when somebody asks, because its nodes take much memory."""

    def __init__(self, text: str, start: Any, end: Any) -> None:
        """start, end: PyYAML's marks of the document in the text."""
        self._text, self._start, self._end = text, start, end
        self._node: yaml.Node | None = None

    def written(self, place: FieldPath) -> str:
        self.line_of(place)
        node: Any = self._node
        for one in place:
            if isinstance(node, yaml.MappingNode):
                node = next((value for key, value in reversed(node.value) if key.value == one), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(one, int) and one < len(node.value):
                node = node.value[one]
            else:
                return ""
        return str(node.value) if isinstance(node, yaml.ScalarNode) and node.style is None else ""

    def line_of(self, place: FieldPath) -> int:
        first = int(self._start.line)
        if place and self._node is None:
            # The text must begin in its column, because columns count in YAML.
            text = " " * self._start.column + self._text[self._start.index : self._end.index]
            # A document that needs something outside of it, such as a tag's handle, has no lines.
            with contextlib.suppress(yaml.YAMLError, ValueError):
                loader = Loader(text)
                node = loader.get_single_node()
                # This also puts what `<<` merges in into its place.
                loader.construct_document(node)
                self._node = node
        return first + (_line_of(self._node, place) if self._node is not None and place else 1)


def _line_of(node: yaml.Node, place: FieldPath) -> int:
    line = node.start_mark.line
    for one in place:
        if isinstance(node, yaml.MappingNode):
            # Merged names stand before the mapping's own, and the own ones count.
            found = next(((key, value) for key, value in reversed(node.value) if key.value == one), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(one, int) and one < len(node.value):
            node = node.value[one]
            line = node.start_mark.line
        else:
            break
    return int(line) + 1


def _values(node: Any, known: dict[int, int | None], depth: int) -> int:
    """How many values a YAML node has with aliases written out. None in `known` marks the nodes around it."""
    line = node.start_mark.line + 1
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise Wrong("an alias contains itself: write it out", line)
        return count
    if depth > MAX_DEPTH:
        raise _too_deep(line)
    known[id(node)] = None
    inside = node.value if isinstance(node, yaml.CollectionNode) else ()
    children = [child for item in inside for child in (item if isinstance(item, tuple) else (item,))]
    count = 1 + sum(_values(child, known, depth + 1) for child in children)
    if count > MAX_VALUES:
        raise Wrong(
            f"it has more than {MAX_VALUES} values when its aliases are written out: write less into one document", line
        )
    known[id(node)] = count
    return count


def _too_deep(line: int | None = None) -> Wrong:
    return Wrong(f"it is nested deeper than {MAX_DEPTH} levels: flatten it", line)


def _strange(value: Any, where: FieldPath) -> Iterator[tuple[FieldPath, str]]:
    """(place, reason) of each value that JSON cannot keep unchanged."""
    if isinstance(value, list | dict) and len(where) > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                name = str(yaml.safe_dump(key)).split("\n", 1)[0]
                yield (*where, name), f"the name {name:.60} is no text: write it in quotes"
            elif why := _no_json(key):
                yield where, f"a name in it is strange: {why}"
            else:
                yield from _strange(item, (*where, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _strange(item, (*where, number))
    elif why := _no_json(value):
        yield where, why


def _no_json(value: Any) -> str:
    match value:
        case None | bool():
            return ""
        case str():
            whole = value.encode("utf-8", "replace").decode() == value
            return "" if whole else "the text holds half of a character (a lone surrogate): leave it out"
        case int():
            return "" if value in _INTEGERS else "the number is too large: write it as text"
        case float():
            finite = math.isfinite(value)
            return "" if finite else f"{value} is no number that JSON has: write a number, or leave it out"
    if isinstance(value, set | tuple):
        return "it is a set or a pair of YAML, which JSON does not have: write a list"
    return f"{value!r:.60} is a {type(value).__name__}: write it in quotes, as text"
