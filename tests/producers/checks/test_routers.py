"""Which routers `apply` refuses, with what to change."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guideway.catalogue.changes import catalogue_records, plan_changes, plan_deletion
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.routing import Candidates, candidates, router_of
from guideway.producers.checks.check import check_manifests
from guideway.producers.checks.references import broken_by
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.router import MAX_EXAMPLES, Router, RoutingByModel, RoutingExamples, RoutingRule
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.output import Boolean
from guideway.schemas.wire import MANIFEST, Undecodable


def endpoint(namespace: str, name: str, description: str = "", access: list[str] | None = None) -> Endpoint:
    return Endpoint(
        namespace=namespace,
        name=name,
        model_size="small",
        description=description,
        output=Boolean(),
        access=access or [],
    )


THERE: tuple[Manifest, ...] = (
    Model(namespace="public", name="small", source="x"),
    endpoint("desk", "mood", "Whether a review is good"),
    endpoint("desk", "bare"),
    endpoint("library", "address", "The parts of an address", ["desk"]),
    endpoint("library", "secret", "For the library alone"),
    endpoint("public", "number", "The number in a sentence"),
)
RULE = RoutingRule(when="text", endpoint="/desk/mood")
ALL = ["/desk/mood", "/library/address", "/public/number"]


def catalogue_of(*manifests: Manifest) -> Catalogue:
    made = Catalogue()
    for topic, key, value in catalogue_records(plan_changes(made, manifests)):
        made.absorb(topic, key, value)
    return made


def router(**fields: Any) -> Router:
    return Router(namespace="desk", name="router", **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"rules": [RULE]},
        {"endpoints": ALL, "rules": [RoutingRule(when="text", endpoint="/library/address")]},
        {"endpoints": ALL, "model": RoutingByModel(), "model_size": "small"},
        {
            "endpoints": ALL,
            "examples": RoutingExamples(texts={"/desk/mood": ["a"], "/public/number": ["b"]}),
            "model_size": "small",
        },
        {"examples": RoutingExamples(texts={"/desk/mood": ["a"]}, none=["b"]), "model_size": "small"},
    ],
    ids=str,
)
def test_a_router_that_can_work_is_taken(fields: dict[str, Any]) -> None:
    check_manifests([router(**fields)], catalogue_of(*THERE))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"rules": [RoutingRule(when="text ==", endpoint="/desk/mood")]}, "not JMESPath"),
        ({"rules": [RoutingRule(when="text", endpoint="/desk/moon")]}, "no endpoint /desk/moon"),
        ({"rules": [RoutingRule(when="text", endpoint="/desk/bare")]}, "with a `description`"),
        ({"endpoints": ALL, "rules": [RoutingRule(when="text", endpoint="/desk/bare")]}, "none of this router's"),
        ({"endpoints": ["/library/secret"], "rules": [RULE]}, "may not call /library/secret"),
        ({"endpoints": ["/library/absent"], "rules": [RULE]}, "may not call /library/absent"),
        ({"endpoints": ALL, "model": RoutingByModel(), "model_size": "smal"}, "did you mean small"),
        ({"model": RoutingByModel(), "model_size": "small"}, "one endpoint only"),
        ({"endpoints": [*ALL, "/desk/bare"], "model": RoutingByModel(), "model_size": "small"}, "has none"),
        (
            {"examples": RoutingExamples(texts={"/desk/nod": ["a"]}, none=["b"]), "model_size": "small"},
            "no endpoint /desk/nod",
        ),
    ],
    ids=str,
)
def test_a_router_that_cannot_work_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why) as refused:
        check_manifests([router(**fields)], catalogue_of(*THERE))
    assert refused.value.code is FailureCode.INVALID_MANIFEST


def test_a_router_without_any_candidate_is_refused() -> None:
    bare = catalogue_of(THERE[0], endpoint("desk", "bare"))
    with pytest.raises(Refusal, match="no endpoint to choose from"):
        check_manifests([router(rules=[RULE])], bare)


def test_two_endpoints_with_the_same_description_cannot_be_told_apart_by_the_model() -> None:
    twin = endpoint("desk", "twin", "whether a REVIEW\n is good")
    chosen = router(endpoints=["/desk/mood", "/desk/twin"], model=RoutingByModel(), model_size="small")
    with pytest.raises(Refusal, match="same description"):
        check_manifests([chosen], catalogue_of(*THERE, twin))
    # Rules do not read it.
    check_manifests([msgspec.structs.replace(chosen, model=None, rules=[RULE])], catalogue_of(*THERE, twin))


def test_the_candidates_are_what_is_there_and_allowed() -> None:
    catalogue = catalogue_of(*THERE)
    assert [*candidates(router(rules=[RULE]), catalogue)] == ["/desk/mood"]
    named = ["/public/number", "/library/secret", "/library/address", "/desk/gone", "/desk/bare"]
    assert [*candidates(router(endpoints=named, rules=[RULE]), catalogue)] == [
        "/public/number",
        "/library/address",
        "/desk/bare",
    ]


def test_candidates_are_looked_up_anew_where_the_catalogue_has_changed() -> None:
    catalogue, among, made = catalogue_of(*THERE), Candidates(), router(rules=[RULE])
    first = among.of(made, catalogue)
    assert [*first] == ["/desk/mood"]
    assert among.of(made, catalogue) is first
    other = router(endpoints=["/public/number"], rules=[RULE])
    assert [*among.of(other, catalogue)] == ["/public/number"]
    catalogue.absorb(*catalogue_records(plan_changes(catalogue, [endpoint("desk", "new", "another")]))[0])
    assert [*among.of(made, catalogue)] == ["/desk/mood", "/desk/new"]


def test_a_namespace_has_one_router_or_none() -> None:
    made = router(rules=[RULE])
    catalogue = catalogue_of(*THERE, made)
    assert router_of(catalogue, "desk") == (1, made)
    with pytest.raises(Refusal, match="namespace library has no router") as refused:
        router_of(catalogue, "library")
    assert refused.value.code is FailureCode.NO_ROUTE


MANY = ",".join(['"x"'] * MAX_EXAMPLES)
RULES = '"rules":[{"when":"text","endpoint":"/a/b"}]'


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (f'"name":"mine",{RULES}', "its name is 'router'"),
        ('"name":"router"', "no method"),
        ('"name":"router","model":{}', "name their `model_size`"),
        ('"name":"router","rules":[{"when":"text","endpoint":"a/b"}]', "regex"),
        ('"name":"router","rules":[{"when":"text","endpoint":"/a/../b"}]', "regex"),
        ('"name":"router","rules":[{"when":"text","endpoint":"gw.a.call.v1"}]', "regex"),
        ('"name":"router","rules":[{"when":"text","endpoint":"/a/\u043e"}]', "regex"),
        ('"name":"router","rules":[{"when":"","endpoint":"/a/b"}]', "length >= 1"),
        ('"name":"router","model":{"least_score":2},"model_size":"small"', "<= 1"),
        ('"name":"router","examples":{"texts":{}},"model_size":"small"', "length >= 1"),
        ('"name":"router","examples":{"texts":{"/a/b":[]}},"model_size":"small"', "length >= 1"),
        ('"name":"router","examples":{"texts":{"/a/b":["x"]}},"model_size":"small"', "of one endpoint only"),
        (
            f'"name":"router","examples":{{"texts":{{"/a/b":[{MANY}]}},"none":["y"]}},"model_size":"small"',
            "at most 2,000",
        ),
    ],
)
def test_what_is_no_router_is_refused(fields: str, why: str) -> None:
    with pytest.raises(Undecodable, match=why):
        MANIFEST.decode(f'{{"kind":"router/v1","namespace":"a",{fields}}}'.encode())


def test_whoever_deletes_what_a_router_names_is_told() -> None:
    named = router(endpoints=["/desk/mood", "/public/number"], rules=[RULE])
    catalogue = catalogue_of(*THERE, named)
    gone = plan_deletion(catalogue, Identity("endpoint", "desk", "mood"), [1])
    [(one, why)] = broken_by(gone, catalogue)
    assert one == named
    assert "there is no endpoint /desk/mood" in why
    assert broken_by(plan_deletion(catalogue, Identity("endpoint", "desk", "bare"), [1]), catalogue) == []


def test_a_router_cannot_send_events_to_a_general_address() -> None:
    """So there are no loops."""
    with pytest.raises(Refusal, match="/desk/call"):
        check_manifests([router(rules=[RoutingRule(when="text", endpoint="/desk/call")])], catalogue_of(*THERE))
