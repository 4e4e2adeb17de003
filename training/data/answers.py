"""Spells an example's answer as the endpoint's output rule will make the model write it. Pure."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final, assert_never

import msgspec

from guideway.schemas.nearest import did_you_mean
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.training.data.strict_json import NotJson, Strange, strict_json

_DECIMAL: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST: Final = 1e15
"""Numbers of results have at most 15 digits before the point."""


def spelled(value: Any, rule: OutputRule) -> str:
    """The answer's text for `value`, a cell of the data.

    Raises: ValueError, which says what to change, if the value is not of the rule's type.
    """
    match rule:
        case Text() | Regex():
            return _text(value)
        case Choice(labels):
            return _label(value, labels)
        case Boolean(spelling):
            return _boolean(value, *spelling.split("/"))
        case Number(decimals, negative):
            return _number(value, decimals, negative=negative)
        case WordLabels(labels):
            return _word_labels(value, labels)
        case Json(schema):
            return msgspec.json.encode(_ordered(_parsed(value), schema, schema)).decode()
    assert_never(rule)


def _text(value: Any) -> str:
    if isinstance(value, int | float):
        raise ValueError(f"its answer is {value!r:.40}, and the task wants text: write it in quotes")
    if not isinstance(value, str) or not value.strip():
        raise ValueError("its answer is empty or no text: fill it in, or remove the row")
    return value


def _label(value: Any, labels: Sequence[str]) -> str:
    if isinstance(value, int | float):
        text = _scalar(value)
        if text not in labels:
            kind = "a boolean" if isinstance(value, bool) else "a number"
            raise ValueError(f"its label is {kind}, labels are text: write one of {_some(labels)}")
        return text
    text = _text(value)
    if text in labels:
        return text
    text = text.strip()
    for label in labels:
        # The same letters may be written in several forms of Unicode, and labels differ in theirs.
        if unicodedata.normalize("NFC", label) == unicodedata.normalize("NFC", text):
            return label
    for label in labels:
        if label.casefold() == text.casefold():
            raise ValueError(
                f"its label is {label!r} with other capital letters: write it as the task's labels have it"
            )
    near = did_you_mean(text, labels)
    raise ValueError(f"its label {text!r:.42} is none of {_some(labels)}: {near}correct it, or the task's labels")


def _scalar(value: float) -> str:
    """A boolean or a number as JSON writes it; a whole number without a decimal point."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")


def _boolean(value: Any, true: str, false: str) -> str:
    known = {"true": true, "false": false, "yes": true, "no": false, "1": true, "0": false}
    text = (_scalar(value) if isinstance(value, int | float) else str(value)).strip().lower()
    if text not in known:
        raise ValueError(f"its answer is neither {true} nor {false}: write true, yes or 1, and false, no or 0")
    return known[text]


def _number(value: Any, decimals: int, *, negative: bool) -> str:
    if isinstance(value, bool):
        raise ValueError("its answer is a boolean and no number: correct it")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("its answer is no number: write it as 1234.5, without other marks") from None
    if not math.isfinite(number):
        raise ValueError("its answer is no finite number: correct it, or remove the row")
    if isinstance(value, str) and not _DECIMAL.fullmatch(value.strip()):
        raise ValueError("its answer is no number as JSON writes it: write it as 1234.5, without other marks")
    if abs(number) >= _MOST:
        raise ValueError("its answer has more than 15 digits before the point: correct it, or remove the row")
    text = f"{number:.{decimals}f}"
    if abs(float(text) - number) > 1e-9 * max(1.0, abs(number)):
        raise ValueError(f"its answer has more than {decimals} decimals: round it, or raise the output's decimals")
    if float(text) < 0 and not negative:
        raise ValueError("its answer is below zero, and the output has `negative: false`: correct one of the two")
    plain = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if plain == "-0" else plain


def _word_labels(value: Any, labels: Sequence[str]) -> str:
    if isinstance(value, str):
        return _text(value)
    # Texts of two letters, and objects with two names, would look like pairs too.
    if not isinstance(value, list) or not all(isinstance(one, list) and len(one) == 2 for one in value):
        raise ValueError("its answer is no list of [word, label] pairs: write it so")
    pairs = [(str(word), str(label)) for word, label in value]
    for word, label in pairs:
        if label not in labels:
            raise ValueError("the label of a word is none of the task's: correct it, or the task's labels")
        if not word or word.split() != [word]:
            raise ValueError("one of its words is empty or holds white space: split it")
    return " ".join(f"{word}/{label}" for word, label in pairs)


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return strict_json(value)
    except Strange as strange:
        raise ValueError(f"its answer is read in two ways: {strange}") from None
    except NotJson:
        raise ValueError("its answer is no JSON: correct it") from None


def _ordered(value: Any, schema: Any, root: Any) -> Any:
    """The value with its keys in the order of the schema's `properties`, as the grammar writes them; others last."""
    parts = _parts(schema, root)
    if isinstance(value, list):
        # Older drafts call them `items` and `additionalItems`.
        first = _merged(parts, "prefixItems") or _merged(parts, "items")
        rest = "additionalItems" if isinstance(_first(parts, "items"), list) else "items"
        others = _first(parts, rest)
        return [_ordered(item, first[at] if at < len(first) else others, root) for at, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    known: dict[str, Any] = {}
    # Of alternatives those come first that have all the keys.
    for part in sorted(parts, key=lambda part: len(value.keys() - part.get("properties", {}).keys())):
        for name, inner in part.get("properties", {}).items():
            known.setdefault(name, inner)
    keys = [key for key in known if key in value] + [key for key in value if key not in known]
    return {key: _ordered(value[key], known.get(key) or _undeclared(parts), root) for key in keys}


def _undeclared(parts: Sequence[Mapping[str, Any]]) -> Any:
    """The schema of all members that are not among the properties; None where names decide between several: a pattern
    may take for ever to try."""
    named = [part.get("patternProperties") for part in parts]
    found = [inner for one in named if isinstance(one, Mapping) for inner in one.values()]
    found += [part["additionalProperties"] for part in parts if part.get("additionalProperties")]
    return found[0] if len(found) == 1 else None


def _parts(schema: Any, root: Any) -> list[Mapping[str, Any]]:
    """The schema and all schemas that it refers to, joins or offers as alternatives, each once."""
    found: list[Mapping[str, Any]] = []
    waiting = [schema]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, Mapping) or any(one is other for other in found):
            continue
        found.append(one)
        if isinstance(reference := one.get("$ref"), str):
            waiting.append(_referred(reference, root))
        for key in ("allOf", "anyOf", "oneOf"):
            waiting += one.get(key, []) if isinstance(one.get(key), list) else []
    return found


def _referred(reference: str, root: Any) -> Any:
    """The schema that `#/$defs/NAME` refers to; None if there is none."""
    found = root
    for step in reference.removeprefix("#").strip("/").split("/") if reference.startswith("#") else ["#"]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) and name else found if not name else None
    return found


def _first(parts: Sequence[Mapping[str, Any]], key: str) -> Any:
    return next((part[key] for part in parts if key in part), None)


def _merged(parts: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    found = _first(parts, key)
    return found if isinstance(found, list) else []
