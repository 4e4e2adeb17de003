"""From a document to a manifest, with all faults at once.

msgspec reports only the first fault. It is noted, the faulty part is taken out, and msgspec is asked again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import inspect

from guideway.catalogue.documents import shapes
from guideway.catalogue.documents.document import Document
from guideway.catalogue.documents.faults import Fault, FieldPath, dotted, listed
from guideway.schemas.names.addresses import NAME
from guideway.schemas.nearest import did_you_mean, nearest

_MOST_FAULTS: Final = 20
_MOST_KEYS: Final = 1000
"""The most names that are tried to find the one that msgspec means: its message does not say."""
_SAID: Final = re.compile(r"(?P<why>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`)?", re.DOTALL)
_NAME: Final = rf"^{NAME.pattern}\Z"
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+)\]|(\[\.\.\.\])")
_FIELD: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_UNKNOWN: Final = "unknown field"
_STRANGE_SPACE: Final = re.compile(r"[\u00a0\u2000-\u200b\u202f\u205f\u3000\uff1a\ufe55]")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_PATTERN: Final = re.compile(r"Expected `str` matching regex (.*)", re.DOTALL)
_EXPECTED: Final = re.compile(r"Expected `([^`]*)`(?:, got `([^`]*)`)?(.*)", re.DOTALL)


class _Said(NamedTuple):
    """The first fault that msgspec finds in a value."""

    place: FieldPath
    message: str
    """Empty: nothing new."""
    out: FieldPath | None
    """What to take out to see more; None: no more can be seen."""
    meant: FieldPath | None = None
    """What the name at `place` should probably have been."""
    is_ours: bool = False
    """Taking a part out may have caused it: a struct's `__post_init__` says it, or it is of what lost the part."""


def converted(document: Document, kind: Any) -> tuple[Any, list[Fault]]:
    """(the document as this type or union of types, its faults); None if there are faults."""
    what = named(document.value)
    value, faults = document.value, list[Fault]()
    gone: set[FieldPath] = set()
    """Places that we took out or replaced: that they are missing now is no further fault."""
    while len(faults) < _MOST_FAULTS:
        try:
            done = msgspec.convert(value, kind)
            return (None, faults) if faults else (done, [])
        except msgspec.ValidationError as error:
            said = _understood(error, value, kind, gone)
        except (RecursionError, OverflowError, TypeError) as error:
            said = _Said((), f"it cannot be read: {error}", None)
        if not (gone and said.is_ours) and said.message:
            faults.append(document.fault(_told(said.message, said.place), said.place, what))
        if said.out is None or said.out in gone:
            break
        gone |= {said.out, *([said.meant] if said.meant else [])}
        value = _changed(value, said.out)
    return None, faults


def named(value: Any) -> str:
    """The document's kind and name, such as `endpoint /shop/mood`, as far as it has them."""
    parts = [value.get(key) for key in ("kind", "namespace", "name")] if isinstance(value, dict) else []
    if len(parts) != 3 or not all(isinstance(one, str) for one in parts):
        return ""
    kind, namespace, name = (str(one).partition("/")[0] for one in parts)
    slash = "/" if kind == "endpoint" else ""
    return f"{kind} {slash}{namespace}/{name}" if all(map(NAME.fullmatch, (kind, namespace, name))) else ""


def _told(message: str, place: FieldPath) -> str:
    where = dotted(place)
    return message if not where or message.startswith((where, _UNKNOWN)) else f"{where}: {message}"


def _understood(error: msgspec.ValidationError, value: Any, kind: Any, gone: Collection[FieldPath]) -> _Said:
    said, shape = _SAID.fullmatch(str(error)), shapes.shape_of(kind)
    assert said is not None, "it matches anything"
    why, place = said["why"], tuple(_place(said["path"] or "", str(error), value, kind))
    if said["key"]:
        place = (*place, _key(place, str(error), value, kind))
    there, word = shapes.shape_at(shape, value, place), _at(value, place)
    if said["key"]:
        there, word = shapes.key_of(shapes.shape_at(shape, value, place[:-1])), place[-1]
    around = shapes.shape_at(shape, value, place[:-1]) if place else None
    out = _whole(place)
    if found := _FIELD.fullmatch(why):
        here = (*place, found[1])
        near = nearest(found[1], shapes.names_of(there))
        return _Said(here, _unknown(found[1], place, there), here, meant=(*place, near) if near else None)
    if found := _MISSING.fullmatch(why):
        return _missing(found[1], place, there, word, gone)
    if place and place[-1] in shapes.tag_fields_of(around):
        tags = shapes.tags_of(around)
        message = f"invalid value {word!r:.100}: {did_you_mean(str(word), tags)}it is one of {listed(tags)}"
        return _Said(place, message, _whole(place[:-1]))
    if message := _of_value(why, word, there):
        return _Said(place, message, out, is_ours=any(one[:-1] == place for one in gone))
    # Our own message, from a struct's `__post_init__`: it may begin with the field that it means.
    return _Said((*place, *_leading(why, word)), why, out, is_ours=True)


def _of_value(why: str, word: Any, there: inspect.Type | None) -> str:
    if why.startswith("Invalid enum value "):
        words = sorted(shapes.words_of(there))
        return f"invalid value {word!r:.100}: {did_you_mean(str(word), words)}it is one of {listed(words)}"
    if found := _PATTERN.fullmatch(why):
        return _misfit(str(word), there, found[1])
    expected = _EXPECTED.fullmatch(why)
    return _expected(expected[1], expected[2], expected[3], word) if expected else ""


def _whole(place: FieldPath) -> FieldPath | None:
    """What is taken out for this place: for an item the whole list, else the numbers of the others would change."""
    while place and isinstance(place[-1], int):
        place = place[:-1]
    return place or None


