"""Which passages go into the text: by score and weight, within the budget, with diversity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from guideway.schemas.retrieval import Condition, Retrieval, SetRef
from guideway.workers.retrieval.index import Hit
from guideway.workers.retrieval.selection import choose, why_none


def hit(id_: str, score: float, vector: tuple[float, float] = (1, 0), text: str = "") -> Hit:
    return Hit(id_, text or f"text of {id_}", score, np.array(vector, np.float32))


def chosen(*found: list[Hit], weights: tuple[float, ...] = (1, 1), **fields: Any) -> list[str]:
    sets = [SetRef(namespace="n", name=f"s{i}", version=1, weight=weights[i]) for i in range(len(found))]
    wanted = Retrieval(sets=sets, query="q", **{"passages": 3, "max_tokens": 100, **fields})
    return [one.hit.id for one in choose(wanted, found, lambda text: len(text.split()) * 10)]


def test_the_best_of_all_sets_come_first() -> None:
    assert chosen([hit("a", 0.5), hit("b", 0.3)], [hit("c", 0.4), hit("d", 0.35)]) == ["a", "c", "d"]


def test_weights_multiply_and_the_threshold_does_not_see_them() -> None:
    found = [hit("a", 0.5)], [hit("b", 0.4), hit("c", 0.25)]
    assert chosen(*found, weights=(0.5, 1), min_score=0.3) == ["b", "a"]
    assert chosen(*found, weights=(0, 1), min_score=0.2) == ["b", "c"]


def test_below_the_threshold_there_is_no_passage() -> None:
    assert chosen([hit("a", 0.29)], min_score=0.3) == []


def test_what_does_not_fit_is_left_out_and_never_cut() -> None:
    long, short = hit("long", 0.9, text="w " * 11), hit("short", 0.5)
    assert chosen([long, short, hit("other", 0.4)], max_tokens=65) == ["short", "other"]
    assert chosen([long, short], max_tokens=29) == []


def test_the_same_text_of_two_sets_is_taken_once() -> None:
    assert chosen([hit("a", 0.5, text="same text")], [hit("b", 0.4, text="same text")]) == ["a"]


def test_diversity_prefers_what_is_unlike_the_chosen() -> None:
    found = [hit("a", 0.9, (1, 0)), hit("twin", 0.8, (1, 0)), hit("other", 0.6, (0, 1))]
    assert chosen(found, passages=2) == ["a", "twin"]
    assert chosen(found, passages=2, diversity=0.5) == ["a", "other"]


@pytest.mark.parametrize(
    ("found", "fields", "says", "says_not"),
    [
        ([], {"filter": [Condition(key="year", value=1)]}, "passes the filter (metadata 'year')", "min_score"),
        ([], {}, "the sets are empty", "min_score"),
        ([hit("a", 0.2)], {"min_score": 0.3}, "has score 0.20, retrieval.min_score is 0.30", "filter"),
        (
            [hit("a", 0.2)],
            {"min_score": 0.3, "filter": [Condition(key="year", value=1)]},
            "the best one that passes the filter has score 0.20",
            "max_tokens",
        ),
        ([hit("a", 0.9, text="w " * 99)], {"max_tokens": 50}, "fits into retrieval.max_tokens (50)", "min_score"),
    ],
)
def test_what_kept_every_passage_out_is_said_and_nothing_else(
    found: list[Hit], fields: dict[str, Any], says: str, says_not: str
) -> None:
    wanted = Retrieval(sets=[SetRef(namespace="n", name="s", version=1)], query="q", **fields)
    why = why_none(wanted, [found])
    assert says in why
    assert says_not not in why
