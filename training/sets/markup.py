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
        "ins",
        "kbd",
        "label",
    }
    | {"mark", "q", "ruby", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr"}
)
"""Elements that stand within a line; all others begin a line of their own."""
_CLOSE: Final = frozenset({"br", "tr", "li", "dt", "dd", "td", "th"})
"""Those without a blank line around them."""
_HEADINGS: Final = {f"h{level}": "#" * level for level in range(1, 7)}


class Unreadable(ValueError):
    """The bytes are no document of this type; the text says why, without quoting them."""


def html_as_markdown(html: str) -> tuple[str, str]:
    """(title, text): headings become Markdown headings, blocks paragraphs; scripts, styles and navigation go."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(html)
    tree.strip_tags([*_WITHOUT_TEXT])
    title = tree.css_first("title")
    name = " ".join(title.text().split()) if title is not None else ""
    if tree.body is None:
        return name, ""
    lines: list[str] = [""]
    _walk(tree.body, lines)
    text = "\n".join(" ".join(line.split()) for line in lines)
    return name, re.sub(r"\n{3,}", "\n\n", text).strip()


def _walk(node: Any, lines: list[str]) -> None:
    """Depth first, without recursion: a page may be nested as deep as it likes."""
    waiting: list[tuple[Any, bool]] = [(node, False)]
    while waiting:
        one, left = waiting.pop()
        tag = one.tag
        if tag == "-text":
            text = one.text_content or ""
            # A line that looks like a heading and is none.
            lines[-1] += text if lines[-1] else text.lstrip().lstrip("#")
            continue
        breaks = tag not in _INLINE
        if breaks:
            lines += [""] if tag in _CLOSE else ["", ""]
        if left:
            continue
        if tag in _HEADINGS:
            lines[-1] = _HEADINGS[tag] + " "
        if breaks:
            waiting.append((one, True))
        waiting += [(child, False) for child in reversed([*one.iter(include_text=True)])]


def pdf_pages(data: bytes) -> list[str]:
    """The text of each page. Raises Unreadable for what is no PDF, or is locked by a password."""
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("it is locked by a password: unlock it first")
        return [page.extract_text() for page in reader.pages]
    except Unreadable:
        raise
    except Exception as error:  # a broken file can make its reader raise anything
        raise Unreadable(f"it is no PDF that can be read ({type(error).__name__})") from None
