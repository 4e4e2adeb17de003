"""The right word that is nearest to a wrong one: for messages to people, not for what is asked for each event. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Final

_MOST: Final = 20_000
"""Among so many words at most: each takes some microseconds."""
_LONGEST: Final = 300
"""Characters of a word that is compared."""


def nearest(wrong: str, known: Iterable[str], *, least: float = 0.6) -> str | None:
    """None where nothing is near. least: how like it has to be, 1 is the same."""
    near = difflib.get_close_matches(wrong[:_LONGEST], islice(known, _MOST), 1, least)
    return near[0] if near else None


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`did you mean X? ` where something is near, else nothing; what follows may say where all of them are listed."""
    found = nearest(wrong, known)
    return f"did you mean {found}? " if found is not None else ""
