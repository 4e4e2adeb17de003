"""Figures on archived rows. Their answers are a model's: a figure says how often two agree, not how often one is right.

An evaluation that is kept names such a row by its number: what stands in the row is in the archive only. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from guideway.schemas.output import Boolean, Choice, OutputRule

if TYPE_CHECKING:
    from guideway.training.data.examples import Example
    from guideway.training.evaluation.scoring import Evaluation

_NAMES: Final = {
    "accuracy": "agreement",
    "exact_match": "exact_agreement",
    "word_accuracy": "word_agreement",
    "field_f1": "field_agreement",
    "balanced_accuracy": "balanced_agreement",
}
"""A figure on right answers → what the same figure is called on a model's answers."""
_LEFT_OUT: Final = frozenset({"macro_f1"})
NOT_KEPT: Final = "not kept"
"""In place of an answer that is no label."""


def name_of(metric: str, *, known_answers: bool) -> str:
    """What a figure is called on these rows. known_answers: people gave them."""
    return metric if known_answers else _NAMES.get(metric, metric)


def is_agreement(metric: str) -> bool:
    """Whether this figure says how often two models agree."""
    return metric in _NAMES.values()


def as_agreement(evaluation: Evaluation) -> Evaluation:
    """The evaluation in words that claim no right answers. Confidence is compared with nothing: that needs them."""
    figures = {_NAMES.get(name, name): one for name, one in evaluation.figures.items() if name not in _LEFT_OUT}
    return msgspec.structs.replace(
        evaluation,
        main=name_of(evaluation.main, known_answers=False),
        figures=figures,
        calibration=None,
        softening=None,
    )


def without_rows(evaluation: Evaluation, rows: Sequence[Example], rule: OutputRule) -> Evaluation:
    """The evaluation without what stands in the rows: their numbers, and answers only where these are labels."""
    keeps_answers = isinstance(rule, Choice | Boolean)
    answers = [
        msgspec.structs.replace(
            one,
            text=f"row {row.number}",
            expected=one.expected if keeps_answers else NOT_KEPT,
            given=one.given if keeps_answers or one.given is None else NOT_KEPT,
        )
        for one, row in zip(evaluation.answers, rows, strict=True)
    ]
    return msgspec.structs.replace(evaluation, answers=answers)
