"""Whose topics get copies of an endpoint's results, and what is said of targets at `apply`."""

from __future__ import annotations

import pytest

from guideway.catalogue.changes import plan_deletion
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.targets.recipients import copies_to, still_accepted
from guideway.producers.checks.check import check_manifests
from guideway.producers.checks.references import broken_by, owners_named
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.targets import Target, Webhook, WebhookUse
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.output import Text
from guideway.schemas.request import ReplyAddress
from guideway.schemas.wire import MANIFEST

MOOD = Endpoint(
    namespace="shop",
    name="mood",
    model_size="small",
    output=Text(),
    targets=["other", "inbox", "/desk/inbox", WebhookUse(webhook="crm")],
)
OTHER = Endpoint(namespace="shop", name="other", model_size="small", output=Text())
CRM = Webhook(namespace="shop", name="crm", url="https://hooks.example.com/in", secret="crm")
OWN = Target(namespace="shop", name="inbox", accepts_from=["desk"])
INBOX = Target(namespace="desk", name="inbox", accepts_from=["shop"])
SMALL = Model(namespace="public", name="small", source="x", fingerprint="sha256:" + "0" * 64)


def catalogue_of(*manifests: Manifest) -> Catalogue:
    catalogue = Catalogue()
    for one in (SMALL, *manifests):
        catalogue.absorb(Identity.of(one).topic, Identity.of(one).key(1), MANIFEST.encode(one))
    return catalogue


def topics(addresses: list[ReplyAddress]) -> list[str]:
    return [one.topic for one in addresses]


def test_results_go_to_others_as_long_as_these_accept_them() -> None:
    catalogue = catalogue_of(MOOD, OTHER, OWN, INBOX)
    copies = ["gw.shop.other.out.v1", "gw.shop.inbox.out.v1", "gw.desk.inbox.out.v1"]
    assert topics(copies_to(MOOD, catalogue)) == copies
    refusing = Target(namespace="desk", name="inbox", accepts_from=["hr"])
    catalogue.absorb("gw.desk.catalogue.v1", b"target/desk/inbox@2", MANIFEST.encode(refusing))
    assert topics(copies_to(MOOD, catalogue)) == copies[:2]
    addresses = [ReplyAddress(topic=one) for one in ("gw.shop.mood.out.v1", *copies)]
    assert topics(still_accepted(addresses, "shop", catalogue)) == ["gw.shop.mood.out.v1", *copies[:2]]


def test_a_target_for_everybody_accepts_all() -> None:
    everybody = Target(namespace="desk", name="inbox", accepts_from=["*"])
    assert "gw.desk.inbox.out.v1" in topics(copies_to(MOOD, catalogue_of(everybody)))


def test_what_is_there_and_accepts_may_be_named() -> None:
    check_manifests([MOOD], catalogue_of(OTHER, OWN, INBOX, CRM))
    assert owners_named(MOOD) == {"desk": ["desk/inbox"]}


@pytest.mark.parametrize(
    ("lacking", "code", "says"),
    [
        (OTHER, FailureCode.INVALID_MANIFEST, "there is no endpoint /shop/other"),
        (OWN, FailureCode.INVALID_MANIFEST, "there is no endpoint /shop/inbox"),
        (INBOX, FailureCode.INVALID_MANIFEST, "/desk/inbox accepts no results of namespace shop"),
        (CRM, FailureCode.INVALID_MANIFEST, "there is no webhook shop/crm"),
    ],
)
def test_a_target_that_is_missing_or_refuses_is_named_at_apply(lacking: Manifest, code: FailureCode, says: str) -> None:
    there = [one for one in (OTHER, OWN, INBOX, CRM) if one is not lacking]
    with pytest.raises(Refusal) as caught:
        check_manifests([MOOD], catalogue_of(*there))
    assert caught.value.code is code
    assert says in caught.value.message


def test_a_target_of_a_hidden_namespace_is_left_to_the_services() -> None:
    catalogue = catalogue_of(OTHER, OWN, CRM)
    catalogue.hidden = frozenset({"desk"})
    check_manifests([MOOD], catalogue)


def test_who_needs_a_webhook_or_a_target_that_is_deleted_is_told() -> None:
    catalogue = catalogue_of(MOOD, OTHER, OWN, INBOX, CRM)
    for one in (CRM, INBOX):
        ((needing, why),) = broken_by(plan_deletion(catalogue, Identity.of(one), [1]), catalogue)
        assert needing == MOOD
        assert one.name in why
