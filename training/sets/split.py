"""Text → passages, along its structure. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import yaml

from guideway.schemas.retrieval import Metadata

_SEAMS: Final = (
    r"\n\s*\n",
    r"\n",
    r"(?<=[.!?…])\s+|(?<=[。！？｡])[”’」』）]*\s*",
    r"(?<=[;:,])\s+|(?<=[，；：、､])\s*",
    r"\s+",
)
"""Where a text is cut, best place first: paragraphs, lines, sentences, clauses, words. No space follows the marks of
Chinese and Japanese."""
_SENTENCES: Final = _SEAMS[2]
_HEADING: Final = re.compile(r"(#{1,6})\s+(.+)")
_FENCE: Final = re.compile(r"^\s*(```|~~~)")
_FRONT_MATTER: Final = re.compile(
    r"\A---[ \t]*\r?\n(.{0,20000}?)^(?:---|\.\.\.)[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE
)


def split(text: str, *, max_chars: int, overlap_chars: int) -> list[str]:
    """Passages of at most `max_chars`: as many whole paragraphs as fit; a longer one is cut at the best seams it has.

    Each but the first begins with the last sentences of the one before it, of at most `overlap_chars` together.
    None is blank.
    """
    passages: list[str] = []
    passage = ""
    for unit in _units(text.strip(), max_chars, 0):
        if passage and len(passage) + len(unit.rstrip()) > max_chars:
            passages.append(passage.strip())
            passage = _tail(passage, min(overlap_chars, max_chars - len(unit.rstrip())))
        passage += unit
    return [one for one in [*passages, passage.strip()] if one]


def sections(markdown: str) -> list[tuple[str, str]]:
    """(heading, body) of each part of a Markdown text; headings of all levels above it are joined by ` > `.

    What looks like a heading inside fenced code is none.
    """
    found: list[tuple[str, list[str]]] = [("", [])]
    path: list[str] = []
    fenced = False
    for line in markdown.split("\n"):
        if _FENCE.match(line):
            fenced = not fenced
        match = None if fenced else _HEADING.match(line.rstrip())
        if match is None:
            found[-1][1].append(line)
            continue
        level, title = len(match[1]), match[2].rstrip("#").rstrip()
        path = [*path[: level - 1], *[""] * (level - 1 - len(path)), title]
        found.append((" > ".join(filter(None, path)), []))
    bodies = ((heading, "\n".join(lines).strip()) for heading, lines in found)
    return [(heading, body) for heading, body in bodies if body]


def front_matter(markdown: str) -> tuple[Metadata, str]:
    """(metadata, text) of a Markdown text that begins with a block of YAML between lines `---`.

    Only its texts and lists of texts are kept, as they were written. What is no such block stays in the text.
    """
    found = _FRONT_MATTER.match(markdown)
    if found is None:
        return {}, markdown
    try:
        said = yaml.load(found[1], Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}, markdown
    if not isinstance(said, dict):
        return {}, markdown
    texts = {key: value for key, value in said.items() if isinstance(key, str) and _is_texts(value)}
    return texts, markdown[found.end() :]


def _is_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _units(text: str, max_chars: int, seam: int) -> Iterator[str]:
    """Paragraphs, and of those that are longer than `max_chars` smaller pieces; each with the white space after it."""
    if seam and len(text.rstrip()) <= max_chars:
        yield text
    elif seam == len(_SEAMS):
        yield from (text[at : at + max_chars] for at in range(0, len(text), max_chars))
    else:
        for piece in _cut(text, _SEAMS[seam]):
            yield from _units(piece, max_chars, seam + 1)


def _cut(text: str, seam: str) -> Iterator[str]:
    at = 0
    for match in re.finditer(seam, text):
        yield text[at : match.end()]
        at = match.end()
    if at < len(text):
        yield text[at:]


def _tail(passage: str, max_chars: int) -> str:
    """The last whole sentences of the passage, at most `max_chars` of them."""
    tail = ""
    for sentence in reversed([*_cut(passage, _SENTENCES)]):
        if len(sentence) + len(tail) > max_chars:
            break
        tail = sentence + tail
    return tail
