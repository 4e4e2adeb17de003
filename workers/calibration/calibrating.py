"""A calibration → the texts to run through the model, and from its answers the biases of the labels. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from guideway.schemas.calibration import Calibration, labels_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.output import WordLabels
from guideway.schemas.request import Part, Request
from guideway.workers.calibration.content_free import kinds
from guideway.workers.calibration.label_shares import Parting, agreed, fitted, usual
from guideway.workers.messages.from_engine import Finished

OF_THE_TEXT: Final = {FailureCode.TEXT_TOO_LONG, FailureCode.OUTPUT_INCOMPLETE, FailureCode.OUTPUT_UNSATISFIABLE}
"""Codes that concern one text only: if a text is refused with one of them, the other texts are used."""


class Made(msgspec.Struct, frozen=True):
    """Biases, and how many texts they were computed from."""

    biases: dict[str, float]
    """Label → what is added to its log-likelihood."""
    texts: int


def asked(rule: Calibration, request: Request) -> list[list[Request]]:
    """The requests to run, by kind of text. Each is like `request`, with another text in place of its own."""
    texts = kinds(labels_of(request.output)) if rule.method == "contextual" else [rule.texts]
    return [[_about(request, text.join(rule.around), text) for text in some] for some in texts]


def made_of(rule: Calibration, request: Request, ends: Sequence[Sequence[Finished | Refusal]]) -> Made:
    """The biases of the request's labels. ends: the results of `asked(rule, request)`, run with partings.

    Raises: Refusal if no text reached a place where labels part.
    """
    labels = labels_of(request.output)
    found = [[_partings(end) for end in some] for some in ends]
    if not any(partings for some in found for partings in some):
        refusals = [end for some in ends for end in some if isinstance(end, Refusal)]
        nothing = Refusal(
            FailureCode.OUTPUT_UNSATISFIABLE, "nothing is known of its labels: write `calibration: off` in the endpoint"
        )
        raise next(iter(refusals), nothing)
    texts = sum(map(len, found))
    match rule.method:
        case "contextual":
            return Made(agreed([_all(some) for some in found], labels), texts)
        case "unlabelled":
            return Made(usual(_all(found[0]), labels), texts)
        case "fitted":
            return Made(fitted(zip(found[0], rule.labels, strict=True), labels), texts)


def _about(request: Request, text: str, words: str) -> Request:
    """The request with another text. It is decoded greedily and uses no passages. words: to label, for word labels."""
    given = Part(kind="input", source="caller", text=text)
    return msgspec.structs.replace(
        request,
        id=f"calibration of {request.endpoint}",
        parts=[*(part for part in request.parts if part.kind == "instruction"), given],
        words=words.split() if isinstance(request.output, WordLabels) else [],
        generation=Generation(max_tokens=request.generation.max_tokens),
        deadline_ms=None,
        retrieval=None,
    )


def _partings(end: Finished | Refusal) -> list[Parting]:
    return [*end.samples[0].partings] if isinstance(end, Finished) else []


def _all(rows: Iterable[Iterable[Parting]]) -> list[Parting]:
    return [parting for partings in rows for parting in partings]
