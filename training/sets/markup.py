"""HTML and PDF → text with its structure."""

from __future__ import annotations

import io
import re
from typing import Any, Final

_WITHOUT_TEXT: Final = ("script", "style", "noscript", "template", "nav", "svg", "iframe")
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
        "del",
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
        "s",
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

    def add(self, text: str) -> None:
        raw, line = self._lines[-1]
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

    def fence(self) -> None:
        self._lines += [(True, "```"), (True, "")]

    def done(self) -> list[str]:
        return [line.rstrip() if raw else " ".join(line.split()) for raw, line in self._lines]


def _walk(node: Any, lines: _Lines) -> None:
    """Walk depth first, without recursion: a page may be nested to any depth."""
    waiting: list[tuple[Any, bool]] = [(node, False)]
    while waiting:
        one, left = waiting.pop()
        tag = one.tag
        if tag == "-text":
            lines.add(one.text_content or "")
            continue
        if tag in _CELLS:
            lines.cells += -1 if left else 1
            if not left:
                lines.cell()
        elif tag not in _INLINE:
            if tag == "pre" and left:
                lines.raw -= 1
                lines.fence()
            lines.start("" if left or tag not in _HEADINGS else _HEADINGS[tag] + " ", blank=tag not in _CLOSE)
            if tag == "pre" and not left:
                lines.fence()
                lines.raw += 1
        if left:
            continue
        if tag not in _INLINE:
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
