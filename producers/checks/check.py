"""Checks manifests before they are applied, for faults that would refuse every event. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path

from guideway.catalogue.bounds import LONGEST_TOKEN, too_much
from guideway.catalogue.changes import Change, catalogue_records, plan_changes
from guideway.catalogue.documents.conversion import leading
from guideway.catalogue.documents.faults import MAX_FOUND, Fault, Faulty, FieldPath
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.limits import beyond, partitions_beyond
from guideway.producers.checks.check_input import check_input
from guideway.producers.checks.check_message import check_output_message
from guideway.producers.checks.references import Checks, reference_checks
from guideway.producers.checks.routers import rule_checks
from guideway.producers.checks.satisfiable import always, check_satisfiable
from guideway.schemas.failures import Refusal
from guideway.schemas.json_schema.shortest import fewest_of_pattern, fewest_of_schema
from guideway.schemas.kinds.router import Router
from guideway.schemas.kinds.targets import Target
from guideway.schemas.manifests import Endpoint, Manifest
from guideway.schemas.output import Json, OutputRule, Regex, check_output_rule, check_told
from guideway.schemas.retrieval import RetrievalRule, named_twice
from guideway.schemas.wire import MANIFEST, Undecodable


def check_manifests(manifests: Iterable[Manifest], catalogue: Catalogue) -> None:
    """Raises Faulty (invalid_manifest) with all faults: the manifests, and what to change in them.

    References are found among these manifests and in the catalogue.
    """
    if found := faults([Source(Path(), manifest) for manifest in manifests], catalogue):
        raise Faulty(found)


def faults(sources: Sequence[Source], catalogue: Catalogue, compiles: Callable[[str], bool] = always) -> list[Fault]:
    """The faults of these manifests, each with its file and line; at most `MAX_FOUND`. compiles: as `faults_alone`."""
    return faults_alone(sources, compiles) or faults_together(sources, catalogue)


def faults_alone(sources: Sequence[Source], compiles: Callable[[str], bool] = always) -> list[Fault]:
    """The faults that can be found without a catalogue. compiles: as `check_satisfiable`."""
    return [*islice(_faults(sources, _written, _sized, _kept, partial(_meant, compiles=compiles)), MAX_FOUND)]


def faults_together(sources: Sequence[Source], catalogue: Catalogue) -> list[Fault]:
    """The faults of references among these manifests and to the catalogue, and what is beyond the limits of a
    namespace. Each manifest must have none alone."""
    planned = [change for source in sources for change in _planned(source.manifest, catalogue)]
    after = catalogue.after(catalogue_records(planned))
    found = _faults(sources, partial(_planable, catalogue=catalogue))
    endpoints_beyond = lru_cache(partial(beyond, after))
    too_many_partitions = lru_cache(partial(partitions_beyond, catalogue, after))

    def within_limits(manifest: Manifest) -> Checks:
        why = ""
        if isinstance(manifest, Endpoint):
            why = endpoints_beyond(manifest.namespace).get(manifest.name, "")
        if isinstance(manifest, Endpoint | Target):
            why = why or too_many_partitions(manifest.namespace)
        if why:
            yield (), partial(_raise, why)

    stages = within_limits, partial(reference_checks, catalogue=after)
    return [*islice(chain(found, _faults(sources, *stages)), MAX_FOUND)]


def _faults(sources: Iterable[Source], *stages: Callable[[Manifest], Checks]) -> Iterator[Fault]:
    """The faults of each manifest's first stage that has any: a stage relies on those before it."""
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
        return plan_changes(catalogue, [manifest])
    except Refusal:
        return []


def _planable(manifest: Manifest, catalogue: Catalogue) -> Checks:
    yield (), partial(plan_changes, catalogue, [manifest])


def _written(manifest: Manifest) -> Checks:
    """Whether readers of the catalogue can decode it."""
    yield (), partial(_check_written, manifest)


def _sized(manifest: Manifest) -> Checks:
    """Whether it keeps the bounds."""
    for place, why in too_much(manifest):
        yield place, partial(_raise, why)


def _kept(manifest: Manifest) -> Checks:
    """Whether it is the same when it is read back."""
    yield (), partial(_check_kept, manifest)


def _meant(manifest: Manifest, compiles: Callable[[str], bool]) -> Checks:
    """Whether events can become texts, texts can become results, and rules can hold."""
    if isinstance(manifest, Endpoint):
        yield ("input",), partial(check_input, manifest.input)
        yield ("output",), partial(_check_output, manifest, compiles)
        if (rule := manifest.retrieval) is not None:
            yield ("retrieval", "sets"), partial(_check_sets, rule)
        if manifest.output_message:
            yield ("output_message",), partial(check_output_message, manifest)
    elif isinstance(manifest, Router):
        yield from rule_checks(manifest)


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


def _check_sets(rule: RetrievalRule) -> None:
    # Each one alone, as an event may name it.
    for also in ([], *([one] for one in rule.request_sets)):
        if why := named_twice([*rule.sets, *also]):
            raise ValueError(f"retrieval.sets: {why}")


def _check_output(endpoint: Endpoint, compiles: Callable[[str], bool]) -> None:
    check_output_rule(endpoint.output, endpoint.generation.stop)
    own, asked = endpoint.generation, endpoint.request_generation
    check_told(
        endpoint.output,
        max_tokens=max(own.max_tokens, asked.max_tokens or 0),
        samples=max(own.samples, asked.samples or 0),
    )
    _check_ends(endpoint.output, max(own.max_tokens, asked.max_tokens or 0))
    check_satisfiable(endpoint.output, compiles)


def _check_ends(rule: OutputRule, max_tokens: int) -> None:
    """Refuse a rule of which no text ever ends in time, however long the tokens are; `doubts` tells the rest."""
    what = "output.schema" if isinstance(rule, Json) else "output.pattern"
    least = fewest_of_schema(rule.schema) if isinstance(rule, Json) else 0
    least = fewest_of_pattern(rule.pattern) if isinstance(rule, Regex) else least
    if least > LONGEST_TOKEN * max_tokens:
        raise ValueError(
            f"{what} has results of at least {least:,} characters, and none ends within {max_tokens} tokens: raise "
            "generation.max_tokens, or make them shorter"
        )
