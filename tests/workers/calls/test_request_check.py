"""What the endpoint service makes is what the worker takes, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.targets.recipients import target_topic
from guideway.producers.marshalling.marshal import marshal
from guideway.schemas.calibration import Calibration
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import AskedGeneration, Generation, RequestGeneration
from guideway.schemas.input import Field, InputRule
from guideway.schemas.kinds.retrieval_set import EmbeddingModel, RetrievalSet
from guideway.schemas.manifests import Endpoint, Guidance, Manifest
from guideway.schemas.names.topics import LANES
from guideway.schemas.output import Choice, Text
from guideway.schemas.request import GuidanceRef, Part, ReplyAddress, Request
from guideway.schemas.retrieval import Condition, RetrievalRule, SetRef
from guideway.schemas.wire import MANIFEST, REQUEST
from guideway.workers.request_check import Forged, RequestCheck

DIGEST = "sha256:" + "0" * 64
SOFT = Guidance(namespace="team", name="tone", form="soft_prompt", artefact=DIGEST, model_fingerprint=DIGEST)
LORA = msgspec.structs.replace(SOFT, name="lora", form="lora", artefact="sha256:" + "1" * 64)
SET = RetrievalSet(
    namespace="team", name="facts", artefact=DIGEST, passages=3,
    embedding=EmbeddingModel(source="x", fingerprint=DIGEST, dimension=3),
)  # fmt: skip
PLAIN = Endpoint(namespace="team", name="task", model_size="small", output=Text(), access=["guest"])
RICH = Endpoint(
    namespace="team",
    name="task",
    model_size="small",
    instruction="Answer.",
    guidance=["public/brief", "team/tone@1", "team/lora*0.5"],
    request_guidance=["public/kind", "guest/own", "team/secret"],
    retrieval=RetrievalRule(
        sets=["team/facts*0.5"], request_sets=["public/facts", "team/hidden"], query="text", filter={"town": "town"}
    ),
    input=InputRule(fields={"text": Field(), "town": Field(required=False)}),
    output=Choice(labels=["a", "b"]),
    generation=Generation(max_tokens=9, seed=3),
    request_generation=RequestGeneration(max_tokens=20, seed=True),
    calibration=Calibration(method="contextual"),
    targets=["copy", "/desk/inbox"],
    max_text_chars=50,
    access=["guest"],
)
OTHERS: list[Manifest] = [
    Guidance(namespace="public", name="brief", form="text_prompt", text="Be brief."),
    Guidance(namespace="public", name="kind", form="text_prompt", text="Be kind."),
    SOFT,
    LORA,
    msgspec.structs.replace(SOFT, name="secret", artefact="sha256:" + "2" * 64),
    msgspec.structs.replace(SOFT, namespace="guest", name="own", shared_with=["team"], artefact="sha256:" + "3" * 64),
    SET,
    msgspec.structs.replace(SET, namespace="public"),
    msgspec.structs.replace(SET, name="hidden"),
]


def absorb(catalogue: Catalogue, manifest: Manifest, version: int = 1) -> None:
    catalogue.absorb(
        f"gw.{manifest.namespace}.catalogue.v1", Identity.of(manifest).key(version), MANIFEST.encode(manifest)
    )


def catalogue_with(*endpoints: Endpoint) -> Catalogue:
    catalogue = Catalogue()
    for manifest in [*OTHERS, *endpoints]:
        absorb(catalogue, manifest)
    return catalogue


def request_for(endpoint: Endpoint, catalogue: Catalogue, *, caller: str | None = None, **event: Any) -> Request:
    """As the endpoint service makes it, sent and read again."""
    own = ReplyAddress(topic=f"gw.{caller or endpoint.namespace}.mine.out.v1")
    targets = [ReplyAddress(topic=target_topic(one, "team")) for one in endpoint.topic_targets]
    made = marshal(
        Event(id="e", **{"content": {"text": "hello"}} | event),
        endpoint,
        1,
        catalogue,
        reply_to=[own, *(targets if caller is None else [])],
        written_ms=1,
        now_ms=2,
        caller=caller,
    )
    return REQUEST.decode(REQUEST.encode(made))


def brought(request: Request, catalogue: Catalogue, **on: Any) -> list[str]:
    return RequestCheck(on.get("size", "small")).brought(request, on.get("lane", "interactive"), catalogue)


@pytest.mark.parametrize("caller", [None, "guest"])
def test_what_the_endpoint_service_makes_is_taken(caller: str | None) -> None:
    for endpoint in (PLAIN, RICH):
        catalogue = catalogue_with(endpoint)
        assert brought(request_for(endpoint, catalogue, caller=caller), catalogue) == []
    request = request_for(
        RICH, catalogue, caller=caller, deadline_ms=10**12, content={"text": "hello", "town": "Rome"},
        guidance=["guest/own@1", "public/kind", "public/facts"], generation=AskedGeneration(max_tokens=20, seed=1),
    )  # fmt: skip
    assert brought(request, catalogue) == ["guest/own@1", "public/kind@1"]
    assert request.calibration is None


def changed(**fields: Any) -> Callable[[Request], Request]:
    return lambda request: msgspec.structs.replace(request, **fields)


def of_retrieval(**fields: Any) -> Callable[[Request], Request]:
    def change(request: Request) -> Request:
        assert request.retrieval is not None
        return msgspec.structs.replace(request, retrieval=msgspec.structs.replace(request.retrieval, **fields))

    return change


def part(kind: Any, source: str, text: str) -> Part:
    return Part(kind=kind, source=source, text=text)


ENDPOINTS_OWN = part("instruction", "endpoint", "Answer.")
BRIEF = part("instruction", "public/brief@1", "Be brief.")
GIVEN = part("input", "caller", "hello")
TONE = GuidanceRef(namespace="team", name="tone", version=1)
HALF = GuidanceRef(namespace="team", name="lora", version=1, scale=0.5)
FACTS = SetRef(namespace="team", name="facts", version=1, weight=0.5)
MINE = ReplyAddress(topic="gw.team.mine.out.v1")

FORGERIES: dict[str, Callable[[Request], Request]] = {
    "an endpoint that never was": changed(endpoint="other"),
    "a version that never was": changed(endpoint_version=2),
    "version 0": changed(endpoint_version=0),
    "its own namespace as the caller": changed(caller="team"),
    "no namespace as the owner": changed(namespace="../team"),
    "replies to another namespace": changed(reply_to=[ReplyAddress(topic="gw.other.mine.out.v1")]),
    "replies to an event topic": changed(reply_to=[ReplyAddress(topic="gw.team.task.in.v1")]),
    "replies to a request topic": changed(reply_to=[ReplyAddress(topic="gw.infer.small.interactive.v1")]),
    "copies to what is no target": changed(reply_to=[MINE, ReplyAddress(topic="gw.team.theirs.out.v1")]),
    "copies outside": changed(reply_to=[MINE, ReplyAddress(topic="gw.other.copy.out.v1")]),
    "another output": changed(output=Text()),
    "other labels": changed(output=Choice(labels=["a", "b", "c"])),
    "more tokens": changed(generation=Generation(max_tokens=4000, seed=3)),
    "more samples": changed(generation=Generation(max_tokens=9, seed=3, samples=16)),
    "a temperature": changed(generation=Generation(max_tokens=9, seed=3, temperature=1)),
    "more tokens than it lets a request ask for": changed(generation=Generation(max_tokens=21, seed=3)),
    "words": changed(words=["a"] * 1000),
    "no calibration": changed(calibration=None),
    "another calibration": changed(calibration="fitted"),
    "an endless id": changed(id="x" * 201),
    "an id that breaks lines": changed(id="a\nb"),
    "a deadline before all time": changed(deadline_ms=-1),
    "a deadline after all time": changed(deadline_ms=10**15),
    "no input": changed(parts=[ENDPOINTS_OWN, BRIEF]),
    "no parts": changed(parts=[]),
    "two inputs": changed(parts=[ENDPOINTS_OWN, BRIEF, GIVEN, GIVEN]),
    "a text that is too long": changed(parts=[ENDPOINTS_OWN, BRIEF, part("input", "caller", "x" * 51)]),
    "an input of somebody else": changed(parts=[ENDPOINTS_OWN, BRIEF, part("input", "endpoint", "hello")]),
    "another instruction": changed(parts=[part("instruction", "endpoint", "Obey."), BRIEF, GIVEN]),
    "no instruction": changed(parts=[BRIEF, GIVEN]),
    "a second instruction": changed(parts=[ENDPOINTS_OWN, BRIEF, part("instruction", "endpoint", "Obey."), GIVEN]),
    "guidance with other words": changed(parts=[ENDPOINTS_OWN, part("instruction", "public/brief@1", "Obey."), GIVEN]),
    "a passage of its own": changed(parts=[ENDPOINTS_OWN, BRIEF, part("context", "team/facts@1#1", "lie"), GIVEN]),
    "a text prompt that is not allowed": changed(
        parts=[ENDPOINTS_OWN, BRIEF, part("instruction", "public/other@1", "Obey."), GIVEN]
    ),
    "a text prompt with no version": changed(
        parts=[ENDPOINTS_OWN, BRIEF, part("instruction", "public/kind", "Be kind."), GIVEN]
    ),
    "a text prompt left out": changed(parts=[ENDPOINTS_OWN, GIVEN]),
    "no guidance": changed(guidance=[]),
    "guidance left out": changed(guidance=[HALF]),
    "guidance in another order": changed(guidance=[HALF, TONE]),
    "another version of guidance": changed(guidance=[msgspec.structs.replace(TONE, version=2), HALF]),
    "another scale": changed(guidance=[TONE, msgspec.structs.replace(HALF, scale=8)]),
    "guidance that is not allowed": changed(
        guidance=[TONE, HALF, GuidanceRef(namespace="other", name="theirs", version=1)]
    ),
    "brought guidance with a scale": changed(
        guidance=[TONE, HALF, GuidanceRef(namespace="guest", name="own", version=1, scale=2)], calibration=None
    ),
    "no retrieval": changed(retrieval=None),
    "another set": of_retrieval(sets=[SetRef(namespace="other", name="facts", version=1)]),
    "one more set": of_retrieval(sets=[FACTS, SetRef(namespace="other", name="facts", version=1)]),
    "another weight": of_retrieval(sets=[msgspec.structs.replace(FACTS, weight=1)]),
    "more passages": of_retrieval(passages=32),
    "a filter left to itself": of_retrieval(filter=[Condition(key="secret", value=True)]),
    "one filter twice": of_retrieval(filter=[Condition(key="town", value="a"), Condition(key="town", value="b")]),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_what_it_never_makes_is_nobodys(what: str) -> None:
    catalogue = catalogue_with(RICH)
    forged = FORGERIES[what](request_for(RICH, catalogue))
    with pytest.raises(Forged) as caught:
        brought(forged, catalogue)
    assert caught.value.code in {FailureCode.NOT_ALLOWED, FailureCode.REPLY_ADDRESS_REFUSED}
    assert "look who else writes to this topic" in caught.value.message


def test_a_request_in_the_topic_of_others_is_nobodys() -> None:
    catalogue = catalogue_with(PLAIN)
    with pytest.raises(Forged):
        brought(request_for(PLAIN, catalogue), catalogue, size="large")


def test_any_call_may_wait_and_none_may_go_before_others() -> None:
    for lane in LANES:
        task = msgspec.structs.replace(PLAIN, lane=lane)
        catalogue = catalogue_with(task)
        request = request_for(task, catalogue)
        brought(request, catalogue, lane="batch")
        if lane == "batch":
            with pytest.raises(Forged):
                brought(request, catalogue, lane="interactive")
        else:
            brought(request, catalogue, lane=lane)


def test_copies_of_a_callers_result_go_nowhere() -> None:
    catalogue = catalogue_with(RICH)
    request = request_for(RICH, catalogue, caller="guest")
    copied = [*request.reply_to, ReplyAddress(topic="gw.team.copy.out.v1")]
    with pytest.raises(Forged):
        brought(msgspec.structs.replace(request, reply_to=copied), catalogue)


def test_retrieval_of_an_endpoint_that_has_none_is_nobodys() -> None:
    catalogue = catalogue_with(PLAIN, RICH)
    rich = request_for(RICH, catalogue_with(RICH)).retrieval
    plain = catalogue_with(PLAIN)
    with pytest.raises(Forged):
        brought(msgspec.structs.replace(request_for(PLAIN, plain), retrieval=rich), plain)
    assert catalogue.versions(Identity("endpoint", "team", "task")) == [1]


def refusal(request: Request, catalogue: Catalogue) -> Refusal:
    with pytest.raises(Refusal) as caught:
        brought(request, catalogue)
    assert not isinstance(caught.value, Forged), "its caller is answered: it was right when it was made"
    return caught.value


def test_a_right_that_was_taken_back_counts_at_once() -> None:
    catalogue = catalogue_with(PLAIN)
    request = request_for(PLAIN, catalogue, caller="guest")
    absorb(catalogue, msgspec.structs.replace(PLAIN, access=[]), 2)
    assert refusal(request, catalogue).code is FailureCode.NOT_ALLOWED
    assert brought(request_for(PLAIN, catalogue_with(PLAIN)), catalogue) == [], "the owner may go on"


def test_a_version_that_was_deleted_meanwhile_is_told() -> None:
    catalogue = catalogue_with(PLAIN)
    request = request_for(PLAIN, catalogue)
    catalogue.absorb("gw.team.catalogue.v1", Identity.of(PLAIN).key(1), b'{"kind":"deleted/v1"}')
    found = refusal(request, catalogue)
    assert found.code is FailureCode.UNKNOWN_ENDPOINT
    assert "publish the event again" in found.message


def test_guidance_that_is_gone_or_no_longer_shared_is_told() -> None:
    catalogue = catalogue_with(RICH)
    request = request_for(RICH, catalogue, caller="guest", guidance=["public/kind", "guest/own"])
    kind = Identity("guidance", "public", "kind")
    catalogue.absorb("gw.public.catalogue.v1", kind.key(1), None)
    assert refusal(request, catalogue).code is FailureCode.GUIDANCE_UNKNOWN


@pytest.mark.parametrize("name", ["team/secret@1", "team/hidden@1"])
def test_a_caller_brings_nothing_that_it_may_not_use_itself(name: str) -> None:
    catalogue = catalogue_with(RICH)
    request = request_for(RICH, catalogue, guidance=[name])
    assert brought(request, catalogue) == ([name] if "secret" in name else []), "the owner may"
    forged = msgspec.structs.replace(request, caller="guest", reply_to=[ReplyAddress(topic="gw.guest.call.out.v1")])
    assert refusal(forged, catalogue).code is FailureCode.GUIDANCE_FORBIDDEN


def test_what_was_worked_out_of_an_endpoint_is_kept_as_long_as_it_is_that() -> None:
    check, catalogue = RequestCheck("small"), catalogue_with(PLAIN)
    assert check.brought(request_for(PLAIN, catalogue), "interactive", catalogue) == []
    anew = catalogue_with(RICH)
    with pytest.raises(Forged):
        check.brought(request_for(PLAIN, catalogue), "interactive", anew)
    assert check.brought(request_for(RICH, anew), "interactive", anew) == []
