"""What can be said of manifests before they are applied: whether every event would be refused. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from guideway.catalogue.bounds import too_much
from guideway.catalogue.entries import Catalogue, Deletion, Identity, plan
from guideway.catalogue.together import check_together
from guideway.producers.check_input import check_input
from guideway.producers.check_input import doubts as check_input_doubts
from guideway.producers.satisfiable import check_satisfiable
from guideway.schemas import json_schema, output
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.json_places import BOUND_BY, endless
from guideway.schemas.manifests import Endpoint, Guidance, Manifest
from guideway.schemas.output import Json, WordLabels
from guideway.schemas.wire import MANIFEST, Undecodable

_SHOWN: Final = 4
"""Places of a schema that one sentence names."""


def check(manifests: Iterable[Manifest], catalogue: Catalogue) -> None:
    """Raises Refusal(invalid_manifest), which names the manifest and says what to change.

    References are looked up among these manifests and in the catalogue.
    """
    manifests = list(manifests)
    for manifest in manifests:
        _check_written(manifest)
    after = catalogue.after(plan(catalogue, manifests))
    for manifest in manifests:
        if isinstance(manifest, Endpoint):
            try:
                _check_endpoint(manifest, after)
                check_satisfiable(manifest.output)
            except (Refusal, ValueError) as error:
                reason = error.message if isinstance(error, Refusal) else str(error)
                raise Refusal(FailureCode.INVALID_MANIFEST, f"endpoint {manifest.address}: {reason}") from None


def doubts(manifests: Iterable[Manifest]) -> Iterator[str]:
    """What is allowed and hardly meant, with the manifest's name."""
    for manifest in manifests:
        if isinstance(manifest, Endpoint):
            rule = manifest.retrieval
            used = {*filter(None, [rule.query, *rule.filter.values()])} if rule else set[str]()
            if isinstance(manifest.output, WordLabels):
                used.add(manifest.output.words_from)
            found = [*check_input_doubts(manifest.input, used)]
            if isinstance(manifest.output, Json):
                found += json_schema.doubts(manifest.output.schema)
                found += _outgrowing(manifest.output.schema, manifest.generation.max_tokens)
            yield from (f"endpoint {manifest.address}: {one}" for one in found)


def _outgrowing(schema: Mapping[str, Any], max_tokens: int) -> Iterator[str]:
    """What the schema sets no end to, so that its text may take more than `max_tokens`."""
    found = [f"{where or 'the whole'} ({BOUND_BY[what]})" for where, what in endless(schema)]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        yield (
            f"output.schema sets no end to {', '.join(found[:_SHOWN])}{more}: a reply that outgrows "
            f"generation.max_tokens ({max_tokens}) is a failure; bound what may be bounded by the keywords named"
        )


def broken_by(deletions: Iterable[Deletion], catalogue: Catalogue) -> list[tuple[Endpoint, str]]:
    """The endpoints that name something that would be gone, each with what is said of it then."""
    after = catalogue.after(deletions)
    found = []
    for _, manifest in after:
        if isinstance(manifest, Endpoint):
            before = _missing(manifest, catalogue)
            found += [(manifest, why) for name, why in _missing(manifest, after).items() if name not in before][:1]
    return found


def _missing(endpoint: Endpoint, catalogue: Catalogue) -> dict[str, str]:
    """What the endpoint names and may not use, or is not there → what an event is told of it."""
    rule, namespace = endpoint.retrieval, endpoint.namespace
    asked: dict[str, Callable[[], object]] = {}
    for name in [*endpoint.guidance, *endpoint.request_guidance]:
        asked[f"guidance {name}"] = partial(catalogue.guidance, name, for_namespace=namespace)
    for name in [*rule.sets, *rule.request_sets] if rule is not None else ():
        asked[f"set {name}"] = partial(catalogue.retrieval_set, name, for_namespace=namespace)
    for name in endpoint.targets:
        asked[f"target {name}"] = partial(catalogue.endpoint, namespace, name)
    missing = {}
    # Not `Catalogue.model`: it lists all sizes each time, and thousands of endpoints may name one.
    if catalogue.latest(Identity("model", "public", endpoint.model_size)) is None:
        missing["model"] = f"there is no model size {endpoint.model_size!r}"
    for what, ask in asked.items():
        try:
            ask()
        except Refusal as refusal:
            missing[what] = refusal.message
    return missing


def _check_written(manifest: Manifest) -> None:
    """Whether the catalogue's readers will read what was meant, and no more than they can bear."""
    name = str(Identity.of(manifest))
    try:
        same = MANIFEST.decode(MANIFEST.encode(manifest)) == manifest
    except Undecodable as error:
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{name}: {error}") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{name} cannot be written as JSON: {error}") from None
    if why := too_much(manifest):
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{name}: {why}")
    if not same:
        raise Refusal(
            FailureCode.INVALID_MANIFEST,
            f"{name} holds a value that JSON does not have (an infinite number, a date, a key that is no text): write "
            "it as a number or as text",
        )


def _check_endpoint(endpoint: Endpoint, catalogue: Catalogue) -> None:
    check_input(endpoint.input)
    output.check(endpoint.output, endpoint.generation.stop)
    model = catalogue.model(endpoint.model_size)
    _check_length(endpoint, model.max_context_tokens)
    own = [catalogue.guidance(name, for_namespace=endpoint.namespace) for name in endpoint.guidance]
    check_together(own)
    for name in endpoint.request_guidance:
        # Each as an event would bring it.
        check_together([*own, catalogue.guidance(name, for_namespace=endpoint.namespace)])
    for name in [*endpoint.guidance, *endpoint.request_guidance]:
        _, guidance = catalogue.guidance(name, for_namespace=endpoint.namespace)
        _check_fits(name, guidance, endpoint.model_size, model.fingerprint)
    if (rule := endpoint.retrieval) is not None:
        for name in [*rule.sets, *rule.request_sets]:
            _, found = catalogue.retrieval_set(name, for_namespace=endpoint.namespace)
            _check_filter(name, rule.filter, found.metadata)
    for target in endpoint.targets:
        catalogue.endpoint(endpoint.namespace, target)


def _check_filter(name: str, wanted: Iterable[str], known: Sequence[str]) -> None:
    """Raises ValueError for a filter by metadata that no passage has."""
    for key in wanted:
        if known and key not in known:
            (nearest, *_) = [*difflib.get_close_matches(key, known, 1), ""]
            meant = f"did you mean {nearest!r}? " if nearest else ""
            has = ", ".join(known[:20])
            raise ValueError(f"retrieval.filter: no passage of set {name} has metadata {key!r}; {meant}it has {has}")


def _check_length(endpoint: Endpoint, context_tokens: int) -> None:
    if endpoint.generation.max_tokens >= context_tokens:
        raise ValueError(
            f"generation.max_tokens is {endpoint.generation.max_tokens}, and model size {endpoint.model_size} has "
            f"{context_tokens} tokens for the text and its answer together: lower it"
        )


def _check_fits(name: str, guidance: Guidance, size: str, fingerprint: str | None) -> None:
    wanted = guidance.model_fingerprint
    if wanted is not None and fingerprint is not None and wanted != fingerprint:
        raise ValueError(
            f"guidance {name} was trained on another base model than that of size {size}: train it on that one; or, if "
            f"it was and is bound by a fingerprint of the former way, apply it with model_fingerprint {fingerprint}"
        )