def _missing(name: str, place: FieldPath, there: inspect.Type | None, value: Any, gone: Collection[FieldPath]) -> _Said:
    if name in shapes.tag_fields_of(there):
        tags = listed(shapes.tags_of(there))
        return _Said(place, f"missing required field `{name}`: it is one of {tags}", _whole(place))
    absent = [one for one in shapes.required_of(there) if one not in value and (*place, one) not in gone]
    s = "s" if len(absent) > 1 else ""
    message = f"missing required field{s} {', '.join(f'`{one}`' for one in absent)}" if absent else ""
    return _Said(place, message, _whole(place))


def _unknown(name: str, place: FieldPath, there: inspect.Type | None) -> str:
    known = shapes.names_of(there)
    homes = [f"`{home}`" for home in shapes.homes_of(there, name)]
    where = f" in {dotted(place)}" if place else ""
    if found := _STRANGE_SPACE.search(name):
        return (
            f"{_UNKNOWN} `{name[:100]}`{where}: it holds the character U+{ord(found[0]):04X}, which looks like a space "
            "or a colon but is another character: type it again"
        )
    meant = did_you_mean(name, known) or (f"it belongs under {' or '.join(homes)}; " if homes else "")
    return f"{_UNKNOWN} `{name[:100]}`{where}: {meant}there is {listed(known)}"


def _misfit(word: str, there: inspect.Type | None, pattern: str) -> str:
    allowed = shapes.described(there) if there is not None else ""
    meant = re.sub(r"[^a-z0-9/@*.-]+", "-", word.strip().lower()).strip("-")
    is_name = there is not None and getattr(shapes.bare(there), "pattern", None) == _NAME
    near = f"did you mean {meant}? " if is_name and NAME.fullmatch(meant) else ""
    return f"{word!r:.100} does not fit: {near}write {allowed or f'what matches {pattern}'}"


_WORDS: Final = {
    "str": "text",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "names with values",
}
_BOUNDS: Final = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}
_SHOWN_CHARS: Final = 60


def _expected(kinds: str, got: str | None, bound: str, value: Any) -> str:
    """msgspec's `Expected` in words: what it must be, what it is, and how to write it if only the type is wrong."""
    wanted = kinds.split(" | ")
    words = " or ".join(_WORDS.get(one, one) for one in wanted)
    if found := re.fullmatch(r" (of length )?(>=|<=|>|<) (\S+)", bound):
        unit = (" characters" if wanted[0] == "str" else " items") if found[1] else ""
        words += f" of {_BOUNDS[found[2]]} {found[3].removesuffix('.0')}{unit}"
        is_ = f"has {len(value)}" if found[1] and isinstance(value, str | list | dict) else f"is {_shown(value)}"
        return f"it must be {words}, and {is_}"
    return f"it must be {words}, and is {_shown(value)}{_hint({*wanted}, got, value)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _hint(wanted: Collection[str], got: str | None, value: Any) -> str:
    if "str" in wanted and got in {"int", "float", "bool", "null", "object", "array"}:
        return " (write it in quotes)"
    if got == "str" and {*wanted} & {"int", "float"} and re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", str(value)):
        return " (write it without quotes)"
    if "array" in wanted and got not in {"object", "array", None}:
        return f" (write [{str(value)[:_SHOWN_CHARS]}])"
    return ""


def _leading(message: str, value: Any) -> FieldPath:
    """The place that a message begins with, such as `input.fields.x is …`, as far as it is in the value."""
    word = message.split(maxsplit=1)[0].rstrip(":,") if message.strip() else ""
    place: FieldPath = ()
    for name, number, _ in _STEP.findall(f".{word}"):
        one = int(number) if number else name
        inside = isinstance(value, list) and one in range(len(value)) if number else isinstance(value, dict)
        if not inside or (not number and one not in value):
            break
        place, value = (*place, one), value[one]
    return place


def leading(message: str, value: Any, place: FieldPath) -> FieldPath:
    """The place that a message means: the one that it begins with, unless `place` is the same or deeper."""
    found = _leading(message, value)
    return place if found == place[: len(found)] else found


def _place(path: str, said: str, value: Any, kind: Any) -> Iterator[str | int]:
    place: FieldPath = ()
    for name, number, any_key in _STEP.findall(path):
        if any_key:
            one: str | int = _key(place, said, value, kind)
        else:
            one = int(number) if number else name
        place = (*place, one)
        yield one


def _key(place: FieldPath, said: str, value: Any, kind: Any) -> str:
    """The name in the mapping at `place` that msgspec's message means."""
    there = _at(value, place)
    for key in [*there][:_MOST_KEYS] if isinstance(there, dict) else ():
        try:
            msgspec.convert(_changed(value, place, {key: there[key]}), kind)
        except msgspec.ValidationError as error:
            if str(error) == said:
                return str(key)
    return "…"


def _at(value: Any, place: FieldPath) -> Any:
    for one in place:
        if isinstance(value, dict):
            value = value.get(one)
        elif isinstance(value, list) and isinstance(one, int) and one < len(value):
            value = value[one]
        else:
            return None
    return value


_OUT: Final = object()


def _changed(value: Any, place: FieldPath, new: Any = _OUT) -> Any:
    """The value with `new` at a place, or without what is there."""
    if not place:
        return new
    one, *rest = place
    inner = _changed(_at(value, (one,)), tuple(rest), new)
    if isinstance(value, dict):
        named = {key: inner if key == one else item for key, item in value.items()}
        return {key: item for key, item in named.items() if item is not _OUT}
    if isinstance(value, list):
        items = [inner if number == one else item for number, item in enumerate(value)]
        return [item for item in items if item is not _OUT]
    return value
