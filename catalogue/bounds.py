"""Bounds on manifests. Most are far above what is useful, and keep one manifest from slowing down others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from guideway.catalogue.documents.faults import FieldPath, dotted
from guideway.schemas.generation import Generation
from guideway.schemas.kinds.retrieval_set import RetrievalSet
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.output import Json
from guideway.schemas.request import MAX_GUIDANCE
from guideway.schemas.retrieval import RetrievalRule

MAX_MANIFEST_BYTES: Final = 1_000_000
"""As JSON. Kafka's clients send at most about this much at once, and every request carries much of its endpoint."""
MAX_SCHEMA_BYTES: Final = 256 * 2**10
MAX_TEXT_CHARS: Final = 100_000
"""The longest instruction, text prompt or input template."""
MAX_DESCRIPTION_CHARS: Final = 10_000
MAX_FIELDS: Final = 256
MAX_DESCRIPTORS_CHARS: Final = 90_000
"""Of the descriptors of a Protobuf message: `protobuf.descriptor_set.MAX_BYTES` in base64."""
MAX_REQUEST_GUIDANCE: Final = 1000
MAX_TARGETS: Final = 32
"""The most targets of an endpoint. Each gets a copy of every result."""
MAX_FILTERS: Final = 32
MAX_GRANTEES: Final = 1000
MAX_SOURCE_CHARS: Final = 1000
MAX_CONTEXT_TOKENS: Final = 2**24
MIN_DEADLINE_S: Final = 0.001
MAX_DEADLINE_S: Final = 366 * 24 * 3600.0


def too_much(manifest: Manifest) -> Iterator[tuple[FieldPath, str]]:
    """(place, message) for each bound that the manifest exceeds."""
    for place, measure, found, most in measured(manifest):
        if found > most:
            unit = " in bytes" if measure == SIZE else ""
            what = f"{measure} {dotted(place) or 'the manifest'}{unit}".lstrip()
            yield place, f"{what} is {found:,}, and at most {most:,} is allowed: reduce it"
    match manifest:
        case Endpoint(deadline_s=float() as deadline_s) if not MIN_DEADLINE_S <= deadline_s <= MAX_DEADLINE_S:
            yield (
                ("deadline_s",),
                f"deadline_s is {deadline_s:g}: choose one from {MIN_DEADLINE_S:g} to {MAX_DEADLINE_S:.0f} seconds",
            )


def check_answer_fits(what: str, tokens: int, model: Model) -> None:
    """Raises ValueError where an answer of so many tokens leaves none for the text. what: for the message."""
    if tokens >= model.max_context_tokens:
        raise ValueError(
            f"{what} is {tokens}, and model size {model.name} has {model.max_context_tokens} tokens for the text and "
            "its answer together: lower it"
        )


def check_passages_fit(rule: RetrievalRule, generation: Generation, model: Model) -> None:
    """Raises ValueError where as many tokens of passages as may be leave none for the text."""
    passages, answer, most = rule.max_tokens, generation.max_tokens, model.max_context_tokens
    if answer < most <= passages + answer:
        raise ValueError(
            f"retrieval.max_tokens is {passages} and generation.max_tokens {answer}, and model size {model.name} has "
            f"{most} tokens for passages, text and answer together: where passages fill their part, none is left for "
            "the text; lower one of them"
        )


LONGEST_TOKEN: Final = 1024
"""In characters; the longest in vocabularies of models have 128, of white space."""


def check_text_fits(virtual: int, chars: int, *, passages: int, answer: int, model: Model) -> None:
    """Raises ValueError where what stands beside each text leaves no token for it; passages may fill their part.

    virtual: how many virtual tokens guidance has. chars: of all other text that is there whatever an event says.
    """
    text, most = chars // LONGEST_TOKEN, model.max_context_tokens
    if passages + answer < most <= virtual + text + passages + answer:
        fixed = f"{chars:,} characters of instruction, text prompts and template"
        beside = [
            (virtual, f"{virtual} virtual tokens of guidance"),
            (text, fixed),
            (passages, f"{passages} of passages"),
        ]
        raise ValueError(
            f"{', '.join(what for count, what in beside if count)} and an answer of {answer} tokens leave none of the "
            f"{most} of model size {model.name} for the text: lower one of them"
        )


LENGTH: Final = "the length of"
NUMBER: Final = "the number of"
SIZE: Final = "the size of"
"""In bytes, as JSON."""


def measured(manifest: Manifest) -> Iterator[tuple[FieldPath, str, int, int]]:
    """(place, measure, how much, at most) for each thing that the types do not bound; the whole manifest last."""
    yield ("description",), LENGTH, len(manifest.description), MAX_DESCRIPTION_CHARS
    match manifest:
        case Endpoint(input=rule, output=output, retrieval=retrieval):
            yield ("instruction",), LENGTH, len(manifest.instruction), MAX_TEXT_CHARS
            yield ("input", "template"), LENGTH, len(rule.template), MAX_TEXT_CHARS
            yield ("input", "fields"), NUMBER, len(rule.fields), MAX_FIELDS
            yield ("input", "descriptors"), LENGTH, len(rule.descriptors), MAX_DESCRIPTORS_CHARS
            yield ("guidance",), NUMBER, len(manifest.guidance), MAX_GUIDANCE
            yield ("request_guidance",), NUMBER, len(manifest.request_guidance), MAX_REQUEST_GUIDANCE
            yield ("targets",), NUMBER, len(manifest.targets), MAX_TARGETS
            if retrieval is not None:
                yield ("retrieval", "filter"), NUMBER, len(retrieval.filter), MAX_FILTERS
            if isinstance(output, Json):
                yield ("output", "schema"), SIZE, len(msgspec.json.encode(output.schema)), MAX_SCHEMA_BYTES
        case Guidance():
            yield ("text",), LENGTH, len(manifest.text), MAX_TEXT_CHARS
            yield ("shared_with",), NUMBER, len(manifest.shared_with), MAX_GRANTEES
        case RetrievalSet():
            yield ("shared_with",), NUMBER, len(manifest.shared_with), MAX_GRANTEES
        case Model():
            yield ("source",), LENGTH, len(manifest.source), MAX_SOURCE_CHARS
            yield ("max_context_tokens",), "", manifest.max_context_tokens, MAX_CONTEXT_TOKENS
    yield (), SIZE, len(msgspec.json.encode(manifest)), MAX_MANIFEST_BYTES
