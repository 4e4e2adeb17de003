"""Calibration: whether the bias of an endpoint's labels is removed, and what it is measured on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.output import Boolean, Choice, Label, OutputRule, WordLabels

CalibratedBy = Literal["contextual", "unlabelled", "fitted"]
"""From texts that say nothing, from texts of the endpoint's own kind, or from such texts with their right labels."""

MAX_LABELS: Final = 100
"""A calibrated endpoint has at most so many labels."""
MAX_TEXTS: Final = 500
MAX_BIAS: Final = 50.0
"""The largest bias, as a difference of log-likelihoods. The logits of labels differ by far less."""
_LEAST_TEXTS: Final = 8
"""Fewer texts measure chance: what they show of one label by chance would be removed from it for ever."""

_Text = Annotated[str, Meta(max_length=20_000)]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """How an endpoint's labels are calibrated. Workers make a `calibration/v1` of it."""

    method: CalibratedBy
    """From texts that say nothing (`contextual`), from texts of the endpoint's own kind (`unlabelled`), or from such
    texts with their right labels (`fitted`)."""
    texts: Annotated[list[_Text], Meta(max_length=MAX_TEXTS)] = []
    """For `unlabelled` and `fitted`: 8 or more texts, as events bring them in the text field."""
    labels: Annotated[list[Label], Meta(max_length=MAX_TEXTS)] = []
    """For `fitted`: the right label of each text."""
    file: str = ""
    """In place of `texts`: a file with them, relative to the manifest's file. A `.txt` with one text a line, or a
    `.jsonl` with `text`, and for `fitted` with `label`. `apply` reads it and empties this field."""
    around: Annotated[list[str], Meta(min_length=2)] = msgspec.field(default_factory=lambda: ["", ""])
    """`apply` writes this: what the endpoint's template puts before a text, between two uses of it, and after it."""

    def __post_init__(self) -> None:
        if self.method == "contextual" and (self.texts or self.file):
            raise ValueError("contextual calibration takes no texts: write `method: unlabelled`, or leave them out")
        if self.file and self.texts:
            raise ValueError("texts are given and a file of them as well: leave one out")
        if self.method != "contextual" and not self.file:
            if len(self.texts) < _LEAST_TEXTS:
                raise ValueError(
                    f"{self.method} calibration needs {_LEAST_TEXTS} texts or more: give them, or a `file`"
                )
            if any(not text.strip() for text in self.texts):
                raise ValueError("one of the texts is empty: leave it out")
        wanted = len(self.texts) if self.method == "fitted" else 0
        if len(self.labels) != wanted:
            raise ValueError(
                f"there are {len(self.labels)} labels for {len(self.texts)} texts: fitted calibration needs the right "
                "one of each, the others none"
            )


CalibrationRule = Calibration | Literal["auto", "off", "contextual"]
"""As people write it. `auto`, the default: contextual where labels are chosen and no trained guidance acts."""


def labels_of(rule: OutputRule) -> list[str]:
    """The labels of a rule that can be calibrated, each once; empty for other rules."""
    match rule:
        case Choice(labels) | WordLabels(labels):
            return list(dict.fromkeys(labels))
        case Boolean(spelling):
            return spelling.split("/")
    return []


def tempered(probabilities: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Each probability p as p^(1/temperature), made to sum to 1; the order stays as it is."""
    if temperature == 1:
        return dict(probabilities)
    largest = max(probabilities.values())
    odds = {label: (p / largest) ** (1 / temperature) for label, p in probabilities.items()}
    total = math.fsum(odds.values())
    return {label: one / total for label, one in odds.items()}


def automatic(rule: OutputRule, *, is_taught: bool) -> Calibration | None:
    """The calibration that `auto` means. is_taught: trained guidance acts on the labels, or the text has passages."""
    return Calibration(method="contextual") if 2 <= len(labels_of(rule)) <= MAX_LABELS and not is_taught else None
