"""Which records of the catalogue's topics count: those on which topic, key and manifest agree."""

from __future__ import annotations

import msgspec
import pytest

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.identity import MOST_FOREIGN
from guideway.schemas.failures import Refusal
from guideway.schemas.kinds.calibrated import Calibrated, LabelBias
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.names.groups import catalogue_writer, writer_of
from guideway.schemas.names.service_topics import (
    CALIBRATIONS_TOPIC,
    FORMER_CATALOGUE_TOPIC,
    catalogue_topic,
    owner_of_catalogue,
)
from guideway.schemas.output import Boolean
from guideway.schemas.wire import MANIFEST

ENDPOINT = Endpoint(namespace="shop", name="task", model_size="small", output=Boolean())
FORGED = msgspec.structs.replace(ENDPOINT, description="FORGED")
TONE = Guidance(namespace="shop", name="tone", form="text_prompt", text="Be kind.")
MODEL = Model(namespace="public", name="small", source="/models/small")
BIASES = Calibrated(
    namespace="shop",
    name="task",
    endpoint_version=1,
    guidance=[],
    model_fingerprint="sha256:" + "0" * 64,
    method="contextual",
    biases=[LabelBias(label="a", bias=0.5), LabelBias(label="b", bias=-0.5)],
    texts=1,
)
SHOP, RIVAL, PUBLIC = map(catalogue_topic, ("shop", "rival", "public"))


def with_shops_entries() -> Catalogue:
    catalogue = Catalogue()
    for one in (ENDPOINT, TONE):
        catalogue.absorb(SHOP, Identity.of(one).key(1), MANIFEST.encode(one))
    return catalogue


def state(catalogue: Catalogue) -> tuple[object, ...]:
    return (
        list(catalogue),
        catalogue.unread(),
        [catalogue.last_given(one) for one in catalogue.identities()],
        [catalogue.versions(one) for one in catalogue.identities()],
        catalogue.unreadable,
    )


ATTACKS: list[tuple[str, str, Manifest | bytes | None]] = [
    # A rival's topic says something of the shop: another endpoint, a later version, an unreadable one, a deletion.
    (RIVAL, "endpoint/shop/task@1", FORGED),
    (RIVAL, "endpoint/shop/task@2", FORGED),
    (RIVAL, "endpoint/shop/task@999999999", FORGED),
    (RIVAL, "endpoint/shop/task@2", b"["),
    (RIVAL, "endpoint/shop/task@1", None),
    (RIVAL, "endpoint/shop/task@1", b'{"kind":"deleted/v1"}'),
    # Its own key, the shop's manifest; and the shop's own key with another's manifest.
    (RIVAL, "endpoint/rival/task@1", FORGED),
    (SHOP, "endpoint/shop/task@1", msgspec.structs.replace(ENDPOINT, namespace="rival")),
    (SHOP, "endpoint/shop/task@2", msgspec.structs.replace(ENDPOINT, name="other")),
    (SHOP, "endpoint/shop/task@2", TONE),
    # What is the platform's, from a team; and what is a team's, from the platform's topic.
    (RIVAL, "model/public/small@1", MODEL),
    (RIVAL, "model/rival/small@1", MODEL),
    (PUBLIC, "endpoint/shop/task@2", FORGED),
    # Calibrations come from workers only, and nothing else does.
    (SHOP, "calibration/shop/task@1", BIASES),
    (PUBLIC, "calibration/shop/task@1", BIASES),
    (CALIBRATIONS_TOPIC, "endpoint/shop/task@2", FORGED),
    # The topic that all shared counts for nothing, and so does one that only looks like a catalogue.
    (FORMER_CATALOGUE_TOPIC, "endpoint/shop/task@2", FORGED),
    ("gw.shop.catalogue.v1.dlq", "endpoint/shop/task@2", FORGED),
    ("gw.shop.x.catalogue.v1", "endpoint/shop/task@2", FORGED),
]


