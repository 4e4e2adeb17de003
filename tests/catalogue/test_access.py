"""Which endpoints a namespace may call, and what it learns of others."""

from __future__ import annotations

import msgspec
import pytest

from guideway.catalogue.access import OF_THE_EVENT, OF_THE_REQUEST, called_endpoint, told_to_others
from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Boolean
from guideway.schemas.wire import MANIFEST

OWN = Endpoint(namespace="team", name="task", model_size="small", output=Boolean())


def catalogue_with(*endpoints: Endpoint) -> Catalogue:
    catalogue = Catalogue()
    for endpoint in endpoints:
        catalogue.absorb(Identity.of(endpoint).topic, Identity.of(endpoint).key(1), MANIFEST.encode(endpoint))
    return catalogue


def refusal(catalogue: Catalogue, namespace: str, name: str, caller: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        called_endpoint(catalogue, namespace, name, caller=caller)
    return caught.value


@pytest.mark.parametrize(
    ("owner", "access", "caller"),
    [
        ("team", [], "team"),
        ("team", ["shop"], "shop"),
        ("team", ["a", "*"], "shop"),
        ("public", [], "shop"),
    ],
)
def test_who_has_a_right_calls(owner: str, access: list[str], caller: str) -> None:
    endpoint = msgspec.structs.replace(OWN, namespace=owner, access=access)
    assert called_endpoint(catalogue_with(endpoint), owner, "task", caller=caller) == (1, endpoint)


def test_who_has_none_learns_nothing() -> None:
    """Not whether there is such an endpoint, nor what others there are."""
    shared = msgspec.structs.replace(OWN, name="shared", access=["other"])
    there = refusal(catalogue_with(OWN, shared), "team", "task", "shop")
    not_there = refusal(catalogue_with(shared), "team", "task", "shop")
    no_namespace = refusal(catalogue_with(), "team", "task", "shop")
    assert str(there) == str(not_there) == str(no_namespace)
    assert there.code is FailureCode.NOT_ALLOWED
    assert not there.code.retryable
    assert "shared" not in there.message


def test_of_its_own_and_of_public_a_caller_is_told_what_there_is() -> None:
    mine = refusal(catalogue_with(OWN), "team", "taks", "team")
    assert mine.code is FailureCode.UNKNOWN_ENDPOINT
    assert "task" in mine.message
    public = msgspec.structs.replace(OWN, namespace="public")
    theirs = refusal(catalogue_with(public), "public", "taks", "shop")
    assert theirs.code is FailureCode.UNKNOWN_ENDPOINT
    assert "task" in theirs.message


@pytest.mark.parametrize("name", ["call", "catalogue"])
def test_no_endpoint_takes_the_name_of_a_fixed_topic(name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        msgspec.structs.replace(OWN, name=name)


@pytest.mark.parametrize("code", list(FailureCode))
def test_callers_of_another_namespace_are_told_nothing_of_how_the_endpoint_is_made(code: FailureCode) -> None:
    told = told_to_others(Refusal(code, "SECRET: change it"), "team", verbatim=OF_THE_REQUEST)
    assert told.code is code
    if code not in OF_THE_REQUEST:
        assert "SECRET" not in told.message
        assert "namespace team" in told.message
    others = told_to_others(Refusal(code, "SECRET", to_others="do this"), "team", verbatim=OF_THE_EVENT)
    assert others.message == "do this"
