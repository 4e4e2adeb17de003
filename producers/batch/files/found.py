"""What a file holds at a place, before it is known what it asks for."""

from __future__ import annotations

from typing import Any, NamedTuple

from guideway.producers.batch.files.row import Position
from guideway.schemas.failures import FailureCode, Refusal


class Found(NamedTuple):
    """One row of a file: its cells by column, or why it has none."""

    line: int
    last_line: int
    cells: dict[str, Any] | Refusal
    next: Position


def undecodable(message: str) -> Refusal:
    """Of a row. `message`: what is wrong, and what to change."""
    return Refusal(FailureCode.UNDECODABLE_EVENT, message)


def unusable(message: str) -> Refusal:
    """Of a whole file."""
    return Refusal(FailureCode.INVALID_DATA, message)
