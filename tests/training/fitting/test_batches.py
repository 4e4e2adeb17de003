"""Which rows make up a step."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from guideway.training.fitting.batches import Batches, pieces


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=120),
    rows_per_step=st.integers(1, 40),
    by_length=st.booleans(),
    seed=st.integers(0, 9),
)
def test_every_epoch_uses_each_row_once(lengths: list[int], rows_per_step: int, by_length: bool, seed: int) -> None:
    batches = Batches(lengths, rows_per_step=rows_per_step, seed=seed, by_length=by_length)
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        used = [row for step in steps for row in batches.rows(step)]
        assert sorted(used) == list(range(len(lengths)))
        assert all(1 <= len(batches.rows(step)) <= rows_per_step for step in steps)


def test_a_step_follows_from_the_seed_alone() -> None:
    lengths = [random.Random(1).randint(5, 90) for _ in range(200)]
    first = Batches(lengths, rows_per_step=16, seed=3, by_length=True)
    again = Batches(lengths, rows_per_step=16, seed=3, by_length=True)
    assert [again.rows(step) for step in (30, 2, 17)] == [first.rows(step) for step in (30, 2, 17)]
    assert first.rows(0) != Batches(lengths, rows_per_step=16, seed=4, by_length=True).rows(0)
    assert first.rows(0) != first.rows(first.steps_per_epoch)


def padding(lengths: Sequence[int], steps: Sequence[Sequence[int]]) -> float:
    """Share of the computed positions that are padding, when the rows of each step are padded to its longest."""
    computed = sum(max(lengths[row] for row in step) * len(step) for step in steps)
    return 1 - sum(lengths[row] for step in steps for row in step) / computed


def test_by_length_there_is_little_padding() -> None:
    chance = random.Random(2)
    lengths = [int(chance.expovariate(1 / 40)) + 5 for _ in range(2000)]
    share = {}
    for by_length in (True, False):
        batches = Batches(lengths, rows_per_step=16, seed=1, by_length=by_length)
        share[by_length] = padding(lengths, [batches.rows(step) for step in range(batches.steps_per_epoch)])
    assert share[True] < 0.2
    assert share[False] > 0.5


@given(lengths=st.lists(st.integers(1, 300), max_size=60), most=st.integers(1, 2000), by_length=st.booleans())
def test_pieces_hold_each_row_once_and_no_more_positions_than_asked(
    lengths: list[int], most: int, by_length: bool
) -> None:
    found = list(pieces(lengths, most, by_length=by_length))
    assert sorted(place for piece in found for place in piece) == list(range(len(lengths)))
    for piece in found:
        assert len(piece) == 1 or len(piece) * max(lengths[place] for place in piece) <= most


def test_rows_that_fit_are_one_piece() -> None:
    assert list(pieces([5, 3, 4], 15)) == [[1, 2, 0]]
    assert list(pieces([5, 3, 4], 14)) == [[1, 2], [0]]
    assert list(pieces([5, 3, 4], 14, by_length=False)) == [[0, 1], [2]]
