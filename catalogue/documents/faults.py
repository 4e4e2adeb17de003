"""Faults of a file that somebody wrote, each with file, line and field, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from guideway.schemas.failures import FailureCode, Refusal

FieldPath = tuple[str | int, ...]
"""Names and numbers from the document down to a value: `("output", "labels", 0)`."""
MAX_TOLD: Final = 20
"""The most faults that one command shows. More of them are usually one mistake in many places."""
MAX_FOUND: Final = 1000
"""After so many faults the search ends."""
MAX_LISTED: Final = 20
"""The most names that a message lists."""
_MOST_CHARS: Final = 900


class Fault(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One thing that is wrong, and what to do about it."""

    message: str
    file: str = ""
    line: int | None = None
    """From 1 on: the line of the value's name, or of the document."""
    what: str = ""
    """The manifest, such as `endpoint shop/mood`."""
    field: str = ""
    """Such as `output.labels[0]`."""
    code: FailureCode = FailureCode.INVALID_MANIFEST

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file and self.line is not None else self.file
        message = " ".join(self.message.split())
        # A name in the file may be a megabyte long.
        short = message if len(message) <= _MOST_CHARS else f"{message[:_MOST_CHARS]}…"
        return ": ".join(filter(None, (where, self.what, short)))


class Faulty(Refusal):
    """A Refusal with all faults. Its code is `invalid_manifest`, or the one that all faults share."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        assert faults, "nothing is wrong"
        self.faults = faults[:MAX_TOLD]
        lines = [str(fault) for fault in self.faults]
        if len(faults) > MAX_TOLD:
            lines.append(f"and {len(faults) - MAX_TOLD} more")
        more = "at least " if len(faults) >= MAX_FOUND else ""
        told = lines[0] if len(faults) == 1 else "\n".join((f"{more}{len(faults)} things are wrong:", *lines))
        codes = {fault.code for fault in faults}
        super().__init__(codes.pop() if len(codes) == 1 else FailureCode.INVALID_MANIFEST, told)


def dotted(place: Iterable[str | int]) -> str:
    """The place as people write it: `output.labels[0]`."""
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in place).lstrip(".")


def listed(known: Sequence[str]) -> str:
    """The names, separated by commas; the first ones if there are many."""
    more = f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
    return ", ".join(known[:MAX_LISTED]) + more
