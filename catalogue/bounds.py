"""Bounds on manifests. Each is far above what is useful, and keeps one manifest from slowing down others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from guideway.catalogue.documents.faults import FieldPath, dotted
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model, RetrievalSet
from guideway.schemas.output import Json
from guideway.schemas.request import MAX_GUIDANCE

MAX_MANIFEST_BYTES: Final = 1_000_000
"""As JSON. Kafka's clients send at most about this much at once, and every request carries much of its endpoint."""
MAX_SCHEMA_BYTES: Final = 256 * 2**10
MAX_TEXT_CHARS: Final = 100_000
"""The longest instruction, text prompt or input template."""
MAX_DESCRIPTION_CHARS: Final = 10_000
MAX_FIELDS: Final = 256
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
