"""The probabilities that the model gives to labels, text by text → the bias of each label. Pure.

A parting is a place where labels part. Each of its branches has the labels that it leads to, and the logarithm of its
share. The logarithms are averaged over all partings of the same labels. A branch is favoured by the difference between
its mean and the logarithm of its part of the labels. These differences are added up over the partings on a label's way,
and the sum is subtracted from the label. `engine/text/label_biases.py` spreads it over the label's tokens again, so
that each parting gets its own difference.

- `agreed`, for texts that say nothing. Contextual calibration (Zhao et al. 2021, https://arxiv.org/abs/2102.09690)
  subtracts what the model answers to `N/A`. One such text tells little, and a text of another kind may tell the
  opposite (Fei et al. 2023, https://arxiv.org/abs/2305.19148). So only what all kinds of texts agree on is subtracted:
  the smallest value of the kinds, or 0 if two kinds differ in sign. The measurements are in docs/performance.md.
- `usual`, for texts of the endpoint's own kind: batch calibration (Zhou et al. 2023,
  https://arxiv.org/abs/2309.17249), with the mean of logarithms. It assumes that all labels are about equally frequent.
- `fitted`, for such texts with their right labels: biases that make the right labels the likeliest (multinomial
  logistic regression with only a bias for each branch). A Gaussian prior of standard deviation 1 keeps them near the
  biases of `usual`; a few rows move them little. If fewer rows are right with them than without, they are 0.
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
    """Label → bias (natural logarithm, at most MAX_BIAS), from partings on texts of the endpoint's own kind."""
    return _biases(labels, {at: _favoured(found) for at, found in _by_labels(partings).items()})


def agreed(kinds: Sequence[Iterable[Parting]], labels: Sequence[str]) -> dict[str, float]:
    """Label → bias, from partings on texts that say nothing, kind by kind. kinds: at least one."""
    each = [{at: _favoured(found) for at, found in _by_labels(partings).items()} for partings in kinds]
    everywhere = set(each[0]).intersection(*each[1:])
    return _biases(labels, {at: _agreeing([kind[at] for kind in each]) for at in everywhere})


def fitted(rows: Iterable[tuple[Sequence[Parting], str]], labels: Sequence[str]) -> dict[str, float]:
    """Label → bias, from the partings and the right label of each text."""
    told: dict[Labels, list[tuple[Parting, int]]] = {}
    for partings, right in rows:
        for parting in partings:
            at = next((number for number, branch in enumerate(parting) if right in branch.labels), None)
            if at is not None:
                told.setdefault(_whole(parting), []).append((parting, at))
    return _biases(labels, {at: _fit(found) for at, found in told.items()})


Favoured = Mapping[Labels, float]
"""Labels of a branch → by how much the logarithm of its share is too large."""


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
    """By how much each branch is favoured. The mean over the branches is 0. partings: of the same labels."""
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
    """By gradient descent on the mean loss, which is convex. All rows have their branches in the same order."""
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
    # If the model knows nothing, the right labels may become likelier while fewer of them become the likeliest.
    if _right(rows, biases) < _right(rows, [0.0] * len(branches)):
        biases = [0.0] * len(branches)
    return {labels: -bias for labels, bias in zip(branches, biases, strict=True)}


def _right(rows: Sequence[tuple[Parting, int]], biases: Sequence[float]) -> int:
    """In how many rows the right branch is the likeliest."""
    found = 0
    for parting, right in rows:
        sums = [branch.log_share + bias for branch, bias in zip(parting, biases, strict=True)]
        found += sums.index(max(sums)) == right
    return found


def _biases(labels: Sequence[str], favoured: Mapping[Labels, Favoured]) -> dict[str, float]:
    biases = dict.fromkeys(labels, 0.0)
    for whole, branches in favoured.items():
        # A bias within this parting must not change the probabilities of other partings.
        scale = math.log(sum(len(some) / len(whole) * math.exp(favour) for some, favour in branches.items()))
        for some, favour in branches.items():
            for label in some:
                biases[label] -= favour - scale
    return {label: min(MAX_BIAS, max(-MAX_BIAS, bias)) for label, bias in biases.items()}
