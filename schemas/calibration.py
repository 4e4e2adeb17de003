"""Whether and from what the bias of an endpoint's labels is taken off."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.output import Boolean, Choice, Label, OutputRule, WordLabels

CalibratedBy = Literal["contextual", "unlabelled", "fitted"]
"""From texts that say nothing, from texts of the endpoint's own kind, or from such texts with their right labels."""

MAX_LABELS: Final = 100
"""Of an endpoint that is calibrated."""
MAX_TEXTS: Final = 500
MAX_BIAS: Final = 50.0
"""Far more than the logits of labels differ by."""
_LEAST_TEXTS: Final = 8
"""Fewer say little of what is usual, and what they say of one label by chance would be taken off it for ever."""

_Text = Annotated[str, Meta(max_length=20_000)]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """How an endpoint's labels are calibrated; what workers make of it is a `manifests.Calibrated`."""

    method: CalibratedBy
    """From texts that say nothing (`contextual`), from texts of the endpoint's own kind (`unlabelled`), or from such
    texts with their right labels (`fitted`)."""
    texts: Annotated[list[_Text], Meta(max_length=MAX_TEXTS)] = []
    """As events bring them in the field that is text, for `unlabelled` and `fitted`: 8 or more."""
    labels: Annotated[list[Label], Meta(max_length=MAX_TEXTS)] = []
    """The right one of each text, for `fitted`."""
    file: str = ""
    """In place of `texts`: where they are, relative to the manifest's file. A `.txt` with one a line, or a `.jsonl`
    with `text`, and for `fitted` with `label`. Empty once it is applied."""
    around: Annotated[list[str], Meta(min_length=2)] = msgspec.field(default_factory=lambda: ["", ""])
    """Written by `apply`: what the endpoint's template puts before a text, between two of it, and after it."""

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
"""As people write it. `auto`, like nothing at all: contextual where labels are chosen and no trained guidance acts."""


def labels_of(rule: OutputRule) -> list[str]:
    """What is chosen from, for rules that can be calibrated; each once."""
    match rule:
        case Choice(labels) | WordLabels(labels):
            return list(dict.fromkeys(labels))
        case Boolean(spelling):
            return spelling.split("/")
    return []


def automatic(rule: OutputRule, *, is_taught: bool) -> Calibration | None:
    """What `auto` comes to. is_taught: trained guidance acts on the labels, or passages stand in the text."""
    return Calibration(method="contextual") if 2 <= len(labels_of(rule)) <= MAX_LABELS and not is_taught else None
