"""Splits text into passages along its structure. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

import regex  # type: ignore[import-untyped]
import yaml

from guideway.schemas.retrieval import Metadata
from guideway.training.sets.decoding import without_broken_characters

_SEAMS: Final = (
    r"\n\s*\n",
    r"\n",
    r"(?<=[.!?…؟۔।॥።։])\s+|(?<=[。！？｡။])[”’」』）]*\s*",
    r"(?<=[;:,،؛])\s+|(?<=[，；：、､၊])\s*",
    r"\s+",
)
"""Where a text may be cut, the best place first: paragraphs, lines, sentences, clauses, words. No space follows the
marks of Chinese, Japanese and Burmese."""
_CHARACTERS: Final = regex.compile(r"[เแโใไ]?\X")
"""Characters as people count them, with accents, vowel signs and all parts of an emoji (Unicode's grapheme clusters). A
vowel that Thai writes before its consonant stays with it."""
_SENTENCES: Final = _SEAMS[2]
_HEADING: Final = re.compile(r"(#{1,6})\s+(.+)")
_FENCE: Final = re.compile(r"\s*(`{3,}|~{3,})(.*)")
_FRONT_MATTER: Final = re.compile(
    r"\A(?:---[ \t]*\r?\n(?!\s*$)(.{0,20000}?)^(?:---|\.\.\.)|\+\+\+[ \t]*\r?\n(.{0,20000}?)^\+\+\+)[ \t]*\r?$\n?",
    re.DOTALL | re.MULTILINE,
)
"""If a blank line follows the first line, `---` is a rule between paragraphs."""
_LINE: Final = re.compile(r"([\w.-]+):[ \t]+([^\s\[\]{}&*!|>%@#].*)")


def split(text: str, *, max_chars: int, overlap_chars: int) -> list[str]:
    """Passages of at most `max_chars`, each with as many whole paragraphs as fit. A longer paragraph is cut at its best
    seams.

    Each passage but the first begins with the last sentences of the one before, at most `overlap_chars`. None is blank.
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
    """(heading, body) of each part of a Markdown text. ` > ` joins the headings of all levels above it.

    Lines inside fenced code are no headings. A heading without text below it is text of the part above.
    """
    found: list[tuple[str, list[str]]] = [("", [])]
    path: list[str] = []
    fence = ""
    levels = [0]
    for line in markdown.split("\n"):
        fence = _fence_after(line.rstrip(), fence)
        match = None if fence else _HEADING.match(line.rstrip())
        if match is None:
            found[-1][1].append(line)
            continue
        level, title = len(match[1]), match[2].rstrip("#").rstrip()
        path = [*path[: level - 1], *[""] * (level - 1 - len(path)), title]
        found.append((" > ".join(filter(None, path)), []))
        levels.append(level)
    bodies = [(heading, "\n".join(lines).strip()) for heading, lines in found]
    deeper = [after > level for level, after in zip(levels, [*levels[1:], 0], strict=True)]
    return [
        (heading, body) if body else _alone(heading)
        for (heading, body), leads in zip(bodies, deeper, strict=True)
        if body or (heading and not leads)
    ]


def _alone(heading: str) -> tuple[str, str]:
    above, _, last = heading.rpartition(" > ")
    return above, last


def _fence_after(line: str, fence: str) -> str:
    """The fence around the next lines; empty if there is none.

    Only the same sign, as often or more often, closes a fence.
    """
    match = _FENCE.fullmatch(line)
    if match is None:
        return fence
    if not fence:
        return match[1] if "`" not in match[2] else ""
    return "" if match[1].startswith(fence) and not match[2] else fence


def front_matter(markdown: str) -> tuple[Metadata, str]:
    """(metadata, text) of a Markdown text that begins with a block of YAML between lines `---`, or TOML between `+++`.

    Only texts and lists of texts are kept, as written. A block of another kind stays in the text.
    """
    found = _FRONT_MATTER.match(markdown)
    if found is None:
        return {}, markdown
    said = _yaml(found[1]) if found[1] is not None else _toml(found[2])
    if not isinstance(said, dict):
        return {}, markdown
    texts = {_whole(key): _whole(value) for key, value in said.items() if isinstance(key, str) and _is_texts(value)}
    return texts, markdown[found.end() :]


def _whole(value: Any) -> Any:
    """The text, or the texts, without half characters, which escapes in YAML can write."""
    return [*map(_whole, value)] if isinstance(value, list) else without_broken_characters(value)


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        pass
    # A title with a colon is not valid YAML, but people write it.
    lines = [_LINE.fullmatch(line.rstrip()) for line in text.split("\n") if line.strip()]
    return {line[1]: line[2].strip("\"'") for line in lines if line} if all(lines) else None


def _toml(text: str) -> Any:
    try:
        said = tomllib.loads(text.replace("\r\n", "\n"))
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return None
    scalars = {key: value for key, value in said.items() if not isinstance(value, dict | list)}
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in scalars.items()}
    return texts | {key: value for key, value in said.items() if isinstance(value, list)}


def _is_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _units(text: str, max_chars: int, seam: int) -> Iterator[str]:
    """Paragraphs, and smaller pieces of paragraphs longer than `max_chars`, each with the white space after it."""
    if seam and len(text.rstrip()) <= max_chars:
        yield text
    elif seam == len(_SEAMS):
        yield from _whole_characters(text, max_chars)
    else:
        for piece in _cut(text, _SEAMS[seam]):
            yield from _units(piece, max_chars, seam + 1)


def _whole_characters(text: str, max_chars: int) -> Iterator[str]:
    """Pieces of at most `max_chars`. A character is cut only if it alone is longer."""
    piece = ""
    for match in _CHARACTERS.finditer(text):
        if piece and len(piece) + len(match[0]) > max_chars:
            yield piece
            piece = ""
        piece += match[0]
        while len(piece) > max_chars:
            yield piece[:max_chars]
            piece = piece[max_chars:]
    if piece:
        yield piece


def _cut(text: str, seam: str) -> Iterator[str]:
    at = 0
    for match in re.finditer(seam, text):
        yield text[at : match.end()]
        at = match.end()
    if at < len(text):
        yield text[at:]


def _tail(passage: str, max_chars: int) -> str:
    """The last whole sentences of the passage, at most `max_chars` characters."""
    tail = ""
    for sentence in reversed([*_cut(passage, _SENTENCES)]):
        if len(sentence) + len(tail) > max_chars:
            break
        tail = sentence + tail
    return tail
