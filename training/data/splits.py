"""Which rows are kept out, and how few rows are divided into folds. Pure.

Texts and a seed decide, not the order of rows. Rows of one group stay together. If answers are labels, each label has
its share in every part.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

FEW_ROWS: Final = 200
"""With fewer rows a fifth is too few: on 40 rows no difference below 13 points is significant."""
FOLDS: Final = 5


class Item(NamedTuple):
    """What of a row decides its part."""

    key: str
    """Its text, see `key_of`. No two rows share one."""
    label: str
    """Empty if answers are no labels."""
    group: str
    """Empty for a group of its own."""


def key_of(text: str) -> str:
    """The text without differences of spacing and case."""
    return " ".join(text.split()).casefold()


def held_back(items: Sequence[Item], share: float, *, seed: int) -> list[int]:
    """Places of about `share` of the items, at least one. A label with two rows or more keeps at least one outside."""
    quota = _quotas(Counter(item.label for item in items), max(1, round(share * len(items))))
    taken: Counter[str] = Counter()
    found: list[int] = []
    units = _units(items, seed)
    for unit in units:
        labels = Counter(items[place].label for place in unit)
        if all(taken[label] + count <= quota[label] for label, count in labels.items()):
            taken += labels
            found += unit
    # If all groups are too large for the share, take the smallest, as long as rows remain.
    if not found and len(units) > 1:
        found = [*min(units, key=len)]
    return found


def folds(items: Sequence[Item], count: int, *, seed: int) -> list[list[int]]:
    """Places of the items in `count` parts of about the same size, without empty parts."""
    parts: list[list[int]] = [[] for _ in range(count)]
    labels: list[Counter[str]] = [Counter() for _ in range(count)]
    # Large groups first, while there is room; then label by label, so that each label is spread over the parts.
    common = Counter(item.label for item in items)

    def turn(unit: list[int]) -> tuple[int, int, str]:
        label = items[unit[0]].label
        return -len(unit), common[label], label

    for unit in sorted(_units(items, seed), key=turn):
        own = Counter(items[place].label for place in unit)

        def load(part: int, own: Counter[str] = own) -> tuple[int, int, int]:
            return sum(labels[part][label] for label in own), len(parts[part]), part

        best = min(range(count), key=load)
        parts[best] += unit
        labels[best] += own
    return [sorted(part) for part in parts if part]


def _quotas(rows: Counter[str], wanted: int) -> dict[str, int]:
    """Label → how many of its rows, by the method of the largest remainder."""
    total = rows.total()
    most = {label: count - 1 for label, count in rows.items()}
    exact = {label: wanted * count / total for label, count in rows.items()}
    quota = {label: min(math.floor(exact[label]), most[label]) for label in rows}
    by_remainder = sorted(rows, key=lambda label: (quota[label] - exact[label], label))
    while sum(quota.values()) < wanted and (open_ := [label for label in by_remainder if quota[label] < most[label]]):
        for label in open_[: wanted - sum(quota.values())]:
            quota[label] += 1
    return quota


def _units(items: Sequence[Item], seed: int) -> list[list[int]]:
    """Places that stay together, in an order given by the seed and the texts."""
    units: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        units.setdefault(f"group {item.group}" if item.group else f"text {item.key}", []).append(place)

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{seed} {name.removeprefix('text ')}".encode()).digest()

    return [sorted(units[name], key=lambda place: items[place].key) for name in sorted(units, key=rank)]
