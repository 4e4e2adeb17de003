"""A namespace's catalogue takes no more of every process's memory than is allowed, and hurts itself only."""

from __future__ import annotations

import pytest

from guideway.catalogue import room
from guideway.catalogue.changes import plan_changes
from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Guidance
from guideway.schemas.names.service_topics import catalogue_topic
from guideway.schemas.wire import CATALOGUE_ENTRY


def prompt(namespace: str, name: str, chars: int = 50_000) -> Guidance:
    return Guidance(namespace=namespace, name=name, form="text_prompt", text="x" * chars)


def put(catalogue: Catalogue, one: Guidance, version: int = 1) -> None:
    identity = Identity.of(one)
    catalogue.absorb(identity.topic, identity.key(version), CATALOGUE_ENTRY.encode(one))


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_BYTES", 200_000)


def test_what_comes_beyond_the_room_is_counted_and_not_taken_in() -> None:
    catalogue = Catalogue()
    for number in range(10):
        put(catalogue, prompt("shop", f"p{number}"))
    put(catalogue, prompt("bank", "p"))
    assert len(catalogue.identities()) == 3 + 1
    assert catalogue.left_out() == {catalogue_topic("shop"): 7}
    assert catalogue.unreadable == 7


def test_what_is_replaced_or_deleted_makes_room() -> None:
    catalogue = Catalogue()
    for number in range(3):
        put(catalogue, prompt("shop", f"p{number}"))
    put(catalogue, prompt("shop", "p0", 1000))
    put(catalogue, prompt("shop", "p3", 40_000))
    gone = Identity("guidance", "shop", "p1")
    catalogue.absorb(gone.topic, gone.key(1), None)
    put(catalogue, prompt("shop", "p4", 40_000))
    assert [one.name for one in catalogue.identities()] == ["p0", "p2", "p3", "p4"]
    assert not catalogue.left_out()


def test_numbers_of_removed_versions_take_room_too() -> None:
    catalogue, identity = Catalogue(), Identity("guidance", "shop", "p")
    for version in range(1, 2000):
        catalogue.absorb(identity.topic, identity.key(version), None)
    assert catalogue.left_out()[identity.topic] == 1999 - 200_000 // 512
    assert catalogue.last_given(identity) == 200_000 // 512


def test_a_topic_that_is_gone_gives_its_room_back() -> None:
    catalogue = Catalogue()
    for number in range(10):
        put(catalogue, prompt("shop", f"p{number}"))
    catalogue.forget_topic(catalogue_topic("shop"))
    put(catalogue, prompt("shop", "p"))
    assert not catalogue.left_out()


def test_the_platform_has_no_such_bound() -> None:
    catalogue = Catalogue()
    for number in range(10):
        put(catalogue, prompt("public", f"p{number}"))
    assert len(catalogue.identities()) == 10


def test_a_change_that_nobody_would_take_in_is_refused_before() -> None:
    catalogue = Catalogue()
    for number in range(3):
        put(catalogue, prompt("shop", f"p{number}"))
    assert len(plan_changes(catalogue, [prompt("shop", "p3", 40_000)])) == 1
    with pytest.raises(Refusal, match="delete versions") as caught:
        plan_changes(catalogue, [prompt("shop", "p3", 40_000), prompt("shop", "p4", 40_000)])
    assert caught.value.code is FailureCode.INVALID_MANIFEST


def test_a_manifest_that_passed_no_check_of_its_size_is_not_read() -> None:
    catalogue, large = Catalogue(), prompt("shop", "p", 100_001)
    put(catalogue, large)
    assert not catalogue.identities()
    (unread,) = catalogue.unread()
    assert "at most 100,000" in unread.why
