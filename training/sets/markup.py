"""HTML and PDF → text with its structure."""

from __future__ import annotations

import io
import re
from typing import Any, Final

_WITHOUT_TEXT: Final = ("script", "style", "noscript", "template", "nav", "svg", "iframe", "del", "s", "strike")
"""The last three hold what no longer holds: without their line through it, an old price would stand before the new."""
_INLINE: Final = frozenset(
    {
        "a",
        "abbr",
        "b",
        "bdi",
        "bdo",
        "big",
        "cite",
        "code",
        "data",
        "dfn",
        "em",
        "font",
        "i",
        "img",
        "ins",
        "kbd",
        "label",
    }
    | {
        "mark",
        "q",
        "rb",
        "rp",
        "rt",
        "ruby",
        "samp",
        "small",
        "span",
        "strong",
        "sub",
        "sup",
        "time",
        "tt",
        "u",
        "var",
        "wbr",
    }
)
"""Elements inside a line; all others begin a new line."""
_CLOSE: Final = frozenset({"br", "tr", "li", "dt", "dd"})
"""Elements without a blank line around them."""
_CELLS: Final = frozenset({"td", "th"})
"""Elements that share one line in a row of a table."""
_MOST_ROWS, _MOST_COLUMNS, _MOST_CHARS = 1000, 50, 200
"""Of a cell that is repeated in the rows in which it stands, so that a page does not grow without end."""
_SCRIPTS: Final = {"sup": "^", "sub": "_"}
"""Elements whose digits are no part of the digits before them → the sign between the two."""
_HEADINGS: Final = {f"h{level}": "#" * level for level in range(1, 7)}


class Unreadable(ValueError):
    """The bytes are no document of this type. The text says why and does not quote them."""


def html_as_markdown(html: str) -> tuple[str, str]:
    """(title, text): headings become Markdown headings, blocks paragraphs, `pre` fenced code, rows of tables lines.

    Scripts, styles and navigation are left out.
    """
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(html)
    tree.strip_tags([*_WITHOUT_TEXT])
    title = tree.css_first("title")
    name = " ".join(title.text().split()) if title is not None else ""
    if tree.body is None:
        return name, ""
    lines = _Lines()
    _walk(tree.body, lines)
    return name, re.sub(r"\n{3,}", "\n\n", "\n".join(lines.done())).strip()


class _Lines:
    """The lines of a page. Lines of `pre` keep their spaces."""

    def __init__(self) -> None:
        self._lines: list[tuple[bool, str]] = [(False, "")]
        self.raw = 0
        """How many `pre` elements are open."""
        self.cells = 0
        """How many table cells are open; their text stays on the row's line."""
        self._script = ""
        """The element `sup` or `sub` that has begun or ended without a text since."""

    def add(self, text: str) -> None:
        raw, line = self._lines[-1]
        if self._script and (begin := text.lstrip()[:1]):
            sign = self._between(line[-1:], begin)
            text = sign + (text.lstrip() if sign else text)
            self._script = ""
        if self.raw:
            first, *rest = text.split("\n")
            self._lines[-1] = (True, line + first)
            self._lines += [(True, one) for one in rest]
        else:
            # The line looks like a heading but is none.
            self._lines[-1] = (raw, line + (text if line else text.lstrip().lstrip("#")))

    def start(self, text: str, *, blank: bool) -> None:
        """Begin a line with `text`. blank: with a blank line before it. Inside a cell only a space is added."""
        if self.cells and not self.raw:
            self.add(" ")
            return
        if not blank and not self._lines[-1][1].strip():
            self._lines.pop()
        self._lines += [(bool(self.raw), "")] * blank + [(bool(self.raw), text)]

    def cell(self) -> None:
        if self._lines[-1][1].strip():
            self.add(" | ")

    def repeat(self, cells: list[str]) -> None:
        """Write cells of rows above."""
        for text in cells:
            self.cell()
            self.add(text)

    def script(self, tag: str) -> None:
        """Begin a `sup` or `sub`, or end it with an empty `tag`."""
        self._script = tag or "end"

    def _between(self, before: str, begin: str) -> str:
        """What stands between two characters where the element is: 10<sup>6</sup> is not 106."""
        if self._script == "end":
            return " " if before.isdigit() and begin.isdigit() else ""
        follows = before.isdigit() or (self._script == "sup" and (before.isalpha() or before == ")"))
        return _SCRIPTS[self._script] if follows and (begin.isdigit() or begin in "-+\u2212") else ""

    def fence(self) -> None:
        self._lines += [(True, "```"), (True, "")]

    def done(self) -> list[str]:
        return [line.rstrip() if raw else " ".join(line.split()) for raw, line in self._lines]


