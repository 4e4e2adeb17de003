"""What seated rows use at one place: each thing once, and rows so grouped that a product reads each thing once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import torch
from torch import Tensor

Thing = TypeVar("Thing")


class Slab(Generic[Thing]):
    """Owner of tensors [entries, width, features], float32. A thing that rows use has one entry, however many they are:
    the same in each tensor. It fills the lines that it needs, and the rest is zero.

    Room is made by doubling, and given back when the last row that uses it has left. No tensor changes where rows move.
    Slots are those of the KV cache.
    """

    def __init__(self, max_rows: int, *, nothing: float | None = None) -> None:
        """nothing: what fills entry 0, which is that of rows that use nothing here; None where they have no entry."""
        self._things: list[Thing | None] = [None] * max_rows
        """What each slot uses"""
        self._nothing = nothing
        self._forget()

    def _forget(self) -> None:
        has_nothing = self._nothing is not None
        self._entries: dict[Thing | None, int] = {None: 0} if has_nothing else {}
        self._widths = [1] if has_nothing else []
        """Of each entry"""
        self._kept: list[Tensor] = []

    @property
    def is_used(self) -> bool:
        """Whether a row has something here."""
        return len(self._entries) > (self._nothing is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(kept.nbytes for kept in self._kept)

    def put(self, slot: int, thing: Thing, *values: Tensor) -> None:
        """Let an empty slot use `thing`, which consists of `values`, each [width > 0, features]."""
        if thing not in self._entries:
            entry = len(self._entries)
            self._make_room(entry + 1, values)
            for kept, value in zip(self._kept, values, strict=True):
                kept[entry, : len(value)] = value
                kept[entry, len(value) :] = 0
            self._widths[entry:] = [len(values[0])]
            self._entries[thing] = entry
        self._things[slot] = thing

    def leave(self, slot: int, last: int) -> None:
        """Let the row in `slot` go, and the row in `last`, the last slot in use, take its place."""
        thing = self._things[slot]
        self._things[slot] = self._things[last]
        self._things[last] = None
        if thing is None or thing in self._things:
            return
        # The last entry takes the place of the one that nobody uses any more.
        free, end = self._entries.pop(thing), len(self._entries)
        for other, entry in self._entries.items():
            if entry == end:
                for kept in self._kept:
                    kept[free] = kept[end]
                self._widths[free] = self._widths[end]
                self._entries[other] = free
        del self._widths[end:]
        if not self.is_used:
            self._forget()

    def swap(self, one: int, other: int) -> None:
        """Let the rows in these two slots change places."""
        things = self._things
        things[one], things[other] = things[other], things[one]

    def things(self, slots: slice) -> Sequence[Thing | None]:
        """What each of these slots uses, None where it uses nothing."""
        return self._things[slots]

    def by_row(self, slots: slice) -> ByRow | None:
        """The entry of each of these slots, of a slab of one tensor; None if none of them uses anything."""
        entries = self._entries_of(slots)
        if not any(entries):
            return None
        (kept,) = self._kept
        first, *others = entries
        if not any(entry != first for entry in others):
            return ByRow(kept[first : first + 1], None)
        if entries == tuple(range(first, first + len(entries))):
            return ByRow(kept[first : first + len(entries)], None)
        return ByRow(kept, index_of(entries, kept.device))

    def grouped(self, slots: slice) -> tuple[Seen, Seen] | None:
        """What these slots use, for rows of one token and for rows of several; None if none of them uses anything.

        One token: rows that use the same are together, up to four times as many as there are on average, or padding
        could be most of the work. Several tokens: each row is alone unless all use the same; an entry copied for it is
        small beside its tokens.
        """
        entries = self._entries_of(slots)
        used = [entry for entry in entries if entry >= 0]
        if not used:
            return None
        width, different = max(self._widths[entry] for entry in used), len(set(used))
        kept = [kept[:, :width] for kept in self._kept]
        one = groups_of(entries, 4 * -(-len(used) // different), kept[0].device)
        many = groups_of(entries, len(used) if different == 1 else 1, kept[0].device)
        return Seen.of(one, kept), Seen.of(many, kept)

    def _entries_of(self, slots: slice) -> tuple[int, ...]:
        return tuple(self._entries.get(thing, -1) for thing in self._things[slots])

    def _make_room(self, entries: int, values: Sequence[Tensor]) -> None:
        """Have room for so many entries, as wide as these values."""
        have, width = self._kept[0].shape[:2] if self._kept else (0, 0)
        if entries <= have and len(values[0]) <= width:
            return
        if entries > have:
            have = max(entries, min(2 * have, len(self._things)))
        width = max(width, len(values[0]))
        room = [
            value.new_full((have, width, value.shape[1]), self._nothing or 0, dtype=torch.float32) for value in values
        ]
        for old, new in zip(self._kept, room, strict=False):
            new[: len(old), : old.shape[1]] = old
        self._kept = room


@dataclass(frozen=True, eq=False)
class ByRow:
    """One entry for each row."""

    _kept: Tensor
    """[entries, width, features]"""
    _index: Tensor | None
    """[rows]: the entry of each; None where `_kept` has an entry for each row in order, or one for all"""

    @property
    def value(self) -> Tensor:
        """[rows or 1, width, features]"""
        return self._kept if self._index is None else self._kept.index_select(0, self._index)


@dataclass(frozen=True, eq=False)
class Groups:
    """The rows of a pass by their entries, each group padded to the largest one."""

    leaders: Sequence[int]
    """A row of each group; any row where a group is empty"""
    entries: slice | Tensor
    """Of each group"""
    _order: Tensor | None
    """[groups · most]: the row at each place; None where each row is at its own"""
    _places: Tensor
    """[rows]: the place of each; any place where a row has no entry"""
    _without: Tensor | None
    """[rows, 1, 1]: whether it has none; None where each has one"""

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self._places.device

    def gathered(self, x: Tensor) -> Tensor:
        """[groups, most · tokens, features] of x [rows, tokens, features]."""
        placed = x if self._order is None else x.index_select(0, self._order)
        return placed.reshape(len(self.leaders), -1, x.shape[-1])

    def add(self, y: Tensor, change: Tensor, *, out: Tensor | None = None) -> Tensor:
        """y [rows, tokens, features], with the change [groups, most · tokens, features] of rows that have an entry."""
        change = change.view(-1, *y.shape[1:])
        if self._order is not None:
            change = change.index_select(0, self._places)
            if self._without is not None:
                change.masked_fill_(self._without, 0)
        return torch.add(y, change, out=out)


@dataclass(frozen=True, eq=False)
class Seen:
    """The entries that a pass sees, for the groups of its rows."""

    groups: Groups
    _kept: Sequence[Tensor]
    """Each [groups or entries, width, features]"""

    @classmethod
    def of(cls, groups: Groups, kept: Sequence[Tensor]) -> Seen:
        entries = groups.entries
        return cls(groups, [one[entries] for one in kept] if isinstance(entries, slice) else kept)

    @property
    def tensors(self) -> Sequence[Tensor]:
        """Each [groups, width, features]"""
        index = self.groups.entries
        return self._kept if isinstance(index, slice) else [kept.index_select(0, index) for kept in self._kept]


@lru_cache(maxsize=64)
def groups_of(entries: tuple[int, ...], most: int, device: torch.device) -> Groups:
    """Groups of at most so many rows with these entries, -1 for none; at least one has one. Modules and steps mostly
    ask alike.
    """
    rows_of: dict[int, list[int]] = {}
    for row, entry in enumerate(entries):
        if entry >= 0:
            rows_of.setdefault(entry, []).append(row)
    parts = sorted((rows[i : i + most], entry) for entry, rows in rows_of.items() for i in range(0, len(rows), most))
    groups, of_groups = [rows for rows, _ in parts], tuple(entry for _, entry in parts)
    covered = range(min(rows_of), max(rows_of) + 1)
    if 1 < most >= max(map(len, rows_of.values())) and len(covered) <= 2 * len(rows_of):
        # Rather the rows are moved than what they use.
        groups, of_groups = [rows_of.get(entry, []) for entry in covered], tuple(covered)
    most = max(map(len, groups))
    padded = [row for group in groups for row in (*group, *[None] * (most - len(group)))]
    places = {row: place for place, row in enumerate(padded) if row is not None}
    order = [0 if row is None else row for row in padded]
    return Groups(
        leaders=order[::most],
        entries=slice(covered.start, covered.stop) if of_groups == tuple(covered) else index_of(of_groups, device),
        _order=None if order == list(range(len(entries))) else index_of(tuple(order), device),
        _places=index_of(tuple(places.get(row, 0) for row in range(len(entries))), device),
        _without=torch.tensor([[[entry < 0]] for entry in entries], device=device) if -1 in entries else None,
    )


@lru_cache(maxsize=64)
def index_of(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers on the device."""
    return torch.tensor(numbers, device=device)
