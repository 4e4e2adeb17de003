"""The walk through the tree of labels finds each label's probability, whatever they share, and sees no place twice."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from guideway.workers.engine.likelihood.label_walk import LabelWalk
from guideway.workers.engine.likelihood.told import BatchedWalks
from guideway.workers.engine.text.label_form import OneOf
from guideway.workers.engine.text.spelled import Spelled

END = -1
Ids = Mapping[str, tuple[int, ...]]


def odds_at(written: tuple[int, ...], token: int) -> float:
    """The logit of a token after what is written: any function of both will do."""
    return random.Random(f"{written} {token}").uniform(-3, 3)


def by_hand(ids: Ids) -> dict[str, float]:
    """The product, token by token, of the softmax over what may come."""
    found = {}
    for label, own in ids.items():
        found[label] = 1.0
        for at in range(len(own) + 1):
            before = own[:at]
            ways = {some[at] if len(some) > at else END for some in ids.values() if some[:at] == before}
            token = own[at] if len(own) > at else END
            weights = {way: math.exp(odds_at(before, way)) for way in ways}
            found[label] *= weights[token] / sum(weights.values())
    return found


def ways_at(ids: Ids, written: Sequence[int]) -> list[tuple[list[str], float]]:
    before, at = tuple(written), len(written)
    ways: dict[int, list[str]] = {}
    for label, own in ids.items():
        if own[:at] == before:
            ways.setdefault(own[at] if len(own) > at else END, []).append(label)
    return [(labels, odds_at(before, way)) for way, labels in ways.items()]


def walked(ids: Ids) -> tuple[dict[str, float], int]:
    """The probabilities that a walk finds, and how many tokens it ran."""
    walk, written, steps, seen = LabelWalk(ids), list[int](), 0, set[tuple[int, ...]]()
    while True:
        if walk.awaits(written):
            assert tuple(written) not in seen
            seen.add(tuple(written))
            walk.tell(written, ways_at(ids, written))
        if (move := walk.next(written)) is None:
            return walk.probabilities, steps
        written[move.kept :] = [move.token]
        steps += 1
        assert steps < 10_000


@pytest.mark.parametrize(
    ("ids", "steps"),
    [
        ({"only": (1, 2, 3)}, 0),
        ({"yes": (1, 2), "no": (3, 4)}, 0),
        ({"credit": (1,), "credit card": (1, 2), "crediting": (1, 3, 4), "debit": (5,)}, 1),
        ({"a": (1,), "ab": (1, 2), "abc": (1, 2, 3), "abcd": (1, 2, 3, 4)}, 3),
        ({"left one": (1, 2, 3), "left two": (1, 2, 4), "right one": (5, 6, 3), "right two": (5, 6, 4)}, 4),
        ({"all begin": (7, 8, 1), "alike": (7, 8, 2)}, 2),
    ],
    ids=lambda value: str(len(value)) if isinstance(value, dict) else "",
)
def test_probabilities_are_those_of_each_token_on_the_way(ids: Ids, steps: int) -> None:
    found, took = walked(ids)
    assert found == pytest.approx(by_hand(ids))
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert took == steps


@pytest.mark.parametrize("seed", range(20))
def test_of_any_labels_they_are_right(seed: int) -> None:
    chance = random.Random(seed)
    own = {tuple(chance.randrange(3) for _ in range(chance.randrange(1, 6))) for _ in range(1 + 4 * seed)}
    ids = {f"label {number}": one for number, one in enumerate(sorted(own))}
    found, steps = walked(ids)
    assert found == pytest.approx(by_hand(ids))
    assert steps <= sum(map(len, own))


def test_of_equal_probabilities_the_label_declared_first_comes_first() -> None:
    walk = LabelWalk({"b": (1,), "a": (2,), "c": (3,)})
    walk.tell([], [(["a"], 0.5), (["c"], 0.5), (["b"], 0.5)])
    assert list(walk.probabilities) == ["b", "a", "c"]


def test_what_cannot_be_has_no_probability() -> None:
    walk = LabelWalk({"a": (1,), "b": (2, 1), "c": (2, 2)})
    walk.tell([], [(["a"], 1.0), (["b", "c"], -math.inf)])
    walk.tell([2], [(["b"], 0.0), (["c"], 0.0)])
    assert walk.probabilities == {"a": 1, "b": 0, "c": 0}


def test_a_row_that_has_gone_another_way_comes_back() -> None:
    """Where a text is drawn, the row has seen the places on its way; it goes back as far as it must."""
    ids = {"a one": (1, 2, 3), "a two": (1, 2, 4), "b one": (5, 3), "b two": (5, 4)}
    walk, way = LabelWalk(ids), [5, 4]
    for at in range(len(way)):
        if walk.awaits(way[:at]):
            walk.tell(way[:at], ways_at(ids, way[:at]))
    assert walk.next(way) == (0, 1)
    assert walk.next([1]) == (1, 2)
    walk.tell([1, 2], ways_at(ids, [1, 2]))
    assert walk.next([1, 2]) is None
    assert walk.probabilities == pytest.approx(by_hand(ids))


def test_a_place_that_cannot_be_told_is_left_to_its_row_alone() -> None:
    """As where a label goes on with the token that ends texts."""
    form = Spelled([OneOf(["yes", "yes!"], lambda _: [[1], [1, 2]])], [2])
    form.accept(1)
    walk = LabelWalk({"yes": [1], "yes!": [1, 2]})
    row: Any = SimpleNamespace(walk=walk, grammar=form, token_ids=[1])
    walks = BatchedWalks([row])
    assert walks.gathered(torch.zeros(1, 3)) is None
    walks.hear([], [2])
    assert walk.awaits([1])