@pytest.mark.parametrize(("topic", "key", "value"), ATTACKS)
def test_what_disagrees_has_no_effect_and_is_counted(topic: str, key: str, value: Manifest | bytes | None) -> None:
    catalogue = with_shops_entries()
    before = state(catalogue)
    encoded = value if isinstance(value, bytes | None) else MANIFEST.encode(value)
    catalogue.absorb(topic, key.encode(), encoded)
    catalogue.absorb(topic, key.encode(), encoded)
    assert state(catalogue) == before
    assert catalogue.foreign.count == 1
    [foreign] = catalogue.foreign.records()
    assert (foreign.topic, foreign.key) == (topic, key)
    assert "FORGED" not in foreign.why
    [change] = plan_changes(catalogue, [msgspec.structs.replace(ENDPOINT, description="new")])
    assert change.version == 2


@pytest.mark.parametrize(
    "key",
    [
        "endpoint/shop/../task@1",
        "endpoint/../task@1",
        "endpoint/shop//task@1",
        "endpoint/shop/task/@1",
        "endpoint/shop/Task@1",
        "endpoint/SHOP/task@1",
        "endpoint/sh\u043ep/task@1",
        "endpoint/shop/task\u200b@1",
        "endpoint/\uff53hop/task@1",
        "endpoint/shop/" + "a" * 64 + "@1",
        "endpoint/shop/-task@1",
        "endpoint/shop/ta.sk@1",
        "endpoint/shop/task@1\n",
        " endpoint/shop/task@1",
        "endpoint/shop/task@\u0661",
        "endpoint\x00/shop/task@1",
        "Endpoint/shop/task@1",
    ],
)
def test_a_key_of_another_form_names_nobody(key: str) -> None:
    catalogue = with_shops_entries()
    before = list(catalogue)
    catalogue.absorb(SHOP, key.encode(), MANIFEST.encode(FORGED))
    assert (list(catalogue), catalogue.strangers, catalogue.foreign.count) == (before, 1, 0)


def test_what_agrees_counts() -> None:
    catalogue = with_shops_entries()
    catalogue.absorb(PUBLIC, b"model/public/small@1", MANIFEST.encode(MODEL))
    catalogue.absorb(CALIBRATIONS_TOPIC, b"calibration/shop/task@1", MANIFEST.encode(BIASES))
    assert {str(Identity.of(one)) for _, one in catalogue} == {
        "endpoint shop/task",
        "guidance shop/tone",
        "model public/small",
        "calibration shop/task",
    }
    assert catalogue.foreign.count == 0


def test_a_topic_that_is_gone_takes_its_entries_along_and_no_others() -> None:
    catalogue = with_shops_entries()
    other = msgspec.structs.replace(ENDPOINT, namespace="rival")
    catalogue.absorb(RIVAL, Identity.of(other).key(3), MANIFEST.encode(other))
    catalogue.absorb(SHOP, b"endpoint/rival/task@4", MANIFEST.encode(other))
    catalogue.absorb(CALIBRATIONS_TOPIC, b"calibration/shop/task@1", MANIFEST.encode(BIASES))
    catalogue.forget_topic(SHOP)
    assert [one for _, one in catalogue] == [BIASES, other]
    assert catalogue.foreign.count == 0
    with pytest.raises(Refusal):
        catalogue.endpoint("shop", "task")
    assert plan_changes(catalogue, [ENDPOINT])[0].version == 1, "the topic is another one now"


def test_many_foreign_records_take_no_memory() -> None:
    catalogue = Catalogue()
    for number in range(2 * MOST_FOREIGN):
        catalogue.absorb(RIVAL, f"endpoint/shop/task@{number + 1}".encode(), b"x" * 1000)
    assert catalogue.foreign.count == 2 * MOST_FOREIGN
    assert len(catalogue.foreign.records()) == MOST_FOREIGN
    catalogue.forget_topic(RIVAL)
    assert (catalogue.foreign.count, catalogue.foreign.records()) == (0, [])


def test_names_of_catalogue_topics() -> None:
    assert owner_of_catalogue("gw.shop.catalogue.v1") == "shop"
    for other in (
        "gw.catalogue.v1",
        "gw.Shop.catalogue.v1",
        "gw..catalogue.v1",
        "gw.shop.catalogue.v1.dlq",
        "gw.a.b.in.v1",
    ):
        assert owner_of_catalogue(other) is None
    assert catalogue_writer("shop") == "gw.shop.catalogue.writer"
    assert writer_of(CALIBRATIONS_TOPIC) == "gw.calibrations.writer"
