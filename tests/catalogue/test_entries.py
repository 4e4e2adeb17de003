"""The catalogue in memory, and how it is changed."""

from __future__ import annotations

import contextlib
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.catalogue.changes import catalogue_records, plan_changes, plan_deletion
from guideway.catalogue.entries import KINDS, MAX_VERSION, Catalogue, Identity
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.calibrated import Calibrated, LabelBias
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.retrieval_set import EmbeddingModel, RetrievalSet, SetAlias
from guideway.schemas.kinds.router import Router, RoutingByModel, RoutingExamples, RoutingRule
from guideway.schemas.kinds.targets import Target, Webhook
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.output import Boolean
from guideway.schemas.wire import MANIFEST

ENDPOINT = Endpoint(namespace="team", name="task", model_size="small", output=Boolean())
TEAM = "gw.team.catalogue.v1"
PROMPT = Guidance(namespace="team", name="tone", form="text_prompt", text="Be kind.")


def absorb(catalogue: Catalogue, manifest: Manifest, version: int) -> None:
    catalogue.absorb(Identity.of(manifest).topic, Identity.of(manifest).key(version), MANIFEST.encode(manifest))


def test_the_newest_version_answers_and_older_ones_stay() -> None:
    catalogue = Catalogue()
    newer = msgspec.structs.replace(PROMPT, text="Be very kind.")
    absorb(catalogue, newer, 2)
    absorb(catalogue, PROMPT, 1)
    assert catalogue.guidance("team/tone", for_namespace="team")[1] == newer
    ref, guidance = catalogue.guidance("team/tone@1", for_namespace="team")
    assert (ref.version, guidance) == (1, PROMPT)


def test_a_tombstone_removes_a_version() -> None:
    catalogue = Catalogue()
    absorb(catalogue, ENDPOINT, 1)
    catalogue.absorb(Identity.of(ENDPOINT).topic, Identity.of(ENDPOINT).key(1), None)
    assert list(catalogue) == []
    with pytest.raises(Refusal) as caught:
        catalogue.endpoint("team", "task")
    assert caught.value.code is FailureCode.UNKNOWN_ENDPOINT


def test_an_unknown_endpoint_is_answered_with_what_there_is() -> None:
    catalogue = Catalogue()
    absorb(catalogue, ENDPOINT, 1)
    with pytest.raises(Refusal, match="namespace team has: task"):
        catalogue.endpoint("team", "tusk")


@pytest.mark.parametrize(
    ("key", "value"), [(None, b"{}"), (b"nonsense", b"{}"), (b"endpoint/team/task@1", b'{"kind": "endpoint/v9"}')]
)
def test_what_cannot_be_read_is_counted_and_harms_nobody(key: bytes | None, value: bytes) -> None:
    catalogue = Catalogue()
    catalogue.absorb(TEAM, key, value)
    assert catalogue.unreadable == 1
    assert list(catalogue) == []


def test_guidance_is_its_namespaces_own_unless_shared() -> None:
    catalogue = Catalogue()
    absorb(catalogue, PROMPT, 1)
    with pytest.raises(Refusal) as caught:
        catalogue.guidance("team/tone", for_namespace="rival")
    assert caught.value.code is FailureCode.GUIDANCE_FORBIDDEN
    absorb(catalogue, msgspec.structs.replace(PROMPT, shared_with=["*"]), 2)
    assert catalogue.guidance("team/tone", for_namespace="rival")[0].version == 2


def test_applying_makes_versions_of_what_has_changed_only() -> None:
    catalogue = Catalogue()
    absorb(catalogue, ENDPOINT, 3)
    changed = msgspec.structs.replace(ENDPOINT, instruction="Now.")
    actions = [(change.action, change.version) for change in plan_changes(catalogue, [ENDPOINT, PROMPT])]
    assert actions == [("unchanged", 3), ("created", 1)]
    assert [(change.action, change.version) for change in plan_changes(catalogue, [changed])] == [("updated", 4)]


