"""One tensor for one kind of thing that seated rows own at one place."""

from __future__ import annotations

import torch
from torch import Tensor


class Slab:
    """Owner of a tensor [slots, width, features], float32, of which each row fills the lines that it needs; the rest
    holds `fill`.

    Room is made by doubling, and given back when the last row that uses it has left. Slots are those of the KV cache.
    """

    def __init__(self, max_rows: int, *, fill: float = 0.0) -> None:
        self._widths = [0] * max_rows
        self._fill = fill
        self._kept: Tensor | None = None

    @property
    def is_used(self) -> bool:
        """Whether a row has something here."""
        return self._kept is not None

    def put(self, slot: int, value: Tensor) -> None:
        """Put `value` [width > 0, features] into a slot that is empty."""
        kept = self._with_room(slot + 1, len(value), value)
        kept[slot, : len(value)] = value
        self._widths[slot] = len(value)

    def leave(self, slot: int, last: int) -> None:
        """Let the row in `slot` go, and the row in `last`, the last slot in use, take its place."""
        gone, moved = self._widths[slot], self._widths[last]
        if self._kept is None or not (gone or moved):
            return
        if slot != last:
            self._clear(slot)
            if moved:
                self._kept[slot, :moved] = self._kept[last, :moved]
        self._clear(last)
        self._widths[slot] = moved if slot != last else 0
        self._widths[last] = 0
        if not any(self._widths):
            self._kept = None

    def swap(self, one: int, other: int) -> None:
        """Let the rows in these two slots change places."""
        widths = self._widths
        width = max(widths[one], widths[other])
        if self._kept is not None and width:
            kept = self._with_room(max(one, other) + 1, width, self._kept)
            kept[[one, other], :width] = kept[[other, one], :width]
        widths[one], widths[other] = widths[other], widths[one]

    def view(self, slots: slice) -> Tensor | None:
        """[rows, width, features] of these slots, as wide as the widest of them; None if none of them uses it."""
        width = max(self._widths[slots], default=0)
        if self._kept is None or not width:
            return None
        return self._with_room(slots.stop, width, self._kept)[slots, :width]

    def _clear(self, slot: int) -> None:
        if self._kept is not None and self._widths[slot]:
            self._kept[slot, : self._widths[slot]] = self._fill

    def _with_room(self, rows: int, width: int, like: Tensor) -> Tensor:
        """The tensor, with room for so many rows and lines; like [..., features]."""
        old = self._kept
        have_rows, have_width = (0, 0) if old is None else old.shape[:2]
        if old is not None and rows <= have_rows and width <= have_width:
            return old
        if rows > have_rows:
            rows = min(len(self._widths), max(rows, 2 * have_rows))
        shape = (max(rows, have_rows), max(width, have_width), like.shape[-1])
        kept = torch.full(shape, self._fill, dtype=torch.float32, device=like.device)
        if old is not None:
            kept[:have_rows, :have_width] = old
        self._kept = kept
        return kept
