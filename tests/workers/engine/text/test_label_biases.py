"""A label's bias falls on the whole label, however many begin with its tokens; by enumeration of small tries."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from guideway.workers.engine.text.label_biases import edges, log_weight
from guideway.workers.engine.text.label_form import OneOf, labelled
from guideway.workers.engine.text.spelled import Spelled

EOS = 31
TRIES: list[Mapping[str, tuple[int, ...]]] = [
    {"a": (1,), "b": (2,), "c": (3, 4)},
    {"a": (1, 2), "b": (1, 3), "c": (1, 3, 4), "d": (5,)},
    {"a": (1,), "b": (1, 2), "c": (1, 2, 3), "d": (1, 2, 4), "e": (7, 1), "f": (7, 2)},
]
tries = pytest.mark.parametrize("trie", TRIES, ids="".join)


def biases_of(trie: Mapping[str, object], seed: int) -> dict[str, float]:
    chance = random.Random(seed)
    return {label: chance.uniform(-6, 6) for label in trie}


def form(trie: Mapping[str, tuple[int, ...]], biases: Mapping[str, float] | None) -> Spelled:
    return Spelled([OneOf(trie, lambda labels: [*map(trie.__getitem__, labels)], biases)], [EOS])


def allowed(form: Spelled) -> set[int]:
    bitmask = np.zeros((1, 1), dtype=np.int32)
    form.fill(bitmask, 0)
    return {token for token in range(32) if int(bitmask[0, 0]) >> token & 1}


def walked(form: Spelled, ids: Sequence[int]) -> float:
    """What is added on the way, with the end token where the text could go on."""
    form, total = form.fork(), 0.0
    for id_ in ids:
        assert set(form.biases) <= allowed(form)
        total += form.biases.get(id_, 0.0)
        form.accept(id_)
    return total + (0.0 if form.is_ended else form.biases.get(EOS, 0.0))


@tries
@pytest.mark.parametrize("seed", range(5))
def test_what_is_added_on_the_way_is_the_labels_bias_and_what_all_have_alike(
    trie: Mapping[str, tuple[int, ...]], seed: int
) -> None:
    biases = biases_of(trie, seed)
    alike = log_weight([*biases.values()])
    for label, ids in trie.items():
        assert walked(form(trie, biases), ids) == pytest.approx(biases[label] - alike)


@tries
@pytest.mark.parametrize("seed", range(5))
def test_labels_as_likely_as_their_biases_say_come_out_alike(trie: Mapping[str, tuple[int, ...]], seed: int) -> None:
    """Of a model that takes label y for p(y) whatever it is asked, -log p are the biases that make all labels alike:
    drawn token by token with them, each comes as often as any other, exactly."""
    chance = random.Random(seed)
    odds = {label: chance.expovariate(1) + 0.01 for label in trie}
    p = {label: one / sum(odds.values()) for label, one in odds.items()}
    biases = {label: -math.log(one) for label, one in p.items()}

    def below(ids: tuple[int, ...]) -> float:
        return sum(p[label] for label, its in trie.items() if its[: len(ids)] == ids)

    for ids in trie.values():
        place, drawn = form(trie, biases), 1.0
        for at in range(len(ids) + 1):
            ways = {token: below((*ids[:at], token)) for token in allowed(place) if token != EOS}
            if EOS in allowed(place):
                ways[EOS] = next(p[label] for label, its in trie.items() if its == ids[:at])
            if at == len(ids) and place.is_ended:
                break
            lifted = {token: one * math.exp(place.biases.get(token, 0.0)) for token, one in ways.items()}
            token = ids[at] if at < len(ids) else EOS
            drawn *= lifted[token] / sum(lifted.values())
            if at < len(ids):
                place.accept(token)
        assert drawn == pytest.approx(1 / len(trie))


@pytest.mark.parametrize("seed", range(20))
def test_without_labels_that_begin_alike_the_likeliest_with_its_bias_is_taken(seed: int) -> None:
    trie = {"a": (1, 9), "b": (2,), "c": (3, 4, 5), "d": (6,)}
    chance, biases = random.Random(seed), biases_of(trie, seed)
    logits = {ids[0]: chance.uniform(-6, 6) for ids in trie.values()}
    start = form(trie, biases)
    taken = max(allowed(start), key=lambda token: logits[token] + start.biases.get(token, 0.0))
    best = max(trie, key=lambda label: logits[trie[label][0]] + biases[label])
    assert taken == trie[best][0]


def test_a_place_with_one_way_on_adds_nothing() -> None:
    assert edges({"a": 3.0}, {1: ["a"]}, None) == {1: 0.0}
    assert form({"a": (1, 2)}, {"a": 3.0}).biases == {}


@tries
def test_biases_allow_nothing_more_and_nothing_less(trie: Mapping[str, tuple[int, ...]]) -> None:
    for ids in trie.values():
        plain, leaning = form(trie, None), form(trie, biases_of(trie, 1))
        for id_ in ids:
            assert allowed(plain) == allowed(leaning)
            assert plain.biases == {}
            plain.accept(id_)
            leaning.accept(id_)
        assert plain.is_complete
        assert plain.text(ids) == leaning.text(ids)


def test_each_word_gets_its_labels_biases_and_what_follows_a_label_counts_for_its_end() -> None:
    trie = {"N": (1,), "NN": (1, 2), "V": (3,)}
    biases = biases_of(trie, 3)
    alike = log_weight([*biases.values()])
    ids = {**{text: (20 + i, 9) for i, text in enumerate(["x/", " y/"])}, **trie}

    def tokens(texts: Sequence[str]) -> list[tuple[int, ...]]:
        return [ids[text] for text in texts]

    steps = labelled(["x", "y"], trie, tokens, tokens, biases)
    for first, its in trie.items():
        for second, theirs in trie.items():
            written = [20, 9, *its, 21, 9, *theirs]
            total = walked(Spelled(steps, [EOS]), written)
            assert total == pytest.approx(biases[first] + biases[second] - 2 * alike)


@tries
def test_partings_are_told_where_labels_part(trie: Mapping[str, tuple[int, ...]]) -> None:
    for ids in trie.values():
        place = form(trie, None)
        for at, id_ in enumerate(ids):
            here = [label for label, its in trie.items() if its[:at] == ids[:at]]
            if len(here) > 1:
                told = sorted(label for _, labels in place.parting for label in labels)
                assert told == sorted(here)
                tokens = [token for some, _ in place.parting for token in some]
                assert sorted(tokens) == sorted(allowed(place))
            else:
                assert not place.parting
            place.accept(id_)
