"""What can be said of manifests before they are applied: whether every event would be refused. Pure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import msgspec

from guideway.catalogue.bounds import too_much
from guideway.catalogue.changes import Change, Deletion, plan, records
from guideway.catalogue.documents.conversion import leading
from guideway.catalogue.documents.faults import MAX_FOUND, Fault, Faulty, FieldPath, dotted, listed
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue, Identity, Kind
from guideway.catalogue.together import check_together
from guideway.producers.checks.check_input import check_input
from guideway.producers.checks.check_input import doubts as check_input_doubts
from guideway.producers.checks.satisfiable import check_satisfiable
from guideway.schemas import output
from guideway.schemas.failures import Refusal
from guideway.schemas.json_schema import keywords
from guideway.schemas.json_schema.places import BOUND_BY, endless
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.nearest import did_you_mean, nearest
from guideway.schemas.output import Json, WordLabels
from guideway.schemas.request import GuidanceRef
from guideway.schemas.wire import MANIFEST, Undecodable

Checks = Iterator[tuple[FieldPath, Callable[[], object]]]
"""Each raises ValueError or Refusal where something is wrong: at the place, unless the message says more."""
_SHOWN: Final = 4
"""Places of a schema that one sentence names."""


def check(manifests: Iterable[Manifest], catalogue: Catalogue) -> None:
    """Raises Faulty (invalid_manifest), which names the manifests and says what to change: all of it.

    References are looked up among these manifests and in the catalogue.
    """
    if found := faults([Source(Path(), manifest) for manifest in manifests], catalogue):
        raise Faulty(found)


def faults(sources: Sequence[Source], catalogue: Catalogue) -> list[Fault]:
    """What is wrong with these manifests, each with its file and line; of very many, not all."""
    return faults_alone(sources) or faults_together(sources, catalogue)


def faults_alone(sources: Sequence[Source]) -> list[Fault]:
    """What can be told without a catalogue."""
    return [*islice(_faults(sources, _written, _sized, _kept, _meant), MAX_FOUND)]


def faults_together(sources: Sequence[Source], catalogue: Catalogue) -> list[Fault]:
    """What the others say of them, these and the catalogue's; only where each is well alone."""
    planned = [change for source in sources for change in _planned(source.manifest, catalogue)]
    after = catalogue.after(records(planned))
    found = _faults(sources, partial(_planable, catalogue=catalogue))
    return [*islice(chain(found, _faults(sources, partial(_named, catalogue=after))), MAX_FOUND)]


def _faults(sources: Iterable[Source], *stages: Callable[[Manifest], Checks]) -> Iterator[Fault]:
    """A stage takes for granted that the manifest has passed those before it."""
    for source in sources:
        for stage in stages:
            if found := [fault for place, one in stage(source.manifest) for fault in _fault(source, place, one)]:
                yield from found
                break


def _fault(source: Source, place: FieldPath, one: Callable[[], object]) -> Iterator[Fault]:
    try:
        one()
    except (Refusal, ValueError) as error:
        message = error.message if isinstance(error, Refusal) else str(error)
        value = source.document.value if source.document is not None else None
        yield source.fault(message, leading(message, value, place))


def _planned(manifest: Manifest, catalogue: Catalogue) -> list[Change]:
    try:
        return plan(catalogue, [manifest])
    except Refusal:
        return []


def _planable(manifest: Manifest, catalogue: Catalogue) -> Checks:
    yield (), partial(plan, catalogue, [manifest])


def doubts(manifests: Iterable[Manifest]) -> Iterator[str]:
    """What is allowed and hardly meant, with the manifest's name."""
    return map(str, doubtful(Source(Path(), manifest) for manifest in manifests))


def doubtful(sources: Iterable[Source]) -> Iterator[Fault]:
    """What is allowed and hardly meant, with its file and line."""
    for source in sources:
        if isinstance(endpoint := source.manifest, Endpoint):
            rule = endpoint.retrieval
            used = {*filter(None, [rule.query, *rule.filter.values()])} if rule else set[str]()
            if isinstance(endpoint.output, WordLabels):
                used.add(endpoint.output.words_from)
            found = [*check_input_doubts(endpoint.input, used)]
            if isinstance(endpoint.output, Json):
                found += keywords.doubts(endpoint.output.schema)
                found += _outgrowing(endpoint.output.schema, endpoint.generation.max_tokens)
            if source.document is not None and isinstance(endpoint.output, Json):
                yield from _otherwise_written(source, endpoint.output.schema)
            value = source.document.value if source.document is not None else None
            yield from (source.fault(one, leading(one, value, ())) for one in found)


def _otherwise_written(source: Source, schema: Mapping[str, Any]) -> Iterator[Fault]:
    """Of values that a result may have, the numbers that are not written as JSON writes them: a postcode, a version."""
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
    after = catalogue.after(records(deletions))
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


def _written(manifest: Manifest) -> Checks:
    """Whether the catalogue's readers will read it."""
    yield (), partial(_check_written, manifest)


