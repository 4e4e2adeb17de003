"""Warnings: what a manifest may say but is probably a mistake. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from guideway.catalogue.documents.conversion import leading
from guideway.catalogue.documents.faults import Fault, FieldPath, dotted
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.targets.recipients import target_topic
from guideway.producers.checks.check_input import input_doubts
from guideway.producers.events.unseen import UNSEEN
from guideway.schemas.json_schema.keywords import parts, schema_doubts
from guideway.schemas.json_schema.places import BOUND_BY, endless
from guideway.schemas.json_schema.shortest import fewest_of_pattern, fewest_of_schema
from guideway.schemas.json_schema.values import unused
from guideway.schemas.kinds.targets import WebhookUse
from guideway.schemas.manifests import Endpoint, Manifest
from guideway.schemas.output import Boolean, Choice, Json, Regex, WordLabels, doubtful_target

CHARS_OF_TOKEN: Final = 8
_ITEMS_OF_TOKEN: Final = 2
"""More than texts have in the mean by far: an answer that needs more hardly ever ends in time."""
_JSON_OF_TOKEN: Final = 6
"""The same, of characters of JSON, much of which is names and punctuation."""
_SIGNS: Final = {"object": ("{", "}"), "array": ("[", "]"), "string": ('"',)}
"""Type → signs that its JSON has."""
_NO_BREAK: Final = re.compile(r"\\n(?![a-z])")
"""Not as in `\\nabla`, nor in a path."""
_SHOWN: Final = 4
"""The most places of a schema that one sentence names."""


def doubts(manifests: Iterable[Manifest]) -> Iterator[str]:
    """What is allowed but is probably a mistake, with the manifest's name."""
    return map(str, doubtful(Source(Path(), manifest) for manifest in manifests))


def doubtful(sources: Iterable[Source]) -> Iterator[Fault]:
    """What is allowed but is probably a mistake, with its file and line."""
    for source in sources:
        if isinstance(endpoint := source.manifest, Endpoint):
            rule = endpoint.retrieval
            used = {*filter(None, [rule.query, *rule.filter.values()])} if rule else set[str]()
            if isinstance(endpoint.output, WordLabels):
                used.add(endpoint.output.words_from)
            found = [*input_doubts(endpoint.input, used), *_unfilled(endpoint), *_idle(endpoint), *_repeated(endpoint)]
            found += _no_line_break(endpoint)
            most = max(endpoint.generation.max_tokens, endpoint.request_generation.max_tokens or 0)
            if isinstance(endpoint.output, Regex):
                found += _too_long_pattern("output.pattern", endpoint.output.pattern, most)
            if isinstance(endpoint.output, Json):
                found += schema_doubts(endpoint.output.schema)
                found += unused(endpoint.output.schema)
                found += _outgrowing(endpoint.output.schema, endpoint.generation.max_tokens)
                found += _too_long(endpoint.output.schema, most)
            if source.document is not None and isinstance(endpoint.output, Json):
                yield from _otherwise_written(source, endpoint.output.schema)
            value = source.document.value if source.document is not None else None
            yield from (source.fault(one, leading(one, value, ())) for one in found)


def _unfilled(endpoint: Endpoint) -> Iterator[str]:
    """A field in braces in the instruction, which is no template."""
    for name in endpoint.input.fields:
        if found := re.search(r"\{+ *" + re.escape(name) + r" *\}+", endpoint.instruction):
            yield f"instruction has {found[0]!r}, which stays as it is: fields go into input.template"


def _no_line_break(endpoint: Endpoint) -> Iterator[str]:
    """A backslash and an n where a new line is meant: only double quotes of YAML, TOML and JSON make one of them."""
    stops = (("generation.stop", one) for one in endpoint.generation.stop)
    for where, text in (("instruction", endpoint.instruction), ("input.template", endpoint.input.template), *stops):
        if found := _NO_BREAK.search(text):
            yield (
                f"{where} has {found[0]}, a backslash and an n, which is no new line: put it in double quotes, or "
                "write several lines"
            )


def _idle(endpoint: Endpoint) -> Iterator[str]:
    """What changes nothing, and labels that people do not tell apart."""
    generation, output = endpoint.generation, endpoint.output
    if generation.samples > 1 and not generation.temperature and endpoint.request_generation.temperature is None:
        yield f"generation.samples is {generation.samples} at temperature 0, where all samples are the same"
    if isinstance(output, Choice | Boolean) and output.min_confidence is not None:
        count = len(output.labels) if isinstance(output, Choice) else 2
        if output.min_confidence * count <= 1:
            yield (
                f"output.min_confidence {output.min_confidence:g} is never missed: the most probable of {count} labels "
                f"has at least {1 / count:.3g}"
            )
    for label in output.labels if isinstance(output, Choice) else ():
        if label != label.strip():
            yield f"output.labels has {label!r}, which begins or ends with white space: results have it too"
    signs = _SIGNS.get(str(output.schema.get("type")), ()) if isinstance(output, Json) else ()
    for one in generation.stop:
        if one in signs:
            yield f"generation.stop has {one!r}, which each result of output.schema has, so that none ends: remove it"
    yield from _alike(output.labels if isinstance(output, Choice | WordLabels) else ())


