"""Which rows are kept out: each label its share, each group in one part, the same every time."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guideway.training.data.splits import Item, folds, held_back

ITEMS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["", "", "", "g1", "g2", "g3"])), min_size=2, max_size=60
).map(lambda pairs: [Item(f"text {place}", label, group) for place, (label, group) in enumerate(pairs)])


def of_labels(**counts: int) -> list[Item]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [Item(f"text {place}", label, "") for place, label in enumerate(labels)]


def counted(items: list[Item], places: list[int]) -> dict[str, int]:
    return dict(Counter(items[place].label for place in places))


@pytest.mark.parametrize(
    ("counts", "share", "kept"),
    [
        ({"yes": 80, "no": 20}, 0.2, {"yes": 16, "no": 4}),
        ({"yes": 90, "no": 10}, 0.1, {"yes": 9, "no": 1}),
        ({"yes": 97, "no": 3}, 0.2, {"yes": 19, "no": 1}),
        ({"a": 5, "b": 5, "c": 5}, 0.2, {"a": 1, "b": 1, "c": 1}),
        ({"yes": 99, "no": 1}, 0.5, {"yes": 50}),  # what there is once is learnt from
        ({"": 50}, 0.2, {"": 10}),
        ({"a": 4, "b": 4}, 0.01, {"a": 1}),
    ],
)
def test_each_label_has_its_share(counts: dict[str, int], share: float, kept: dict[str, int]) -> None:
    items = of_labels(**counts)
    assert counted(items, held_back(items, share, seed=7)) == kept


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does() -> None:
    items = of_labels(yes=40, no=20)
    other = random.Random(1).sample(items, len(items))

    def kept(some: list[Item], seed: int) -> set[Item]:
        return {some[place] for place in held_back(some, 0.3, seed=seed)}

    def parts(some: list[Item]) -> list[set[Item]]:
        return [{some[place] for place in part} for part in folds(some, 4, seed=7)]

    assert kept(items, 7) == kept(other, 7) != kept(items, 8)
    assert parts(items) == parts(other)


@settings(max_examples=200, deadline=None)
@given(items=ITEMS, share=st.floats(0.05, 0.9), seed=st.integers(0, 3))
def test_what_is_kept_out_is_apart(items: list[Item], share: float, seed: int) -> None:
    kept = held_back(items, share, seed=seed)
    assert len({*kept}) == len(kept) < len(items) or len({item.group or item.key for item in items}) == 1
    inside, outside = {*kept}, {*range(len(items))} - {*kept}
    groups = [{items[place].group for place in some} - {""} for some in (inside, outside)]
    assert not groups[0] & groups[1]
    if not any(item.group for item in items):
        for label, count in Counter(item.label for item in items).items():
            found = counted(items, kept).get(label, 0)
            assert abs(found - len(kept) * count / len(items)) <= 1 + len({item.label for item in items})
            assert found < count or len({item.label for item in items}) == 1 or len(kept) == 1


@settings(max_examples=200, deadline=None)
@given(items=ITEMS, count=st.integers(2, 8), seed=st.integers(0, 3))
def test_folds_are_apart_and_whole(items: list[Item], count: int, seed: int) -> None:
    parts = folds(items, count, seed=seed)
    assert sorted(place for part in parts for place in part) == [*range(len(items))]
    assert all(parts)
    for group in {item.group for item in items} - {""}:
        assert sum(any(items[place].group == group for place in part) for part in parts) == 1
    if not any(item.group for item in items):
        for label in {item.label for item in items}:
            found = [counted(items, part).get(label, 0) for part in parts]
            assert max(found) - min(found) <= 1


def test_folds_of_few_rows_are_of_about_one_size() -> None:
    items = of_labels(a=13, b=7, c=4)
    parts = folds(items, 5, seed=1)
    assert {len(part) for part in parts} <= {4, 5, 6}
