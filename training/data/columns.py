"""Reads a row by its columns: text and answer, a conversation, or Alpaca's instruction, input and output. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from guideway.training.data.conversations import Conversation, read_alpaca, read_conversation, shared_messages
from guideway.training.runs.task_data import Columns, Data

KNOWN_COLUMNS: Final = (Columns(text="text", answer="label"), Columns(text="prompt", answer="completion"))
MESSAGES: Final = "messages"
KNOWN_NAMES: Final = frozenset(known.text for known in KNOWN_COLUMNS)
SHARED: Final = "conversations"
"""ShareGPT's name for them."""
ALPACA: Final = frozenset({"instruction", "input", "output"})


def conversation_of(cells: Mapping[str, Any], data: Data) -> Conversation:
    """The row's instruction, text and answer. Raises ValueError, which says what to change."""
    columns = _columns(cells, data)
    if columns is None:
        if MESSAGES in cells:
            return read_conversation(cells[MESSAGES])
        if SHARED in cells:
            return read_conversation(shared_messages(cells[SHARED]))
        return read_alpaca(cells["instruction"], cells.get("input"), cells["output"])
    if isinstance(cells[columns.text], list | dict):
        raise ValueError("its text is a list or an object: write it as text; messages stand in a column `messages`")
    return Conversation("", cells[columns.text], cells[columns.answer], is_learnt=True)


def is_alpaca(cells: Mapping[str, Any], data: Data) -> bool:
    """Whether the row has Alpaca's columns."""
    return has_instruction(cells, data) and "instruction" in cells


def has_instruction(cells: Mapping[str, Any], data: Data) -> bool:
    """Whether rows of this form can have an instruction."""
    return data.columns is None and not KNOWN_NAMES & cells.keys()


def group_of(cells: Mapping[str, Any], data: Data) -> str:
    """The row's group; empty without groups. Raises ValueError, which says what to change."""
    if not data.group:
        return ""
    group = cells.get(data.group)
    if isinstance(group, bool) or not isinstance(group, str | int) or group == "":
        raise ValueError(f"its column {data.group!r} (data.group) is missing, or neither a text nor a whole number")
    return str(group)


def _columns(cells: Mapping[str, Any], data: Data) -> Columns | None:
    """The columns to read; None for a conversation and for Alpaca's columns.

    Raises ValueError, which says what to change.
    """
    used = {
        name for name in cells if name not in {*data.ignore_columns, data.group} and not _is_nothing(name, cells[name])
    }
    columns = data.columns
    if columns is None:
        if used in ({MESSAGES}, {SHARED}) or {"instruction", "output"} <= used <= ALPACA:
            return None
        columns = next((known for known in KNOWN_COLUMNS if {known.text, known.answer} <= cells.keys()), None)
    if columns is None:
        raise ValueError(
            f"its columns are {_listed(cells)}, and text and label, prompt and completion, messages, conversations, or "
            "instruction and output are looked for: rename them, or name them in data.columns"
        )
    if missing := {columns.text, columns.answer} - cells.keys():
        raise ValueError(f"it lacks the column {_listed(missing)}; it has {_listed(cells)}")
    if unknown := used - {columns.text, columns.answer}:
        raise ValueError(f"column {_listed(unknown)} is not known: list it in data.ignore_columns, or remove it")
    return columns


def _is_nothing(name: str, value: Any) -> bool:
    """Whether the column has no value and can be ignored."""
    return name not in {MESSAGES, SHARED} and value in (None, [], {})


def _listed(columns: Mapping[str, Any] | set[str]) -> str:
    return ", ".join(repr(column) for column in sorted(columns, key=str))
