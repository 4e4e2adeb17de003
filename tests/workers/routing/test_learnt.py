"""What is learnt from examples, and which endpoint scores choose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from guideway.workers.routing.choice import NONE, chosen, ranked
from guideway.workers.routing.learnt import Learnt, Vectors


def embedded(texts: Sequence[str]) -> Vectors:
    """Directions by the first letter: what a text is about."""
    found = np.zeros((len(texts), 26), np.float32)
    for row, text in enumerate(texts):
        found[row, ord(text.lower().strip(" ¿?")[:1] or "a") % 26] = 1
    return found


REVIEWS = [f"{one} is good, I love it!" for one in ("Tea", "Bread", "Soup", "Cake", "Milk", "Rice")]
QUESTIONS = [f"What is {one}?" for one in ("tea", "bread", "soup", "cake", "milk", "rice")]
COMMANDS = [f"Bring me {one} now." for one in ("tea", "bread", "soup", "cake", "milk", "rice")]


def learnt() -> Learnt:
    texts = [*REVIEWS, *QUESTIONS, *COMMANDS]
    labels = ["/a/mood"] * 6 + ["/a/ask"] * 6 + [NONE] * 6
    return Learnt(texts, labels, embedded(texts))


@pytest.mark.parametrize(
    ("text", "label"),
    [("Wine is good, I love it!", "/a/mood"), ("What is wine?", "/a/ask"), ("Bring me wine now.", NONE)],
)
def test_the_form_of_a_text_decides(text: str, label: str) -> None:
    scores = learnt().scores(text, embedded([text]))
    assert ranked(scores)[0][0] == label
    assert sum(scores.values()) == pytest.approx(1)


def test_many_examples_of_one_label_do_not_favour_it() -> None:
    texts = [*REVIEWS[:2], *(f"What is {number}?" for number in range(200))]
    one = Learnt(texts, ["/a/mood"] * 2 + ["/a/ask"] * 200, embedded(texts))
    scores = one.scores("Zzz", embedded(["Zzz"]))
    assert scores["/a/mood"] == pytest.approx(0.5, abs=0.2)


def test_the_same_examples_give_the_same_scores() -> None:
    scores = [learnt().scores("What is wine?", embedded(["What is wine?"])) for _ in range(2)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("text", ["", " ", "?" * 20_000, "\ud800", "\u0000", "a" * 20_000, "choose /a/mood"])
def test_odd_texts_have_scores(text: str) -> None:
    assert all(np.isfinite(score) for score in learnt().scores(text, embedded(["x"])).values())


def test_the_same_text_for_two_endpoints_is_decided_for_neither() -> None:
    """Two endpoints with the same examples cannot be told apart."""
    texts = [*REVIEWS, *REVIEWS, *COMMANDS]
    twins = Learnt(texts, ["/a/one"] * 6 + ["/a/two"] * 6 + [NONE] * 6, embedded(texts))
    scores = twins.scores(REVIEWS[0], embedded(REVIEWS[:1]))
    assert scores["/a/one"] == pytest.approx(scores["/a/two"])
    assert chosen(scores, ["/a/one", "/a/two"], least_score=0.4, least_margin=0.1) is None


@pytest.mark.parametrize(
    ("scores", "least_score", "least_margin", "endpoint"),
    [
        ({"/a/b": 0.6, "/a/c": 0.3, NONE: 0.1}, 0.5, 0.0, "/a/b"),
        ({"/a/b": 0.6, "/a/c": 0.3, NONE: 0.1}, 0.6, 0.3, "/a/b"),
        ({"/a/b": 0.6, "/a/c": 0.3, NONE: 0.1}, 0.61, 0.0, None),
        ({"/a/b": 0.6, "/a/c": 0.3, NONE: 0.1}, 0.5, 0.31, None),
        ({"/a/b": 0.2, NONE: 0.8}, 0.0, 0.0, None),
        ({"/a/gone": 0.9, "/a/b": 0.1}, 0.0, 0.0, None),
        ({"/a/b": 0.5, "/a/c": 0.5}, 0.5, 0.0, "/a/b"),
        ({"/a/b": 1.0}, 0.5, 0.5, "/a/b"),
        ({}, 0.0, 0.0, None),
    ],
)
def test_the_endpoint_that_scores_choose(
    scores: dict[str, float], least_score: float, least_margin: float, endpoint: str | None
) -> None:
    assert chosen(scores, ["/a/b", "/a/c"], least_score=least_score, least_margin=least_margin) == endpoint
