"""What the audit trail says of records in a catalogue."""

from __future__ import annotations

import msgspec
import pytest

from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.gateway.identity.keys import new_key
from guideway.schemas.failures import FailureCode
from guideway.schemas.manifests import Endpoint, Guidance, Manifest
from guideway.schemas.names import header
from guideway.schemas.names.service_topics import KEYS_TOPIC
from guideway.schemas.output import Text
from guideway.schemas.record import Record
from guideway.schemas.services.audit import Audited
from guideway.schemas.wire import AUDITED, KEY, MANIFEST
from guideway.usecases.rights.trail import trail, trail_of_keys

ORDERS = Endpoint(namespace="shop", name="orders", model_size="small", output=Text(), access=["b"])
TONE = Guidance(namespace="shop", name="tone", form="text_prompt", text="our secret recipe", shared_with=["*"])


def record(key: str, manifest: Manifest | None, offset: int = 7) -> Record:
    value = None if manifest is None else MANIFEST.encode(manifest)
    return Record(
        topic="gw.shop.catalogue.v1", partition=0, offset=offset, timestamp_ms=5, key=key.encode(), value=value
    )


def told(one: Record, *before: Manifest) -> list[Audited]:
    catalogue = Catalogue()
    for version, manifest in enumerate(before, 1):
        catalogue.absorb(Identity.of(manifest).topic, Identity.of(manifest).key(version), MANIFEST.encode(manifest))
    return trail(one, catalogue, ["User:shop"])


def test_who_applied_what_and_granted_it_to_whom_and_nothing_of_its_content() -> None:
    applied, granted = told(record("endpoint/shop/orders@1", ORDERS))
    assert applied == Audited(
        at_ms=5,
        service="steward",
        action="applied",
        namespace="shop",
        principal="User:shop",
        what="endpoint shop/orders@1",
        topic="gw.shop.catalogue.v1",
        partition=0,
        offset=7,
    )
    assert granted == msgspec.structs.replace(applied, action="granted", to=["b"])
    published, shared = told(record("guidance/shop/tone@1", TONE))
    assert (published.action, shared.to) == ("published", ["*"])
    assert b"recipe" not in AUDITED.encode(published)


def test_a_grant_that_was_there_before_is_not_told_again() -> None:
    wider = msgspec.structs.replace(ORDERS, access=["b", "c"])
    (_, granted) = told(record("endpoint/shop/orders@2", wider), ORDERS)
    assert granted.to == ["c"]
    assert [one.action for one in told(record("endpoint/shop/orders@2", ORDERS), wider)] == ["applied"]


def test_an_endpoint_that_is_again_what_it_was_is_rolled_back() -> None:
    other = msgspec.structs.replace(ORDERS, description="new")
    assert next(one.action for one in told(record("endpoint/shop/orders@3", ORDERS), ORDERS, other)) == "rolled back"
    third = msgspec.structs.replace(ORDERS, description="newer")
    assert next(one.action for one in told(record("endpoint/shop/orders@3", third), ORDERS, other)) == "applied"


def test_an_endpoint_that_its_shadow_has_changed_is_promoted_and_nothing_else_is() -> None:
    other = msgspec.structs.replace(ORDERS, description="new")
    by_shadow = msgspec.structs.replace(
        record("endpoint/shop/orders@2", other), headers=[(header.APPLIED_BY, header.SHADOW.encode())]
    )
    assert [one.action for one in told(by_shadow, ORDERS)] == ["promoted"]
    for given in ((header.APPLIED_BY, b"somebody"), ("other", b"shadow"), (header.APPLIED_BY, None)):
        by_other = msgspec.structs.replace(by_shadow, headers=[given])
        assert [one.action for one in told(by_other, ORDERS)] == ["applied"]


def test_versions_that_came_later_change_nothing() -> None:
    """A steward that was away finds them in the catalogue."""
    later = msgspec.structs.replace(ORDERS, access=["b", "c"])
    assert told(record("endpoint/shop/orders@1", ORDERS), ORDERS, later) == told(
        record("endpoint/shop/orders@1", ORDERS)
    )


def test_a_deletion() -> None:
    assert [one.action for one in told(record("endpoint/shop/orders@1", None))] == ["deleted"]


@pytest.mark.parametrize(
    ("key", "manifest", "code", "what"),
    [
        ("endpoint/bank/pay@1", ORDERS, FailureCode.NOT_ALLOWED, "endpoint bank/pay@1"),
        ("endpoint/shop/pay@1", ORDERS, FailureCode.NOT_ALLOWED, "endpoint shop/pay@1"),
        ("the secret is 42", ORDERS, FailureCode.INVALID_MANIFEST, ""),
        ("endpoint/shop/../x@1", ORDERS, FailureCode.INVALID_MANIFEST, ""),
    ],
)
def test_a_record_that_does_not_agree_with_its_topic_is_told_as_refused(
    key: str, manifest: Manifest, code: FailureCode, what: str
) -> None:
    (one,) = told(record(key, manifest))
    assert (one.action, one.code, one.what, one.namespace) == ("refused", code, what, "shop")


def test_what_cannot_be_read_is_told_as_refused() -> None:
    unreadable = msgspec.structs.replace(record("endpoint/shop/orders@1", ORDERS), value=b"{}")
    assert [one.code for one in told(unreadable)] == [FailureCode.INVALID_MANIFEST]


KEY_OF_SHOP, _SECRET = new_key("shop", now_ms=1, number="0123456789abcdef")


@pytest.mark.parametrize(
    ("written", "action", "what", "to"),
    [
        (KEY.encode(KEY_OF_SHOP), "granted", "key shop/0123456789abcdef", ["shop"]),
        (KEY.encode(msgspec.structs.replace(KEY_OF_SHOP, revoked_ms=5)), "deleted", "key shop/0123456789abcdef", []),
        (None, "deleted", "key 0123456789abcdef", []),
        (b"{}", "refused", "key 0123456789abcdef", []),
        (KEY.encode(msgspec.structs.replace(KEY_OF_SHOP, id="f" * 16)), "refused", "key 0123456789abcdef", []),
        (
            KEY.encode(msgspec.structs.replace(KEY_OF_SHOP, namespace="my secret")),
            "refused",
            "key 0123456789abcdef",
            [],
        ),
    ],
)
def test_whose_key_was_made_or_ended(written: bytes | None, action: str, what: str, to: list[str]) -> None:
    made = Record(topic=KEYS_TOPIC, partition=0, offset=7, timestamp_ms=5, key=b"0123456789abcdef", value=written)
    one = trail_of_keys(made, ["User:boss"])
    assert (one.action, one.what, [*one.to]) == (action, what, to)
    assert (one.namespace, one.principal) == ("public", "User:boss")
    assert KEY_OF_SHOP.hash.encode() not in AUDITED.encode(one)


def test_what_is_no_id_of_a_key_is_not_told() -> None:
    made = Record(topic=KEYS_TOPIC, partition=0, offset=7, timestamp_ms=5, key=b"a prompt", value=None)
    assert trail_of_keys(made, []).what == "key "
