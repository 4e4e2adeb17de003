"""The catalogue in memory."""

from __future__ import annotations

import msgspec
import pytest

from guideway.catalogue.entries import Catalogue, Identity, plan
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import EmbeddingModel, Endpoint, Guidance, Manifest, RetrievalSet, SetAlias
from guideway.schemas.output import Boolean
from guideway.schemas.wire import MANIFEST

ENDPOINT = Endpoint(namespace="team", name="task", model_size="small", output=Boolean())
PROMPT = Guidance(namespace="team", name="tone", form="text_prompt", text="Be kind.")


def absorb(catalogue: Catalogue, manifest: Manifest, version: int) -> None:
    catalogue.absorb(Identity.of(manifest).key(version), MANIFEST.encode(manifest))


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
    catalogue.absorb(Identity.of(ENDPOINT).key(1), None)
    assert list(catalogue) == []
    with pytest.raises(Refusal) as caught:
        catalogue.endpoint("team", "task")
    assert caught.value.code is FailureCode.UNKNOWN_ENDPOINT


def test_an_unknown_endpoint_is_answered_with_what_there_is() -> None:
    catalogue = Catalogue()
    absorb(catalogue, ENDPOINT, 1)
    with pytest.raises(Refusal, match="its endpoints are: task"):
        catalogue.endpoint("team", "tusk")


@pytest.mark.parametrize(
    ("key", "value"), [(None, b"{}"), (b"nonsense", b"{}"), (b"endpoint/team/task@1", b'{"kind": "endpoint/v9"}')]
)
def test_what_cannot_be_read_is_counted_and_harms_nobody(key: bytes | None, value: bytes) -> None:
    catalogue = Catalogue()
    catalogue.absorb(key, value)
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
    actions = [(change.action, change.version) for change in plan(catalogue, [ENDPOINT, PROMPT])]
    assert actions == [("unchanged", 3), ("created", 1)]
    assert [(change.action, change.version) for change in plan(catalogue, [changed])] == [("updated", 4)]


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
