"""Warnings: what a manifest may say but is probably a mistake. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from guideway.catalogue.documents.conversion import leading
from guideway.catalogue.documents.faults import Fault, FieldPath, dotted
from guideway.catalogue.documents.manifest_files import Source
from guideway.producers.checks.check_input import input_doubts
from guideway.schemas.json_schema.keywords import schema_doubts
from guideway.schemas.json_schema.places import BOUND_BY, endless
from guideway.schemas.manifests import Endpoint, Manifest
from guideway.schemas.output import Json, WordLabels

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
            found = [*input_doubts(endpoint.input, used)]
            if isinstance(endpoint.output, Json):
                found += schema_doubts(endpoint.output.schema)
                found += _outgrowing(endpoint.output.schema, endpoint.generation.max_tokens)
            if source.document is not None and isinstance(endpoint.output, Json):
                yield from _otherwise_written(source, endpoint.output.schema)
            value = source.document.value if source.document is not None else None
            yield from (source.fault(one, leading(one, value, ())) for one in found)


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
