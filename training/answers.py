"""How an example's answer is written: as the endpoint's output rule will make the model write it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import msgspec

from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels


def spelled(value: Any, rule: OutputRule) -> str:
    """The text of `value`, a cell of the data.

    Raises: ValueError, which says what to change, if it is not of the rule's type.
    """
    match rule:
        case Text() | Regex():
            return _text(value)
        case Choice(labels):
            text = _text(value).strip()
            if text not in labels:
                raise ValueError(f"its label is none of {', '.join(labels)}: correct it, or the task's labels")
            return text
        case Boolean(spelling):
            return _boolean(value, *spelling.split("/"))
        case Number(decimals):
            return _number(value, decimals)
        case WordLabels(labels):
            return _word_labels(value, labels)
        case Json(schema):
            return msgspec.json.encode(_ordered(_parsed(value), schema)).decode()
    assert_never(rule)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("its answer is empty or no text: fill it in, or remove the row")
    return value


def _boolean(value: Any, true: str, false: str) -> str:
    known = {"true": true, "false": false, true: true, false: false}
    text = str(value).strip().lower()
    if text not in known:
        raise ValueError(f"its answer is neither {true} nor {false}: correct it")
    return known[text]


def _number(value: Any, decimals: int) -> str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("its answer is no number: correct it") from None
    text = f"{number:.{decimals}f}"
    if abs(float(text) - number) > 1e-9 * max(1.0, abs(number)):
        raise ValueError(f"its answer has more than {decimals} decimals: round it, or raise the output's decimals")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _word_labels(value: Any, labels: Sequence[str]) -> str:
    if isinstance(value, str):
        return _text(value)
    try:
        pairs = [(str(word), str(label)) for word, label in value]
    except (TypeError, ValueError):
        raise ValueError("its answer is no list of [word, label] pairs: write it so") from None
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
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        raise ValueError("its answer is no JSON: correct it") from None


def _ordered(value: Any, schema: Any) -> Any:
    """Keys in the order of the schema's `properties`, in which the grammar has them written; others after them."""
    if isinstance(value, list):
        items = schema.get("items") if isinstance(schema, Mapping) else None
        return [_ordered(item, items) for item in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {}) if isinstance(schema, Mapping) else {}
    keys = [key for key in known if key in value] + [key for key in value if key not in known]
    return {key: _ordered(value[key], known.get(key)) for key in keys}