def test_a_lora_may_have_a_scale_and_nothing_else_may() -> None:
    catalogue = Catalogue()
    digest = "sha256:" + "0" * 64
    lora = Guidance(namespace="team", name="voice", form="lora", artefact=digest, model_fingerprint=digest)
    absorb(catalogue, lora, 3)
    absorb(catalogue, PROMPT, 1)
    ref, _ = catalogue.guidance("team/voice*-0.25", for_namespace="team")
    assert (ref.version, ref.scale, str(ref)) == (3, -0.25, "team/voice@3*-0.25")
    assert catalogue.guidance(str(ref), for_namespace="team")[0] == ref
    plain, _ = catalogue.guidance("team/voice@3*1.0", for_namespace="team")
    assert (plain.scale, str(plain)) == (1.0, "team/voice@3")
    with pytest.raises(Refusal, match=r"only a lora takes a scale: name it without \*0.5") as caught:
        catalogue.guidance("team/tone*0.5", for_namespace="team")
    assert caught.value.code is FailureCode.GUIDANCE_FORBIDDEN


FACTS = RetrievalSet(
    namespace="team",
    name="facts",
    artefact="sha256:" + "0" * 64,
    embedding=EmbeddingModel(source="x", fingerprint="sha256:" + "1" * 64, dimension=4),
    passages=3,
)


def test_a_sets_name_stands_for_the_newest_version_until_an_alias_says_another() -> None:
    catalogue = Catalogue()
    for version in (1, 2):
        absorb(catalogue, FACTS, version)
    assert str(catalogue.retrieval_set("team/facts", for_namespace="team")[0]) == "team/facts@2"
    absorb(catalogue, SetAlias(namespace="team", name="facts", version=1), 1)
    ref, _ = catalogue.retrieval_set("team/facts*0.5", for_namespace="team")
    assert (ref.version, ref.weight) == (1, 0.5)
    assert catalogue.retrieval_set("team/facts@2", for_namespace="team")[0].version == 2
    absorb(catalogue, SetAlias(namespace="team", name="facts", version=2), 2)
    assert catalogue.retrieval_set("team/facts", for_namespace="team")[0].version == 2


def test_sets_are_used_by_their_namespace_and_those_they_are_shared_with() -> None:
    catalogue = Catalogue()
    absorb(catalogue, msgspec.structs.replace(FACTS, shared_with=["friend"]), 1)
    absorb(catalogue, msgspec.structs.replace(FACTS, namespace="public"), 1)
    for namespace in ("team", "friend"):
        assert catalogue.retrieval_set("team/facts", for_namespace=namespace)
    assert catalogue.retrieval_set("public/facts", for_namespace="anybody")
    with pytest.raises(Refusal) as caught:
        catalogue.retrieval_set("team/facts", for_namespace="stranger")
    assert caught.value.code is FailureCode.GUIDANCE_FORBIDDEN


@pytest.mark.parametrize("name", ["team/facts@3", "team/other", "other/facts"])
def test_a_set_that_is_not_there_is_unknown(name: str) -> None:
    catalogue = Catalogue()
    absorb(catalogue, FACTS, 1)
    with pytest.raises(Refusal) as caught:
        catalogue.retrieval_set(name, for_namespace="team")
    assert caught.value.code is FailureCode.GUIDANCE_UNKNOWN


EVERY_KIND: list[Manifest] = [
    ENDPOINT,
    PROMPT,
    FACTS,
    SetAlias(namespace="team", name="facts", version=2),
    Model(namespace="public", name="small", source="folder"),
    Calibrated(
        namespace="team",
        name="mood",
        endpoint_version=3,
        guidance=["team/brief@1"],
        model_fingerprint="sha256:" + "0" * 64,
        method="contextual",
        biases=[LabelBias(label="good", bias=0.5), LabelBias(label="bad", bias=-0.5)],
        texts=14,
    ),
    Namespace(namespace="public", name="team", weight=2, requests_per_minute=600, over_limit="refuse"),
    Router(
        namespace="team",
        name="router",
        endpoints=["/team/task", "/public/other"],
        rules=[RoutingRule(when="headers.task == 'a: b'", endpoint="/team/task")],
        examples=RoutingExamples(texts={"/team/task": ["no", "1"], "/public/other": ["- x"]}, none=["~"]),
        model=RoutingByModel(least_score=0.75),
        model_size="small",
    ),
    Target(namespace="acme", name="inbox", accepts_from=["other"]),
    Webhook(namespace="acme", name="crm", url="https://crm.example.com/in", secret="crm"),
]


