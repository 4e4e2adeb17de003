"""What each row has in a slab stays its own while rows come, go and change places, and all rows share one copy."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guideway.workers.engine.kernels.slab import Seen, Slab, groups_of

ROWS = 5
CPU = torch.device("cpu")


@pytest.mark.parametrize("nothing", [None, 7.0])
@given(moves=st.lists(st.tuples(st.integers(0, 5), st.integers(0, ROWS - 1), st.integers(0, 6)), max_size=30))
def test_each_row_keeps_its_lines(nothing: float | None, moves: list[tuple[int, int, int]]) -> None:
    slab: Slab[str] = Slab(ROWS, nothing=nothing)
    rows: list[str | None] = []
    for kind, slot, number in moves:
        if kind < 3 and len(rows) < ROWS:
            thing = f"{number}" if number else None
            if thing:
                slab.put(len(rows), thing, *values(thing, by_row=nothing is not None))
            rows.append(thing)
        elif kind == 3 and slot < len(rows):
            slab.leave(slot, len(rows) - 1)
            rows[slot] = rows[-1]
            rows.pop()
        elif kind > 3 and slot < len(rows):
            other = number % len(rows)
            slab.swap(slot, other)
            rows[slot], rows[other] = rows[other], rows[slot]
        assert slab.things(slice(0, len(rows))) == rows
        assert slab.is_used == any(rows)
        for begin, end in pairwise(sorted({0, slot, len(rows)})):
            if end <= len(rows):
                expect_values(slab, slice(begin, end), rows[begin:end], nothing)


def values(thing: str, *, by_row: bool) -> list[torch.Tensor]:
    """Of another width for each thing, unless they are one for each row."""
    width = 1 if by_row else int(thing)
    return [torch.full((width, 2), float(thing)), torch.full((width, 3), -float(thing))][: 1 if by_row else 2]


def expect_values(slab: Slab[str], slots: slice, rows: list[str | None], nothing: float | None) -> None:
    if nothing is not None:
        rows_seen = slab.by_row(slots)
        assert (rows_seen is not None) == any(rows)
        if rows_seen:
            wanted = torch.tensor([nothing if row is None else float(row) for row in rows])
            assert torch.equal(rows_seen.value.expand(len(rows), 1, 2), wanted[:, None, None].expand(-1, 1, 2))
        return
    grouped = slab.grouped(slots)
    assert (grouped is not None) == any(rows)
    for seen in grouped or ():
        widest = max(int(row) for row in rows if row)
        # Every row's own number, brought to the place of its group and back, beside the lines that it finds there.
        numbers = torch.arange(1.0, len(rows) + 1)[:, None, None]
        one, other = seen.tensors
        assert one.shape[1:] == (widest, 2)
        assert torch.equal(other[..., 0], -one[..., 0])
        found = seen.groups.gathered(numbers) @ one[..., :1].transpose(1, 2)
        wanted = torch.zeros(len(rows), 1, widest)
        for i, row in enumerate(rows):
            wanted[i, 0, : int(row or 0)] = (i + 1) * float(row or 0)
        assert torch.equal(seen.groups.add(torch.zeros(len(rows), 1, widest), found), wanted)


def test_many_rows_hold_one_copy_and_a_row_that_moves_costs_none() -> None:
    slab: Slab[str] = Slab(64)
    a, b = torch.randn(8, 16), torch.randn(8, 24)
    for slot in range(64):
        slab.put(slot, "the same", a, b)
    assert slab.nbytes == a.nbytes + b.nbytes
    kept = slab._kept
    slab.swap(3, 60)
    slab.leave(0, 63)
    assert slab._kept is kept
    grouped = slab.grouped(slice(0, 63))
    assert grouped
    one, _ = grouped
    assert [seen.data_ptr() for seen in one.tensors] == [tensor.data_ptr() for tensor in kept]
    x = torch.randn(63, 1, 16)
    assert one.groups.gathered(x).data_ptr() == x.data_ptr()
    assert one.groups.gathered(x).shape == (1, 63, 16)


def test_rows_in_the_order_of_their_entries_are_not_copied() -> None:
    x = torch.randn(3, 2, 4)
    for entries in ((4, 5, 6), (1, 1, 1)):
        assert groups_of(entries, 3, CPU).gathered(x).data_ptr() == x.data_ptr()
    assert groups_of((6, 5, 4), 3, CPU).gathered(x).data_ptr() != x.data_ptr()


def test_entries_are_copied_where_few_are_seen_or_one_has_many_more_rows_than_others() -> None:
    kept = [torch.randn(64, 2, 3)]
    assert Seen.of(groups_of((3, 60, 3), 2, CPU), kept).tensors[0].shape == (2, 2, 3)
    near = Seen.of(groups_of((3, 6, 3), 2, CPU), kept)
    assert near.tensors[0].data_ptr() == kept[0][3].data_ptr()
    popular = Seen.of(groups_of((1, *[0] * 9), 4, CPU), kept)
    assert torch.equal(popular.tensors[0], kept[0][[1, 0, 0, 0]])


def test_a_row_is_not_changed_by_numbers_of_another_that_went_wrong() -> None:
    """A group is padded with a row of another one."""
    x = torch.tensor([[[torch.nan]], [[1.0]], [[2.0]], [[3.0]]])
    seen = Seen.of(groups_of((-1, 1, 1, 0), 2, CPU), [torch.tensor([[[10.0]], [[20.0]]])])
    found = seen.groups.add(torch.zeros(4, 1, 1), seen.groups.gathered(x) @ seen.tensors[0])
    assert found.flatten().tolist() == [0.0, 20.0, 40.0, 30.0]
