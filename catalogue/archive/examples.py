"""Archived results as examples: the text and the answer of a row, or why it has none. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from guideway.catalogue.archive.rows import Row

WITHOUT_TEXT: Final = "without their text"
WITHOUT_VALUE: Final = "without a value"


def why_none(row: Row) -> str:
    """Why a row is no example; empty: it is one."""
    if row.text is None or not row.text.strip():
        return WITHOUT_TEXT
    return WITHOUT_VALUE if row.value is None else ""


def examples(found: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Rows as the studio reads them from a file: text and label. Rows that are no examples are left out."""
    for row in found:
        if not why_none(row):
            yield {"text": row.text, "label": row.value}


def confidence_of(row: Row) -> float | None:
    """The probability of the answer as its reply told it; None where it told none."""
    first = row.samples[0] if row.samples else None
    told = first.get("probabilities") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(told, dict):
        return None
    found = told.get(first.get("text"))
    return float(found) if isinstance(found, int | float) else None


def between(text: str, before: str, behind: str) -> str | None:
    """What stands between what a template puts around a field; None for a text of another template."""
    inner = len(text) - len(before) - len(behind)
    if inner < 0 or not (text.startswith(before) and text.endswith(behind)):
        return None
    return text[len(before) : len(before) + inner]