def changed(manifest: Manifest, number: int) -> Manifest:
    return msgspec.structs.replace(manifest, description=str(number))


class Log:
    """What a compacted topic keeps: the last record of each key, and no tombstone."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, bytes], bytes] = {}

    def write(self, changes: list[tuple[str, bytes, bytes | None]]) -> None:
        for topic, key, value in changes:
            self.kept.pop((topic, key), None)
            if value is not None:
                self.kept[topic, key] = value

    def read(self) -> Catalogue:
        catalogue = Catalogue()
        for (topic, key), value in self.kept.items():
            catalogue.absorb(topic, key, value)
        return catalogue


def test_every_kind_is_tried() -> None:
    assert {type(manifest) for manifest in EVERY_KIND} == {*get_args(Manifest)}


@pytest.mark.parametrize("manifest", EVERY_KIND, ids=lambda one: type(one).__name__)
def test_a_version_is_not_given_again_after_it_was_deleted(manifest: Manifest) -> None:
    """A request that is under way is bound to one by its number, and would get another artefact."""
    log, identity = Log(), Identity.of(manifest)
    for number in (1, 2):
        log.write(catalogue_records(plan_changes(log.read(), [changed(manifest, number)])))
    log.write(catalogue_records(plan_deletion(log.read(), identity, [2])))
    assert (log.read().versions(identity), log.read().get(identity, 2)) == ([1], None)
    (third,) = plan_changes(log.read(), [changed(manifest, 3)])
    assert (third.version, third.action) == (3, "updated")
    log.write(catalogue_records([third]))
    log.write(catalogue_records(plan_deletion(log.read(), identity, [1, 3])))
    assert (log.read().latest(identity), list(log.read()), log.read().unreadable) == (None, [], 0)
    assert [(one.version, one.action) for one in plan_changes(log.read(), [manifest])] == [(4, "created")]


@given(st.lists(st.one_of(st.just("apply"), st.lists(st.integers(1, 12), min_size=1), st.just("all")), max_size=30))
def test_whatever_is_applied_and_deleted_no_version_comes_twice(steps: list[str | list[int]]) -> None:
    log, identity, given_out = Log(), Identity.of(PROMPT), []
    for number, step in enumerate(steps):
        catalogue = log.read()
        if step == "apply":
            changes = plan_changes(catalogue, [changed(PROMPT, number)])
            given_out.append(changes[0].version)
            log.write(catalogue_records(changes))
        else:
            there = catalogue.versions(identity)
            gone = there if step == "all" else [one for one in there if one in step]
            log.write(catalogue_records(plan_deletion(catalogue, identity, gone)))
    assert given_out == list(range(1, len(given_out) + 1))
    assert len(log.kept) <= len(log.read().versions(identity)) + 1, "what is kept of deletions does not pile up"


def test_a_deletion_by_hand_counts_for_as_long_as_the_topic_shows_it() -> None:
    catalogue = Catalogue()
    absorb(catalogue, PROMPT, 1)
    absorb(catalogue, PROMPT, 2)
    catalogue.absorb(Identity.of(PROMPT).topic, Identity.of(PROMPT).key(2), None)
    assert plan_changes(catalogue, [changed(PROMPT, 1)])[0].version == 3


NEWER = b'{"kind":"guidance/v9","namespace":"team","name":"tone","form":"dream"}'


def test_what_a_newer_program_wrote_is_not_written_over() -> None:
    catalogue = Catalogue()
    absorb(catalogue, PROMPT, 1)
    catalogue.absorb(Identity.of(PROMPT).topic, Identity.of(PROMPT).key(2), NEWER)
    with pytest.raises(
        Refusal, match=r"version 2 of guidance team/tone cannot be read .* use the newer guideway"
    ) as caught:
        plan_changes(catalogue, [changed(PROMPT, 1)])
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert [(one.version, one.identity) for one in catalogue.unread()] == [(2, Identity.of(PROMPT))]
    for topic, key, value in catalogue_records(plan_deletion(catalogue, Identity.of(PROMPT), [2])):
        catalogue.absorb(topic, key, value)
    assert catalogue.unreadable == 0
    assert plan_changes(catalogue, [changed(PROMPT, 1)])[0].version == 3


def test_an_older_version_that_cannot_be_read_counts_and_stops_nobody() -> None:
    catalogue = Catalogue()
    catalogue.absorb(Identity.of(PROMPT).topic, Identity.of(PROMPT).key(1), NEWER)
    absorb(catalogue, PROMPT, 2)
    assert plan_changes(catalogue, [changed(PROMPT, 1)])[0].version == 3
    assert catalogue.unreadable == 1


def test_the_last_number_is_the_last() -> None:
    catalogue = Catalogue()
    absorb(catalogue, PROMPT, MAX_VERSION)
    with pytest.raises(Refusal, match="give it another name"):
        plan_changes(catalogue, [changed(PROMPT, 1)])


@pytest.mark.parametrize("version", ["0", "01", "-1", "1" * 10, "9" * 4301, "\u0663", "\u00b2", "", "x", "1 "])
def test_what_is_no_version_is_counted_in_a_key_and_unknown_in_a_name(version: str) -> None:
    """Python makes no number of 4,301 digits, and other ones of some that are no digits to us."""
    catalogue = Catalogue()
    absorb(catalogue, PROMPT, 1)
    absorb(catalogue, FACTS, 1)
    catalogue.absorb(TEAM, f"guidance/team/tone@{version}".encode(), MANIFEST.encode(PROMPT))
    assert (catalogue.unreadable, catalogue.versions(Identity.of(PROMPT))) == (1, [1])
    for ask, name in ((catalogue.guidance, "team/tone"), (catalogue.retrieval_set, "team/facts")):
        with pytest.raises(Refusal) as caught:
            ask(f"{name}@{version}", for_namespace="team")
        assert caught.value.code is FailureCode.GUIDANCE_UNKNOWN


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.one_of(
    st.none(),
    st.binary(max_size=60),
    st.builds(
        "{}/{}/{}@{}".format,
        st.sampled_from(["endpoint", "guidance", "model", "set", "alias", "dream"]),
        st.sampled_from(["team", "public", "-", "Team", ""]),
        st.sampled_from(["task", "tone", "..", ""]),
        st.integers(-3, 10**30) | st.just("9" * 5000) | st.text(max_size=3),
    ).map(str.encode),
)
VALUES = st.one_of(
    st.none(),
    st.binary(max_size=60),
    ANY_JSON.map(msgspec.json.encode),
    st.sampled_from(
        [b"[" * 100_000, b'{"kind":' * 100_000, b"1" * 5000, MANIFEST.encode(ENDPOINT), b'{"kind":"deleted/v1"}']
    ),
    st.tuples(st.sampled_from(EVERY_KIND), st.text(max_size=8), ANY_JSON).map(
        lambda one: msgspec.json.encode({**msgspec.to_builtins(one[0]), one[1]: one[2]})
    ),
)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=6))
def test_whatever_stands_in_the_topic_is_taken_or_counted(found: list[tuple[bytes | None, bytes | None]]) -> None:
    catalogue = Catalogue()
    for key, value in found:
        catalogue.absorb(TEAM, key, value)
    assert catalogue.unreadable >= sum(1 for key, _ in found if key is None)
    for later in (catalogue, catalogue.after([])):
        owned = [one for kind in KINDS for namespace in ("team", "public") for one in later.owned(kind, namespace)]
        assert sorted(owned) == catalogue.identities()
    catalogue.forget_topic(TEAM)
    assert catalogue.owned("endpoint", "team") == catalogue.identities() == []
    for manifest in EVERY_KIND:
        with contextlib.suppress(Refusal):
            plan_changes(catalogue, [manifest])
