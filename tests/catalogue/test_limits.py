"""The limits of a namespace, as the catalogue has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from guideway.catalogue.changes import Change, Deletion, catalogue_records, plan_changes
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.limits import beyond, limits_of, said, used_of
from guideway.producers.checks.check import faults
from guideway.producers.intake.within_limits import WithinLimits
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation, RequestGeneration
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.targets import Target
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.output import Text
from guideway.schemas.wire import MANIFEST, Undecodable

SHOP = Namespace(namespace="public", name="shop", weight=2, requests_per_minute=600)


def catalogue_with(*versions: Namespace) -> Catalogue:
    changes = [Change(Identity.of(one), number, one, "created") for number, one in enumerate(versions, 1)]
    return Catalogue().after(catalogue_records(changes))


def test_a_namespace_without_a_manifest_has_no_limit() -> None:
    limits = limits_of(Catalogue(), "shop")
    assert (limits.name, limits.weight, limits.requests_per_minute, limits.over_limit) == ("shop", 1.0, None, "wait")


def test_the_newest_version_counts_until_it_is_deleted() -> None:
    catalogue = catalogue_with(SHOP, Namespace(namespace="public", name="shop", endpoints=3))
    assert limits_of(catalogue, "shop").endpoints == 3
    assert limits_of(catalogue, "other").endpoints is None
    gone = [(Deletion(Identity.of(SHOP), number, kept=number == 2)) for number in (1, 2)]
    assert limits_of(catalogue.after(catalogue_records(gone)), "shop") == Namespace(namespace="public", name="shop")


def test_limits_are_said_in_a_line() -> None:
    assert said(SHOP) == "weight 2, requests per minute 600, beyond it events wait"


def test_what_is_used_stands_before_its_limit() -> None:
    catalogue = with_endpoints(endpoint("a", partitions=3), endpoint("b"), endpoints=5, partitions=1000, rows=2)
    told = said(limits_of(catalogue, "shop"), used_of(catalogue, "shop"))
    assert told == "weight 1.0, rows 2, endpoints 2 of 5, partitions 4 of 1,000, beyond it events wait"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ('"namespace":"shop","name":"shop"', "belong to the platform"),
        ('"namespace":"public","name":"infer"', "reserved"),
        ('"namespace":"public","name":"shop","weight":0', "0.01"),
        ('"namespace":"public","name":"shop","weight":1e9', "100"),
        ('"namespace":"public","name":"shop","tokens_per_minute":0', ">= 1"),
        ('"namespace":"public","name":"shop","endpoints":-1', ">= 0"),
        ('"namespace":"public","name":"shop","over_limit":"drop"', "drop"),
        ('"namespace":"public","name":"../shop"', "regex"),
    ],
)
def test_what_is_no_limit_is_refused(fields: str, why: str) -> None:
    with pytest.raises(Undecodable, match=why):
        MANIFEST.decode(f'{{"kind":"namespace/v1",{fields}}}'.encode())


# Endpoints -----------------------------------------------------------------------------------------------------------


def endpoint(name: str, **fields: Any) -> Endpoint:
    return Endpoint(namespace="shop", name=name, model_size="small", output=Text(), **fields)


def with_endpoints(*endpoints: Manifest, **limits: Any) -> Catalogue:
    """A catalogue in which these were created one after the other."""
    catalogue = Catalogue()
    for one in (
        Model(namespace="public", name="small", source="s"),
        *endpoints,
        Namespace(namespace="public", name="shop", **limits),
    ):
        catalogue = catalogue.after(catalogue_records(plan_changes(catalogue, [one])))
    return catalogue


def test_without_limits_no_endpoint_is_beyond_them() -> None:
    assert not beyond(with_endpoints(*(endpoint(f"e{n}", partitions=1000) for n in range(20))), "shop")


def test_the_endpoints_that_were_created_first_stay_whatever_their_names_and_later_versions() -> None:
    catalogue = with_endpoints(
        endpoint("z"), endpoint("a"), endpoint("m"), endpoint("z", description="new"), endpoints=2
    )
    found = beyond(catalogue, "shop")
    assert list(found) == ["m"]
    assert found["m"].startswith("namespace shop may have 2 endpoints, and 2 were created before this one: delete one")


def test_whoever_reads_the_topic_later_finds_the_same_order() -> None:
    """Version 1 of `b` was deleted: who saw it and who came later agree that `b` is as old as its version 2."""
    catalogue = with_endpoints(endpoint("b"), endpoint("a"), endpoint("b", description="new"), endpoints=1)
    gone = Deletion(Identity("endpoint", "shop", "b"), 1, kept=False)
    assert list(beyond(catalogue, "shop")) == ["a"]
    assert list(beyond(catalogue.after(catalogue_records([gone])), "shop")) == ["b"]


def test_partitions_and_outputs_are_told_with_both_numbers() -> None:
    catalogue = with_endpoints(
        endpoint("a", partitions=3),
        endpoint("b", partitions=2),
        endpoint("c", partitions=1),
        endpoint("d", generation=Generation(max_tokens=101)),
        endpoint("e", request_generation=RequestGeneration(max_tokens=102)),
        partitions=4,
        max_tokens=100,
    )
    found = beyond(catalogue, "shop")
    assert [*found] == ["b", "d", "e"], "a smaller one after it fits"
    assert "shop may have 4, 3 are those of its other endpoints and this one has 2" in found["b"]
    assert "generation.max_tokens is 101, and namespace shop may have at most 100" in found["d"]
    assert "request_generation.max_tokens is 102" in found["e"]


def test_apply_says_which_limit_and_which_number() -> None:
    catalogue = with_endpoints(endpoint("a"), endpoints=2, max_tokens=100)
    long = endpoint("c", generation=Generation(max_tokens=101))
    told = faults([Source(Path(), one) for one in (endpoint("b"), long, endpoint("d"))], catalogue)
    assert [(one.what, one.message.partition(":")[0]) for one in told] == [
        ("endpoint /shop/c", "generation.max_tokens is 101, and namespace shop may have at most 100"),
        ("endpoint /shop/d", "namespace shop may have 2 endpoints, and 2 were created before this one"),
    ]
    assert not faults([Source(Path(), endpoint("a", description="changed"))], catalogue)


def test_the_services_check_it_again_and_look_once_a_second() -> None:
    catalogue = with_endpoints(endpoint("a"), endpoint("b"), endpoints=1)
    within = WithinLimits()
    within.require(endpoint("a"), catalogue, 0.0)
    with pytest.raises(Refusal, match="endpoint /shop/b is not served: namespace shop may have 1 endpoints") as caught:
        within.require(endpoint("b"), catalogue, 0.0)
    assert caught.value.code is FailureCode.NOT_ALLOWED
    more = with_endpoints(endpoint("a"), endpoint("b"), endpoints=2)
    with pytest.raises(Refusal):
        within.require(endpoint("b"), more, 0.9)
    within.require(endpoint("b"), more, 1.0)


def test_topics_of_targets_are_partitions_too_and_keep_no_endpoint_from_its_events() -> None:
    copied = endpoint("a", partitions=2, targets=["a-copy", "/shop/b", "/other/place"])
    catalogue = with_endpoints(copied, endpoint("b"), partitions=6)
    assert used_of(catalogue, "shop")["partitions"] == 2 + 1 + 2
    declared = Target(namespace="shop", name="results", accepts_from=["other"], partitions=2)
    for one in (declared, endpoint("c", partitions=2)):
        (told,) = faults([Source(Path(), one)], catalogue)
        assert told.message.startswith("partitions: namespace shop may have 6, and its endpoints and targets would hav")
        assert "would have 7 together" in told.message
    assert not faults([Source(Path(), msgspec.structs.replace(declared, partitions=1))], catalogue)
    lowered = with_endpoints(copied, endpoint("b"), partitions=4)
    assert not beyond(lowered, "shop"), "events go on"
    assert not faults([Source(Path(), endpoint("b"))], lowered), "nothing is added"


def test_topics_of_pieces_are_partitions_too_and_keep_no_endpoint_from_its_events() -> None:
    told = endpoint("a", partitions=2, partial=True)
    catalogue = with_endpoints(told, endpoint("b"), partitions=5)
    assert used_of(catalogue, "shop")["partitions"] == 2 * 2 + 1
    (fault,) = faults([Source(Path(), endpoint("b", partial=True))], catalogue)
    assert "would have 6 together" in fault.message
    assert "fewer with `partial` (each counts twice)" in fault.message
    assert not faults([Source(Path(), endpoint("a", partitions=2)), Source(Path(), endpoint("c"))], catalogue)
    lowered = with_endpoints(told, endpoint("b"), partitions=3)
    assert not beyond(lowered, "shop"), "events go on"
    assert not faults([Source(Path(), endpoint("b", description="new"))], lowered), "nothing is added"