class _Spans:
    """The cells of one table that stand in several rows: in HTML only the first row has them."""

    def __init__(self) -> None:
        self._column = 0
        self._left: dict[int, tuple[int, str]] = {}
        """Column → in how many more rows its cell stands, and that cell's text."""

    def row(self) -> None:
        self._column = 0

    def due(self) -> list[str]:
        """The cells of rows above that stand in this one's next columns."""
        found = []
        while (cell := self._left.pop(self._column, None)) is not None:
            rows, text = cell
            if text:
                found.append(text)
            if rows > 1:
                self._left[self._column] = (rows - 1, text)
            self._column += 1
        return found

    def cell(self, node: Any) -> None:
        """Count a cell of this row."""
        rows, columns = (_number(node.attributes.get(name)) for name in ("rowspan", "colspan"))
        if rows > 1:
            text = " ".join(node.text(separator=" ").split())
            again = text if len(text) <= _MOST_CHARS else "…"
            # Written once in a row, however many columns it has, as in the row where it stands.
            self._left |= {
                self._column + number: (rows - 1, "" if number else again)
                for number in range(min(columns, _MOST_COLUMNS))
            }
        self._column += columns


def _number(text: str | None) -> int:
    return min(int(text), _MOST_ROWS) if text and re.fullmatch(r"0*[1-9][0-9]{0,5}", text.strip()) else 1


def _in_table(one: Any, tables: list[_Spans], lines: _Lines, *, left: bool) -> None:
    """Begin, or end, what is of a table. tables: those that are open, the innermost last."""
    if one.tag == "table":
        if left:
            tables.pop()
        else:
            tables.append(_Spans())
    elif one.tag == "tr":
        if left:
            lines.repeat(tables[-1].due())
        else:
            tables[-1].row()
    elif one.tag in _CELLS:
        lines.cells += -1 if left else 1
        if not left:
            lines.repeat(tables[-1].due())
            tables[-1].cell(one)
            lines.cell()


def _line(tag: str, lines: _Lines, *, left: bool) -> None:
    """Begin the line in which an element that is not inside a line begins, or the one behind it."""
    if tag == "pre" and left:
        lines.raw -= 1
        lines.fence()
    lines.start("" if left or tag not in _HEADINGS else _HEADINGS[tag] + " ", blank=tag not in _CLOSE)
    if tag == "pre" and not left:
        lines.fence()
        lines.raw += 1


def _walk(node: Any, lines: _Lines) -> None:
    """Walk depth first, without recursion: a page may be nested to any depth."""
    waiting: list[tuple[Any, bool]] = [(node, False)]
    tables = [_Spans()]
    while waiting:
        one, left = waiting.pop()
        tag = one.tag
        if tag == "-text":
            lines.add(one.text_content or "")
            continue
        _in_table(one, tables, lines, left=left)
        if tag in _SCRIPTS:
            lines.script("" if left else tag)
        elif tag not in _CELLS | _INLINE:
            _line(tag, lines, left=left)
        if left:
            continue
        if tag not in _INLINE or tag in _SCRIPTS:
            waiting.append((one, True))
        waiting += [(child, False) for child in reversed([*one.iter(include_text=True)])]


def pdf_pages(data: bytes) -> list[str]:
    """The text of each page. Raises Unreadable if it is no PDF or has a password."""
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("it is locked by a password: unlock it first")
        return [page.extract_text() for page in reader.pages]
    except Unreadable:
        raise
    except Exception as error:  # on a broken file the reader may raise any exception
        raise Unreadable(f"it is no PDF that can be read ({type(error).__name__})") from None