def _sized(manifest: Manifest) -> Checks:
    """Whether it is no more than they can bear."""
    for place, why in too_much(manifest):
        yield place, partial(_raise, why)


def _kept(manifest: Manifest) -> Checks:
    """Whether they read what was written."""
    yield (), partial(_check_kept, manifest)


def _meant(manifest: Manifest) -> Checks:
    """Whether events can become texts, and texts results."""
    if isinstance(manifest, Endpoint):
        yield ("input",), partial(check_input, manifest.input)
        yield ("output",), partial(_check_output, manifest)


def _raise(why: str) -> None:
    raise ValueError(why)


def _check_written(manifest: Manifest) -> None:
    try:
        MANIFEST.decode(MANIFEST.encode(manifest))
    except Undecodable:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"it cannot be written as JSON: {error}") from None


def _check_kept(manifest: Manifest) -> None:
    if MANIFEST.decode(MANIFEST.encode(manifest)) != manifest:
        raise ValueError(
            "it holds a value that JSON does not have (an infinite number, a date, a key that is no text): write it as "
            "a number or as text"
        )


def _named(endpoint: Manifest, catalogue: Catalogue) -> Checks:
    """Whether what an endpoint names is there, may be used by it, and goes together."""
    if not isinstance(endpoint, Endpoint):
        return
    yield ("model_size",), partial(catalogue.model, endpoint.model_size)
    yield ("guidance",), partial(_check_together, endpoint, catalogue)
    size = catalogue.latest(Identity("model", "public", endpoint.model_size))
    model = size[1] if size is not None and isinstance(size[1], Model) else None
    if model is not None:
        yield ("generation", "max_tokens"), partial(_check_length, endpoint, model.max_context_tokens)
    for field, named in (("guidance", endpoint.guidance), ("request_guidance", endpoint.request_guidance)):
        for number, name in enumerate(named):
            yield (field, number), partial(_check_guidance, name, endpoint, model, catalogue)
    if (rule := endpoint.retrieval) is not None:
        for field, sets in (("sets", rule.sets), ("request_sets", rule.request_sets)):
            for number, name in enumerate(sets):
                yield ("retrieval", field, number), partial(_check_set, name, endpoint, catalogue)
    for number, target in enumerate(endpoint.targets):
        yield ("targets", number), partial(_check_target, target, endpoint, catalogue)


def _check_output(endpoint: Endpoint) -> None:
    output.check(endpoint.output, endpoint.generation.stop)
    check_satisfiable(endpoint.output)


def _check_together(endpoint: Endpoint, catalogue: Catalogue) -> None:
    """What is not there is another check's."""
    own = _there(endpoint.guidance, endpoint, catalogue)
    check_together(own)
    for one in _there(endpoint.request_guidance, endpoint, catalogue):
        # Each as an event would bring it.
        check_together([*own, one])


def _there(names: Iterable[str], endpoint: Endpoint, catalogue: Catalogue) -> list[tuple[GuidanceRef, Guidance]]:
    found = []
    for name in names:
        with contextlib.suppress(Refusal):
            found.append(catalogue.guidance(name, for_namespace=endpoint.namespace))
    return found


def _check_guidance(name: str, endpoint: Endpoint, model: Model | None, catalogue: Catalogue) -> None:
    with _near(name, partial(_names, "guidance", catalogue)):
        _, guidance = catalogue.guidance(name, for_namespace=endpoint.namespace)
    if model is not None:
        _check_fits(name, guidance, endpoint.model_size, model.fingerprint)


def _check_set(name: str, endpoint: Endpoint, catalogue: Catalogue) -> None:
    assert endpoint.retrieval is not None
    with _near(name, partial(_names, "set", catalogue)):
        _, found = catalogue.retrieval_set(name, for_namespace=endpoint.namespace)
    _check_filter(name, endpoint.retrieval.filter, found.metadata)


def _check_target(target: str, endpoint: Endpoint, catalogue: Catalogue) -> None:
    catalogue.endpoint(endpoint.namespace, target)


def _names(kind: Kind, catalogue: Catalogue) -> list[str]:
    return [f"{one.namespace}/{one.name}" for one in catalogue.identities(kind)]


@contextlib.contextmanager
def _near(word: str, known: Callable[[], Sequence[str]]) -> Iterator[None]:
    """What is not there is told with what has nearly its name."""
    try:
        yield
    except Refusal as refusal:
        plain = re.split(r"[@*]", word)[0]
        names = known()
        near = "" if plain in names else did_you_mean(plain, names)
        raise Refusal(refusal.code, f"{refusal.message}{f'; {near.rstrip()}' if near else ''}") from None


def _check_filter(name: str, wanted: Iterable[str], known: Sequence[str]) -> None:
    """Raises ValueError for a filter by metadata that no passage has."""
    for key in wanted:
        if known and key not in known:
            near = nearest(key, known)
            meant = f"did you mean {near!r}? " if near is not None else ""
            raise ValueError(
                f"retrieval.filter: no passage of set {name} has metadata {key!r}; {meant}it has {listed(known)}"
            )


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
