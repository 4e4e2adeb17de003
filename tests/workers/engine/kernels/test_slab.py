"""What each row keeps in a slab stays its own while rows come, go and change places."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from guideway.workers.engine.kernels.slab import Slab

ROWS = 4


@given(moves=st.lists(st.tuples(st.integers(0, 5), st.integers(0, ROWS - 1), st.integers(0, 5)), max_size=20))
def test_each_row_keeps_its_lines(moves: list[tuple[int, int, int]]) -> None:
    slab = Slab(ROWS, fill=7)
    rows: list[torch.Tensor | None] = []
    for number, (kind, slot, width) in enumerate(moves):
        if kind < 3 and len(rows) < ROWS:
            value = torch.full((width, 2), float(number)) if width else None
            if value is not None:
                slab.put(len(rows), value)
            rows.append(value)
        elif kind == 3 and slot < len(rows):
            slab.leave(slot, len(rows) - 1)
            rows[slot] = rows[-1]
            rows.pop()
        elif kind > 3 and slot < len(rows):
            other = width % len(rows)
            slab.swap(slot, other)
            rows[slot], rows[other] = rows[other], rows[slot]
        seen = slab.view(slice(0, len(rows)))
        there = [row for row in rows if row is not None]
        assert (seen is not None) == slab.is_used == bool(there)
        if seen is None:
            continue
        assert seen.shape == (len(rows), max(map(len, there)), 2)
        for kept, row in zip(seen, rows, strict=True):
            lines = 0 if row is None else len(row)
            assert row is None or torch.equal(kept[:lines], row)
            assert (kept[lines:] == 7).all()
