"""How likely the model finds labels, text by text → the bias to be taken off each. Pure.

A parting is a place where labels part: of each branch, which labels it leads to and the logarithm of its share. Of
several partings of the same labels, the mean is taken; a branch whose mean is above its part of the labels is favoured
by so much. The sum of what a label is favoured by, from parting to parting on its way, is what is taken off it;
`engine/text/label_biases.py` spreads it over its tokens again so that each parting gets back its own.

- `agreed`, for texts that say nothing. Contextual calibration (Zhao et al. 2021, https://arxiv.org/abs/2102.09690)
  takes off what the model answers to `N/A`. One such text says little, and another kind of them may say the opposite
  (Fei et al. 2023, https://arxiv.org/abs/2305.19148), so only that is taken off which texts of every kind agree on: of
  the kinds the least, and nothing where two of them differ in sign. docs/performance.md has what was measured.
- `usual`, for texts of the endpoint's own kind: batch calibration (Zhou et al. 2023,
  https://arxiv.org/abs/2309.17249), with the mean of logarithms. All labels are taken to be about equally frequent.
- `fitted`, for such texts with their right labels: biases that make these the likeliest (multinomial logistic
  regression with nothing but a bias for each branch). A Gaussian prior of standard deviation 1 keeps them near what is
  usual, from which few rows lead away little. Where fewer of the rows come out right than without, there are none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from guideway.schemas.calibration import MAX_BIAS
from guideway.workers.messages.from_engine import Branch

Parting = Sequence[Branch]
Labels = tuple[str, ...]
_ROUNDS: Final = 200
_STEP: Final = 1.0


def usual(partings: Iterable[Parting], labels: Sequence[str]) -> dict[str, float]:
    """The bias of each label, from partings on texts of the endpoint's own kind."""
    return _biases(labels, {at: _favoured(found) for at, found in _by_labels(partings).items()})


def agreed(kinds: Sequence[Iterable[Parting]], labels: Sequence[str]) -> dict[str, float]:
    """The bias of each label, from partings on texts that say nothing, kind by kind."""
    each = [{at: _favoured(found) for at, found in _by_labels(partings).items()} for partings in kinds]
    everywhere = set(each[0]).intersection(*each[1:])
    return _biases(labels, {at: _agreeing([kind[at] for kind in each]) for at in everywhere})


def fitted(rows: Iterable[tuple[Sequence[Parting], str]], labels: Sequence[str]) -> dict[str, float]:
    """The bias of each label, from each text's partings and its right label."""
    told: dict[Labels, list[tuple[Parting, int]]] = {}
    for partings, right in rows:
        for parting in partings:
            at = next((number for number, branch in enumerate(parting) if right in branch.labels), None)
            if at is not None:
                told.setdefault(_whole(parting), []).append((parting, at))
    return _biases(labels, {at: _fit(found) for at, found in told.items()})


Favoured = Mapping[Labels, float]
"""Of each branch, by its labels: by how much the logarithm of its share is above what it should be."""


def _by_labels(partings: Iterable[Parting]) -> dict[Labels, list[Parting]]:
    found: dict[Labels, list[Parting]] = {}
    for parting in partings:
        found.setdefault(_whole(parting), []).append(parting)
    return found


def _whole(parting: Parting) -> Labels:
    return tuple(sorted(label for branch in parting for label in branch.labels))


def _branches(parting: Parting) -> list[Labels]:
    return [tuple(sorted(branch.labels)) for branch in parting]


def _favoured(partings: Sequence[Parting]) -> Favoured:
    """Centred: the favours of a parting's branches have the mean 0."""
    whole = len(_whole(partings[0]))
    sums: dict[Labels, float] = {}
    for parting in partings:
        for labels, branch in zip(_branches(parting), parting, strict=True):
            sums[labels] = sums.get(labels, 0.0) + max(branch.log_share, -MAX_BIAS)
    found = {labels: sum_ / len(partings) - math.log(len(labels) / whole) for labels, sum_ in sums.items()}
    mean = sum(found.values()) / len(found)
    return {labels: favour - mean for labels, favour in found.items()}


def _agreeing(kinds: Sequence[Favoured]) -> Favoured:
    found = {}
    for labels in kinds[0]:
        favours = [kind[labels] for kind in kinds]
        least: Callable[..., float] = min if favours[0] > 0 else max
        found[labels] = least(favours) if min(favours) > 0 or max(favours) < 0 else 0.0
    return found


def _fit(rows: Sequence[tuple[Parting, int]]) -> Favoured:
    """Gradient steps on the mean loss, which is convex; the branches of all rows are in the order of the first."""
    branches = _branches(rows[0][0])
    usually = _favoured([parting for parting, _ in rows])
    before = [-usually[labels] for labels in branches]
    biases = [*before]
    for _ in range(_ROUNDS):
        slope = [(bias - start) / len(rows) for bias, start in zip(biases, before, strict=True)]
        for parting, right in rows:
            logits = [max(branch.log_share, -MAX_BIAS) + bias for branch, bias in zip(parting, biases, strict=True)]
            largest = max(logits)
            odds = [math.exp(logit - largest) for logit in logits]
            total = sum(odds)
            for number, one in enumerate(odds):
                slope[number] += (one / total - (number == right)) / len(rows)
        biases = [bias - _STEP * one for bias, one in zip(biases, slope, strict=True)]
    # The likelihood of the right labels may grow while fewer of them are the likeliest: where the model knows nothing.
    if _right(rows, biases) < _right(rows, [0.0] * len(branches)):
        biases = [0.0] * len(branches)
    return {labels: -bias for labels, bias in zip(branches, biases, strict=True)}


def _right(rows: Sequence[tuple[Parting, int]], biases: Sequence[float]) -> int:
    """How often the right branch is the likeliest."""
    found = 0
    for parting, right in rows:
        sums = [branch.log_share + bias for branch, bias in zip(parting, biases, strict=True)]
        found += sums.index(max(sums)) == right
    return found


def _biases(labels: Sequence[str], favoured: Mapping[Labels, Favoured]) -> dict[str, float]:
    biases = dict.fromkeys(labels, 0.0)
    for whole, branches in favoured.items():
        # So that what is taken off within a parting moves nothing between it and others.
        scale = math.log(sum(len(some) / len(whole) * math.exp(favour) for some, favour in branches.items()))
        for some, favour in branches.items():
            for label in some:
                biases[label] -= favour - scale
    return {label: min(MAX_BIAS, max(-MAX_BIAS, bias)) for label, bias in biases.items()}
