"""What is said of manifests beside the catalogue, though nothing is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue
from guideway.producers.checks.beside import beside
from guideway.producers.checks.calibration import settled
from guideway.producers.checks.check import faults_together
from guideway.schemas.generation import Generation, RequestGeneration
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.retrieval_set import EmbeddingModel, RetrievalSet, SetAlias
from guideway.schemas.kinds.router import Router, RoutingRule
from guideway.schemas.kinds.targets import Target
from guideway.schemas.manifests import Endpoint, Guidance, Manifest
from guideway.schemas.output import Boolean, Text
from guideway.schemas.retrieval import RetrievalRule

MakeEndpoint = Callable[..., Endpoint]
DIGEST = "sha256:" + "0" * 64
OTHER_DIGEST = "sha256:" + "1" * 64
BRIEF = Guidance(namespace="public", name="brief", form="text_prompt", text="Be brief.")
LENT = Guidance(namespace="other", name="tone", form="text_prompt", text="Be kind.", shared_with=["team"])
INBOX = Target(namespace="other", name="inbox", accepts_from=["team"])
FACTS = RetrievalSet(
    namespace="team",
    name="facts",
    artefact=DIGEST,
    embedding=EmbeddingModel(source="m", fingerprint=DIGEST, dimension=3),
    passages=9,
)


def with_all(catalogue: Catalogue, *manifests: Manifest) -> Catalogue:
    return catalogue.after(catalogue_records(plan_changes(catalogue, manifests)))


def said(catalogue: Catalogue, *manifests: Manifest) -> list[str]:
    return [*beside([Source(Path(), one) for one in manifests], catalogue)]


def test_whoever_no_longer_fits_is_named(catalogue: Catalogue, make_endpoint: MakeEndpoint) -> None:
    small = catalogue.model("small")
    catalogue = with_all(
        catalogue,
        LENT,
        INBOX,
        FACTS,
        msgspec.structs.replace(FACTS, artefact=OTHER_DIGEST),
        make_endpoint(name="long", generation=Generation(max_tokens=1000)),
        make_endpoint(name="kind", guidance=["other/tone"]),
        make_endpoint(name="trained", guidance=["team/tone"]),
        make_endpoint(name="sending", targets=["/other/inbox"]),
        make_endpoint(name="asking", retrieval=RetrievalRule(sets=["team/facts"], max_tokens=999)),
        make_endpoint(name="described", description="Says something."),
        Router(namespace="team", name="router", rules=[RoutingRule(when="text", endpoint="/team/described")]),
    )
    for changed, who, why in (
        (
            msgspec.structs.replace(small, max_context_tokens=1000),
            "endpoint team/long",
            "generation.max_tokens is 1000",
        ),
        (msgspec.structs.replace(small, fingerprint=OTHER_DIGEST), "endpoint team/trained", "another base model"),
        (msgspec.structs.replace(LENT, shared_with=[]), "endpoint team/kind", "is not shared with namespace team"),
        (
            msgspec.structs.replace(INBOX, accepts_from=["x"]),
            "endpoint team/sending",
            "accepts no results of namespace",
        ),
        (SetAlias(namespace="team", name="facts", version=9), "endpoint team/asking", "there is no retrieval set"),
        (make_endpoint(name="described"), "router team/router", "it has no endpoint to choose from"),
        (Namespace(namespace="public", name="team", max_tokens=999), "endpoint team/long", "max_tokens is 1000"),
    ):
        lines = [one for one in said(catalogue, changed) if one.startswith(f"{who} does not fit with this any more: ")]
        assert [why in one for one in lines] == [True], (changed, said(catalogue, changed))


def test_who_fits_as_before_or_is_applied_as_well_is_not_named(
    catalogue: Catalogue, make_endpoint: MakeEndpoint
) -> None:
    small = msgspec.structs.replace(catalogue.model("small"), max_context_tokens=1000)
    long = make_endpoint(name="long", generation=Generation(max_tokens=1000))
    dangling = make_endpoint(name="dangling", guidance=["team/gone"])
    catalogue = with_all(catalogue, long, dangling)
    assert said(catalogue, msgspec.structs.replace(BRIEF, text="Be briefer.")) == []
    assert said(catalogue, make_endpoint(name="new")) == []
    assert said(catalogue, small, make_endpoint(name="long")) == []
    many = with_all(catalogue, *(msgspec.structs.replace(long, name=f"long{number}") for number in range(20)))
    assert said(many, small)[-1] == "11 more endpoints and routers do not fit with this any more"


def test_an_endpoint_that_was_calibrated_for_a_text_prompt_is_named_when_that_becomes_trained(
    catalogue: Catalogue, make_endpoint: MakeEndpoint
) -> None:
    prompt = msgspec.structs.replace(BRIEF, namespace="team", name="g")
    trained = Guidance(namespace="team", name="g", form="lora", artefact=DIGEST, model_fingerprint=DIGEST)
    model = msgspec.structs.replace(catalogue.model("small"), fingerprint=DIGEST)
    catalogue = with_all(catalogue, model, prompt)
    asked = [
        make_endpoint(name="auto", guidance=["team/g"], output=Boolean()),
        make_endpoint(name="off", guidance=["team/g"], output=Boolean(), calibration="off"),
        make_endpoint(name="pinned", guidance=["team/g@1"], output=Boolean()),
        make_endpoint(name="text", guidance=["team/g"], output=Text()),
    ]
    catalogue = with_all(catalogue, *settled(asked, catalogue))
    [line] = said(catalogue, trained)
    assert line.startswith("endpoint team/auto was applied when guidance team/g had another form")
    assert said(catalogue, msgspec.structs.replace(prompt, text="Be briefer.")) == []
    assert said(catalogue, trained, asked[0]) == []
    # And the other way round.
    taught = with_all(catalogue, trained)
    taught = with_all(taught, *settled(asked[:1], taught))
    assert len(said(taught, prompt)) == 1


def test_what_surely_leaves_no_room_for_a_text_is_refused_and_named_later(
    catalogue: Catalogue, make_endpoint: MakeEndpoint
) -> None:
    """The model takes 2,048 tokens."""
    soft = Guidance(
        namespace="team",
        name="soft",
        form="soft_prompt",
        artefact=DIGEST,
        model_fingerprint=DIGEST,
        virtual_tokens=1000,
    )
    long = msgspec.structs.replace(soft, name="long", artefact=OTHER_DIGEST, virtual_tokens=1984)
    model = msgspec.structs.replace(catalogue.model("small"), fingerprint=DIGEST)
    catalogue = with_all(catalogue, model, FACTS, soft, long)

    def refused(**fields: object) -> list[str]:
        source = Source(Path(), make_endpoint(**{"generation": Generation(max_tokens=64), **fields}))
        return [fault.message for fault in faults_together([source], catalogue)]

    assert refused(guidance=["team/soft"]) == []
    assert refused(guidance=["team/long"]) == [
        "1984 virtual tokens of guidance and an answer of 64 tokens leave none of the 2048 of model size small for the "
        "text: lower one of them"
    ]
    assert refused(guidance=["team/long"], generation=Generation(max_tokens=63)) == []
    assert len(refused(guidance=["team/soft"], request_guidance=["team/long"])) == 1
    assert refused(request_guidance=["team/long", "team/soft"], generation=Generation(max_tokens=63)) == []
    asked = RequestGeneration(max_tokens=1048)
    [why] = refused(guidance=["team/soft"], request_generation=asked)
    assert why.startswith("1000 virtual tokens of guidance and an answer of 1048 tokens")
    [why] = refused(guidance=["team/soft"], retrieval=RetrievalRule(sets=["team/facts"], max_tokens=984))
    assert why.startswith("1000 virtual tokens of guidance, 984 of passages and an answer of 64 tokens")
    # No token of any vocabulary has more than 1,024 characters.
    letters = "x" * 20_000
    assert refused(instruction=letters, generation=Generation(max_tokens=2028)) == []
    [why] = refused(instruction=letters, generation=Generation(max_tokens=2029))
    assert why.startswith("20,0")
    assert "characters of instruction, text prompts and template and an answer of 2029" in why
    # What comes later is told beside.
    there = with_all(
        catalogue, make_endpoint(name="fits", guidance=["team/soft"], generation=Generation(max_tokens=64))
    )
    assert said(there, msgspec.structs.replace(soft, virtual_tokens=1983)) == []
    [why] = said(there, msgspec.structs.replace(soft, virtual_tokens=1984))
    assert why.startswith("endpoint team/fits does not fit with this any more: 1984 virtual tokens")


@pytest.mark.parametrize(("chars", "answer", "is_said"), [(16_000, 47, False), (16_000, 48, True), (1000, 2000, True)])
def test_prompts_that_hardly_leave_room_are_doubted(
    chars: int, answer: int, is_said: bool, catalogue: Catalogue, make_endpoint: MakeEndpoint
) -> None:
    half = "x" * (chars // 2)
    prompt = msgspec.structs.replace(BRIEF, text=half)
    endpoint = make_endpoint(instruction=half, guidance=["public/brief"], generation=Generation(max_tokens=answer))
    found = said(catalogue, prompt, endpoint)
    assert [f"{chars:,} characters, which hardly fit into the 2048 tokens" in one for one in found] == [True] * is_said