def _alike(labels: Iterable[str]) -> Iterator[str]:
    """Labels that look the same, or differ in their capital letters only: texts hardly tell which is meant."""
    known: dict[str, str] = {}
    for label in labels:
        letters = unicodedata.normalize("NFKC", "".join(one for one in label if one not in UNSEEN)).casefold()
        if (same := known.setdefault(letters, label)) != label:
            yield f"output.labels has {same!a} and {label!a}, which people hardly tell apart: is one of them a mistake?"


def _repeated(endpoint: Endpoint) -> Iterator[str]:
    """Targets that are named before: each gets one copy of a result."""
    topics: dict[str, str] = {}
    for one in endpoint.topic_targets:
        topic = target_topic(one, endpoint.namespace)
        if topic in topics:
            yield f"targets has {topics[topic]} and {one}, which are one topic: it gets one copy of each result"
        topics[topic] = one
    used = [one.webhook for one in endpoint.targets if isinstance(one, WebhookUse)]
    for name in endpoint.webhooks:
        if used.count(name) > 1:
            yield f"targets has webhook {name} {used.count(name)} times: each result is posted to it once"
    doubtful = doubtful_target(endpoint.output)
    if doubtful is not None and target_topic(doubtful, endpoint.namespace) in topics:
        yield f"output.below.target {doubtful} is one of `targets`, which get all results: leave one of them out"


def _otherwise_written(source: Source, schema: Mapping[str, Any]) -> Iterator[Fault]:
    """Numbers among the values of a result that JSON spells in another way, such as a postcode or a version."""
    waiting: list[tuple[FieldPath, Any]] = [(("output", "schema"), schema)]
    while waiting:
        place, part = waiting.pop()
        if isinstance(part, Mapping):
            waiting += [((*place, key), one) for key, one in part.items()]
        elif isinstance(part, list):
            waiting += [((*place, number), one) for number, one in enumerate(part)]
        elif isinstance(part, int | float) and not isinstance(part, bool) and {"enum", "const"} & {*place[-2:]}:
            written = source.document.written(place) if source.document is not None else ""
            if written and written != msgspec.json.encode(part).decode():
                yield source.fault(
                    f"{dotted(place)}: {written} is read as the number {part}: put it in quotes if it is text", place
                )


def _outgrowing(schema: Mapping[str, Any], max_tokens: int) -> Iterator[str]:
    """The parts that the schema does not bound, so that their text may need more than `max_tokens`."""
    found = [f"{where or 'the whole'} ({BOUND_BY[what]})" for where, what in endless(schema)]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        yield (
            f"output.schema does not bound {', '.join(found[:_SHOWN])}{more}: a reply that outgrows "
            f"generation.max_tokens ({max_tokens}) is a failure; add the keywords in brackets where you can"
        )


def _too_long(schema: Mapping[str, Any], max_tokens: int) -> Iterator[str]:
    """The parts that hardly ever end within `max_tokens`, or that the whole does not."""
    found = []
    for where, part, _ in parts(schema):
        for keyword, of_token in (("minLength", CHARS_OF_TOKEN), ("minItems", _ITEMS_OF_TOKEN)):
            least = part.get(keyword)
            if isinstance(least, int) and least > of_token * max_tokens:
                found.append(
                    f"output.schema{where} has {keyword} {least}, which hardly fits into {max_tokens} tokens: raise "
                    "generation.max_tokens, or lower it"
                )
        if isinstance(pattern := part.get("pattern"), str):
            found += _too_long_pattern(f"output.schema{where}.pattern", pattern, max_tokens)
    yield from found
    if not found and (least := fewest_of_schema(schema)) > _JSON_OF_TOKEN * max_tokens:
        yield (
            f"output.schema has results of at least {least:,} characters, which hardly fit into {max_tokens} tokens: "
            "raise generation.max_tokens, or require less"
        )


def _too_long_pattern(where: str, pattern: str, max_tokens: int) -> Iterator[str]:
    if (least := fewest_of_pattern(pattern)) > CHARS_OF_TOKEN * max_tokens:
        yield (
            f"{where} has texts of at least {least:,} characters, which hardly fit into {max_tokens} tokens: raise "
            "generation.max_tokens, or shorten it"
        )
