"""Checks a router before it is applied: its rules, and the endpoints that it names. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

from guideway.catalogue.documents.faults import FieldPath, listed
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.routing import candidates, endpoint_at
from guideway.producers.routing.rules import check_rule
from guideway.schemas.kinds.router import Router
from guideway.schemas.manifests import Endpoint
from guideway.schemas.nearest import did_you_mean

_Checks = Iterator[tuple[FieldPath, Callable[[], object]]]
"""As `references.Checks`."""


def rule_checks(router: Router) -> _Checks:
    """What can be said without a catalogue: whether each rule can hold for some event."""
    for number, rule in enumerate(router.rules):
        yield ("rules", number, "when"), partial(check_rule, rule)


def router_checks(router: Router, catalogue: Catalogue) -> _Checks:
    """Whether its endpoints are there, allow its namespace, and can be told apart."""
    for number, one in enumerate(router.endpoints):
        if _is_hidden(one, catalogue):
            continue
        yield ("endpoints", number), partial(endpoint_at, catalogue, one, caller=router.namespace)
    if router.model_size is not None:
        yield ("model_size",), partial(catalogue.model, router.model_size)
    among = candidates(router, catalogue)
    if not among and not any(_is_hidden(one, catalogue) for one in router.endpoints):
        yield ("endpoints",), partial(_raise, _no_candidate(router))
        return
    for number, rule in enumerate(router.rules):
        yield ("rules", number, "endpoint"), partial(_check_among, rule.endpoint, router, catalogue, among)
    if router.examples is not None:
        for one in router.examples.texts:
            yield ("examples", "texts", one), partial(_check_among, one, router, catalogue, among)
    if router.model is not None and not any(_is_hidden(one, catalogue) for one in router.endpoints):
        yield ("model",), partial(_check_described, among)


def _is_hidden(address: str, catalogue: Catalogue) -> bool:
    return address.strip("/").partition("/")[0] in catalogue.hidden


def _no_candidate(router: Router) -> str:
    return (
        "it has no endpoint to choose from: name some under `endpoints`, or give endpoints of namespace "
        f"{router.namespace} a `description`"
    )


def _check_among(one: str, router: Router, catalogue: Catalogue, among: dict[str, Endpoint]) -> None:
    """Refuse an endpoint that is not there, does not allow the router's namespace, or is none of `endpoints`."""
    if _is_hidden(one, catalogue) and one in router.endpoints:
        return
    endpoint_at(catalogue, one, caller=router.namespace)
    if one in among:
        return
    near = did_you_mean(one, among)
    if router.endpoints:
        raise ValueError(f"{one} is none of this router's `endpoints`: {near}add it there")
    raise ValueError(
        f"{one} is no endpoint of namespace {router.namespace} with a `description`, which are those that a router "
        f"without `endpoints` chooses from: {near}list all of them under `endpoints`"
    )


def _check_described(among: dict[str, Endpoint]) -> None:
    """The model tells endpoints apart by their descriptions alone."""
    if len(among) < 2:
        raise ValueError("the model has one endpoint only to choose from: name more under `endpoints`")
    if bare := [one for one, endpoint in among.items() if not endpoint.description.strip()]:
        raise ValueError(f"the model chooses by descriptions, and {listed(bare)} has none: give it a `description`")
    by_words: dict[str, list[str]] = defaultdict(list)
    for one, endpoint in among.items():
        by_words[" ".join(endpoint.description.casefold().split())].append(one)
    for same in by_words.values():
        if len(same) > 1:
            raise ValueError(f"{listed(same)} have the same description, by which the model cannot tell them apart")


def _raise(why: str) -> None:
    raise ValueError(why)
