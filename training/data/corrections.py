"""Corrections of archived answers: a file of request ids and the answers that people gave instead."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from guideway.schemas.output import OutputRule, WordLabels
from guideway.training.data.answers import spelled
from guideway.training.data.givable import check_givable
from guideway.training.data.records import Findings, invalid, read_records
from guideway.training.runs.task_data import Data

_ID: Final = "id"
_ANSWERS: Final = ("label", "value")
"""Columns with the answer. `value` is that of an exported row, so that its lines can be corrected in their place."""


def read_corrections(file: Path, data: Data, rule: OutputRule) -> dict[str, str]:
    """Request id → answer, as the output rule spells it. Other columns are not looked at.

    Raises Refusal(invalid_data) with all faults of the file.
    """
    findings = Findings(file)
    found: dict[str, str] = {}
    for number, cells in read_records(file, data.format, data.encoding, [{_ID, one} for one in _ANSWERS], findings):
        try:
            id_, answer = _correction(cells, rule)
        except ValueError as error:
            findings.add(number, str(error))
            continue
        if found.setdefault(id_, answer) != answer:
            findings.add(number, "it gives another answer to an id that an earlier row has: keep one of them")
    findings.refuse()
    if not found:
        raise invalid(f"{file} has no rows: write one with `id` and `label` for each correction, or leave it out")
    return found


def digest_of(corrections: Mapping[str, str]) -> str:
    """A run goes on only with those that it began with."""
    return f"sha256:{hashlib.sha256(msgspec.json.encode(sorted(corrections.items()))).hexdigest()}"


def _correction(cells: Mapping[str, Any], rule: OutputRule) -> tuple[str, str]:
    id_ = cells.get(_ID)
    if not isinstance(id_, str) or not id_:
        raise ValueError("its column 'id' is missing or no text: write the request's id, as `archive export` prints it")
    there = [name for name in _ANSWERS if name in cells]
    if len(there) != 1:
        raise ValueError(
            f"it has {'both label and value' if there else 'no label'}: write the right answer in one of them"
        )
    answer = spelled(cells[there[0]], rule)
    if not isinstance(rule, WordLabels):
        # Those are compared with the words of their row's text, which is in the archive.
        check_givable(answer, "", rule)
    return id_, answer
