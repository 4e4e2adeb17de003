"""What is said of a shadow when its endpoint is applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.training.publishing.test_decision import catalogue

from guideway.catalogue.changes import plan_deletion
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.retrieval_set import EmbeddingModel, RetrievalSet
from guideway.schemas.kinds.shadow import Shadow, ShadowChanges
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.output import Json, Text, WordLabels
from guideway.usecases.shadows.checks import shadow_faults, shadow_notes, shadow_trials, shadows_broken_by

MODEL = Model(namespace="public", name="small", source="a", fingerprint="sha256:" + "a" * 64)
TONE = Guidance(namespace="shop", name="tone", form="text_prompt", text="Be kind.")


def mood(name: str = "mood", **rule: Any) -> Endpoint:
    return Endpoint(namespace="shop", name=name, model_size="small", output=Text(), shadow=Shadow(**rule))


def said(there: Catalogue, *manifests: Manifest) -> list[str]:
    return [one.message for one in shadow_faults([Source(Path(), one) for one in manifests], there)]


def test_a_shadow_that_can_be_carried_out() -> None:
    for endpoint in (
        mood(),
        mood(with_=ShadowChanges(guidance=["shop/tone@1"])),
        mood(with_=ShadowChanges(guidance=["shop/tone"], instruction="x")),
    ):
        assert said(catalogue(MODEL), TONE, endpoint) == []
    [note] = shadow_notes([Source(Path(), mood())], catalogue(MODEL))
    assert "the shadow of /shop/mood waits: there is no candidate /shop/mood-candidate yet" in note
    trials = shadow_trials([mood(with_=ShadowChanges(instruction="x"))], catalogue(MODEL))
    assert [one.name for one in trials] == ["mood-replay-now", "mood-replay-new"]
    assert all(one.shadow is None and one.lane == "batch" for one in trials)


def test_results_of_different_types_are_said_to_tell_no_agreement() -> None:
    other = mood(with_=ShadowChanges(output=Json(schema={"type": "integer"})))
    assert said(catalogue(MODEL), other) == []
    [_, note] = shadow_notes([Source(Path(), other)], catalogue(MODEL))
    assert "tells no agreement, only how many events are answered: results of type text cannot be compared" in note
    [_] = shadow_notes([Source(Path(), mood(with_=ShadowChanges(instruction="x")))], catalogue(MODEL))


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        (mood(with_=ShadowChanges(guidance=["shop/tone@2"])), "there is no guidance shop/tone@2 (there is version 1)"),
        (mood(with_=ShadowChanges(model_size="huge")), "huge"),
        (mood(with_=ShadowChanges(retrieval=["shop/faq"])), "shop/faq"),
        (mood(with_=ShadowChanges(output=Json(schema={"type": "number", "minimum": 3, "maximum": 1}))), "minimum"),
        (
            mood(with_=ShadowChanges(output=WordLabels(labels=["a", "b"], words_from="nope"))),
            "cannot be so: output.words_from",
        ),
        (mood("mood-replay-now"), "has the name of a trial"),
    ],
)
def test_what_cannot_be_is_said_at_once(endpoint: Endpoint, says: str) -> None:
    found = said(catalogue(MODEL, TONE), endpoint)
    assert found
    assert says in found[0]


def test_limits_of_the_namespace() -> None:
    few = Namespace(namespace="public", name="shop", endpoints=2)
    assert "may have 2 endpoints" in said(catalogue(MODEL, few), mood(with_=ShadowChanges(instruction="x")))[0]
    shared = Namespace(namespace="public", name="shop", tokens_per_minute=1000)
    assert "say `despite_limits: true`" in said(catalogue(MODEL, shared), mood())[0]
    assert said(catalogue(MODEL, shared), mood(despite_limits=True)) == []


def test_two_shadows_that_each_fit_may_together_be_too_many() -> None:
    four = Namespace(namespace="public", name="shop", endpoints=4)
    one, other = (mood(name, with_=ShadowChanges(instruction="x")) for name in ("mood", "calm"))
    there = catalogue(MODEL, four)
    assert said(there, one) == said(there, other) == []
    found = said(there, one, other)
    assert len(found) == 2
    assert "may have 4 endpoints, and 4 were created before" in found[0]
    assert "endpoint /shop/calm-replay" in found[0]
    assert "apply this `shadow` when another has ended" in found[0]
    six = msgspec.structs.replace(four, endpoints=6)
    assert said(catalogue(MODEL, six), one, other) == []


def test_a_shadow_that_was_there_before_counts_by_its_trials() -> None:
    one, other = (mood(name, with_=ShadowChanges(instruction="x")) for name in ("mood", "calm"))
    there = catalogue(MODEL, Namespace(namespace="public", name="shop", endpoints=4), one)
    assert said(there, one, other) == [], "that of the first is over"
    beside = catalogue(
        MODEL, Namespace(namespace="public", name="shop", endpoints=4), one, *shadow_trials([one], there)
    )
    assert "may have 4 endpoints" in said(beside, one, other)[0]


def test_shadows_that_have_not_begun_are_said_to_be_in_the_way() -> None:
    one, other = (mood(name, with_=ShadowChanges(instruction="x")) for name in ("mood", "calm"))
    four = Namespace(namespace="public", name="shop", endpoints=4)

    def notes(there: Catalogue, *endpoints: Endpoint) -> list[str]:
        found = shadow_notes([Source(Path(), endpoint) for endpoint in endpoints], there)
        return [note for note in found if " is over" in note]

    [note] = notes(catalogue(MODEL, four, one), other)
    assert note.startswith("the shadow of /shop/calm begins when that of /shop/mood is over, if it is not: namespace")
    assert "may have 4 endpoints" in note
    there = catalogue(MODEL, four, one)
    assert notes(catalogue(MODEL, four, one, *shadow_trials([one], there)), other) == [], "it has begun, and counts"
    assert notes(catalogue(MODEL, msgspec.structs.replace(four, endpoints=6), one), other) == []
    assert notes(catalogue(MODEL, one), other) == notes(catalogue(MODEL, four, one), one) == []


def test_a_shadow_whose_place_is_taken_is_said_to_end() -> None:
    one, other = (mood(with_=ShadowChanges(instruction=text)) for text in ("x", "y"))

    def note(endpoint: Manifest) -> str:
        found = shadow_notes([Source(Path(), endpoint)], catalogue(MODEL, one))
        return "".join(note for note in found if "so far ends here" in note)

    says = "the shadow that /shop/mood declares so far ends here, unless it is over: "
    assert note(other) == f"{says}another one begins, which has no rows yet"
    assert note(msgspec.structs.replace(one, instruction="Else.")) == f"{says}another one begins, which has no rows yet"
    assert note(msgspec.structs.replace(one, shadow=None)) == f"{says}it declares none any more"
    assert note(mood()).startswith(f"{says}what it declares now waits: there is no candidate")
    assert note(msgspec.structs.replace(MODEL, fingerprint="sha256:" + "b" * 64)).startswith(says)
    assert note(one) == note(msgspec.structs.replace(one, description="For people.")) == note(TONE) == ""


def test_a_file_that_takes_a_promotion_back_is_said_to() -> None:
    old = mood(promote="if_better", rows=200)
    candidate = msgspec.structs.replace(mood("mood-candidate"), shadow=None, guidance=["shop/tone@1"])
    new = msgspec.structs.replace(old, guidance=["shop/tone@1"])
    there = catalogue(MODEL, TONE, old, candidate, new)

    def notes(endpoint: Endpoint) -> list[str]:
        return [one for one in shadow_notes([Source(Path(), endpoint)], there) if "taken back" in one]

    for stale in (old, msgspec.structs.replace(old, description="For people.")):
        [note] = notes(stale)
        assert "version 2 of /shop/mood, which is as a candidate of it was, is taken back: `guideway studio rol" in note
    assert notes(new) == []
    assert notes(msgspec.structs.replace(new, description="For people.")) == []
    assert notes(msgspec.structs.replace(old, instruction="Else.")) == []
    described = msgspec.structs.replace(new, description="For people.")
    there = catalogue(MODEL, TONE, old, candidate, new, described, msgspec.structs.replace(candidate, guidance=[]))
    [note] = notes(old)
    assert "version 3 of /shop/mood" in note, "whatever else came since"
    there = catalogue(MODEL, TONE, old, candidate, new, old, described)
    assert len(notes(old)) == 1
    there = catalogue(MODEL, TONE, old, candidate, new, old)
    assert notes(old) == notes(new) == [], "it was taken back before"


def test_an_endpoint_of_somebody_with_the_name_of_a_trial_is_kept() -> None:
    theirs = msgspec.structs.replace(mood("mood-replay-new"), shadow=None, description="Mine.")
    assert "is an endpoint of yours" in said(catalogue(MODEL, theirs), mood(with_=ShadowChanges(instruction="x")))[0]


def test_what_only_a_shadow_names_is_known_before_it_is_deleted() -> None:
    huge = msgspec.structs.replace(MODEL, name="huge")
    trained = Guidance(
        namespace="shop", name="lora", form="lora", artefact=str(MODEL.fingerprint), model_fingerprint=MODEL.fingerprint
    )
    ends = EmbeddingModel(source="m", fingerprint=str(MODEL.fingerprint), dimension=3)
    facts = RetrievalSet(namespace="shop", name="f", artefact=str(MODEL.fingerprint), embedding=ends, passages=9)
    candidate = Endpoint(namespace="shop", name="plain-candidate", model_size="small", output=Text(), instruction="x")
    there = catalogue(
        MODEL,
        huge,
        TONE,
        msgspec.structs.replace(TONE, text="Be very kind."),
        msgspec.structs.replace(trained, model_fingerprint="sha256:" + "b" * 64),
        trained,
        facts,
        candidate,
        mood("plain", with_="candidate"),
        mood("pinned", with_=ShadowChanges(guidance=["shop/tone@1"])),
        mood("newest", with_=ShadowChanges(guidance=["shop/tone"])),
        mood("tuned", with_=ShadowChanges(guidance=["shop/lora"])),
        mood("bigger", with_=ShadowChanges(model_size="huge")),
        mood("asking", with_=ShadowChanges(retrieval=["shop/f"])),
        mood("waiting", with_=ShadowChanges(guidance=["shop/gone"])),
    )

    def broken(manifest: Manifest, *versions: int) -> dict[str, str]:
        identity = Identity.of(manifest)
        gone = plan_deletion(there, identity, versions or there.versions(identity))
        return {address.removeprefix("/shop/"): why for address, why in shadows_broken_by(gone, there)}

    assert broken(TONE, 1).keys() == {"pinned"}
    assert broken(TONE, 2) == {}, "the name stands for version 1 then"
    assert broken(TONE).keys() == {"pinned", "newest"}
    assert "another base model" in broken(trained, 2)["tuned"]
    assert "there is no model size" in broken(huge)["bigger"]
    assert "there is no retrieval set" in broken(facts)["asking"]
    assert broken(mood("newest")) == {}
    assert "there is no candidate" in broken(candidate)["plain"]
