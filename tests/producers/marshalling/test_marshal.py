"""Events become requests by the endpoint's rules, or are refused with a code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.producers.conftest import DIGEST, OTHER_DIGEST
from tests.protos import input_rule

from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.checks.check import check_manifests
from guideway.producers.marshalling.marshal import marshal
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import AskedGeneration, Generation, RequestGeneration
from guideway.schemas.input import Field, InputRule
from guideway.schemas.kinds.retrieval_set import EmbeddingModel, RetrievalSet
from guideway.schemas.manifests import Endpoint, Guidance
from guideway.schemas.names.content_types import REPLY_MESSAGE
from guideway.schemas.output import Boolean, Choice, Number, Text, WordLabels
from guideway.schemas.request import ReplyAddress, Request
from guideway.schemas.retrieval import Condition, RetrievalRule
from guideway.schemas.wire import MANIFEST, REQUEST

NOW_MS = 1_000_000
MakeEndpoint = Callable[..., Endpoint]


def run(
    catalogue: Catalogue,
    endpoint: Endpoint,
    content: dict[str, Any] | str,
    written_ms: int = NOW_MS,
    caller: str | None = None,
    **event: Any,
) -> Request:
    return marshal(
        Event(id="e", content=content, **event),
        endpoint,
        4,
        catalogue,
        reply_to=[ReplyAddress(topic="gw.team.task.out.v1")],
        written_ms=written_ms,
        now_ms=NOW_MS,
        caller=caller,
    )


def test_the_reply_is_a_message_where_the_event_asks_for_one(catalogue: Catalogue, make_endpoint: MakeEndpoint) -> None:
    own = input_rule()
    plain, made = make_endpoint(), make_endpoint(input=own, output_message="shop.v1.TicketMood")
    assert run(catalogue, plain, "hello").reply_message is None
    assert run(catalogue, plain, "hello", reply_message="").reply_message == REPLY_MESSAGE
    assert run(catalogue, made, "hello", reply_message="").reply_message == "shop.v1.TicketMood"
    assert run(catalogue, made, "hello", reply_message=REPLY_MESSAGE).reply_message == REPLY_MESSAGE
    with pytest.raises(Refusal, match=r"and a reply of this endpoint is guideway\.v1\.Reply: name that"):
        run(catalogue, plain, "hello", reply_message="shop.v1.TicketMood")
    with pytest.raises(Refusal, match=r"guideway\.v1\.Reply or shop\.v1\.TicketMood: name that"):
        run(catalogue, made, "hello", reply_message="shop.v1.Ticket")
    several = msgspec.structs.replace(made, generation=Generation(samples=2, temperature=1))
    with pytest.raises(Refusal, match=r"2 samples are asked for, and message shop\.v1\.TicketMood holds one"):
        run(catalogue, several, "hello", reply_message="")
    assert run(catalogue, several, "hello", reply_message=REPLY_MESSAGE).reply_message == REPLY_MESSAGE


def test_parts_stand_in_their_fixed_order_and_say_whose_they_are(
    catalogue: Catalogue, make_endpoint: MakeEndpoint
) -> None:
    endpoint = make_endpoint(
        instruction="Answer.", guidance=["public/brief", "team/tone"], request_guidance=["other/lent"]
    )
    request = run(catalogue, endpoint, "hello", guidance=["other/lent"])
    assert [(part.kind, part.source, part.text) for part in request.parts] == [
        ("instruction", "endpoint", "Answer."),
        ("instruction", "public/brief@1", "Be brief."),
        ("input", "caller", "hello"),
    ]
    assert [str(ref) for ref in request.guidance] == ["team/tone@1", "other/lent@1"]
    assert request.endpoint_version == 4
    assert REQUEST.decode(REQUEST.encode(request)) == request


def test_fields_are_typed_and_defaulted(catalogue: Catalogue, make_endpoint: MakeEndpoint) -> None:
    rule = InputRule(
        fields={
            "text": Field(),
            "n": Field(type="number"),
            "flag": Field(type="boolean", required=False, default=False),
            "tags": Field(type="array", required=False, default=[]),
        },
        template="{text}|{n}|{flag}|{tags}",
    )
    request = run(catalogue, make_endpoint(input=rule), {"text": "a", "n": 1.5, "tags": ["x"], "flag": None})
    assert request.parts[-1].text == 'a|1.5|false|["x"]'


def test_words_to_label_come_from_the_named_field(catalogue: Catalogue, make_endpoint: MakeEndpoint) -> None:
    endpoint = make_endpoint(output=WordLabels(labels=["A", "B"]))
    assert run(catalogue, endpoint, "one  two\nthree").words == ["one", "two", "three"]


def test_deadline_of_the_endpoint_counts_from_when_the_event_was_written(
    catalogue: Catalogue, make_endpoint: MakeEndpoint
) -> None:
    endpoint = make_endpoint(deadline_s=2.5)
    assert run(catalogue, endpoint, "x", NOW_MS - 1_000).deadline_ms == NOW_MS + 1_500
    assert run(catalogue, endpoint, "x", NOW_MS - 1_000, deadline_ms=NOW_MS + 1).deadline_ms == NOW_MS + 1


def test_an_event_that_waited_longer_than_its_endpoint_gives_it_is_not_computed(
    catalogue: Catalogue, make_endpoint: MakeEndpoint
) -> None:
    with pytest.raises(Refusal) as caught:
        run(catalogue, make_endpoint(deadline_s=2.5), "x", NOW_MS - 2_500)
    assert caught.value.code is FailureCode.DEADLINE_EXCEEDED


OF_BODY = InputRule(fields={"o": Field(type="object")}, template="Text: {o.body}", text_field=None)


@pytest.mark.parametrize(
    ("content", "template"),
    [
        ({"n": 0}, "{n}"),
        ({"b": False}, "Is it? {b}"),
        ({}, "{hint || 'Surprise me.'}"),
        ({"b": False}, "Greet them. {b && 'Be polite.' || ''}"),
        ({}, "All of it: {@}"),
    ],
)
def test_a_text_with_something_of_the_event_is_taken(
    catalogue: Catalogue, make_endpoint: MakeEndpoint, content: dict[str, Any], template: str
) -> None:
    kinds: dict[str, Any] = {"n": "integer", "b": "boolean", "hint": "string"}
    fields = {name: Field(type=kind, required=False) for name, kind in kinds.items()}
    endpoint = make_endpoint(input=InputRule(fields=fields, template=template, text_field="hint"))
    assert run(catalogue, endpoint, content).parts


@pytest.mark.parametrize(
    ("content", "event", "endpoint", "code"),
    [
        ({}, {}, {}, FailureCode.MISSING_FIELD),
        ({"text": "a", "more": 1}, {}, {}, FailureCode.UNKNOWN_FIELD),
        ({"text": 5}, {}, {}, FailureCode.WRONG_FIELD),
        ({"text": " "}, {}, {}, FailureCode.WRONG_FIELD),
        ({"text": None}, {}, {}, FailureCode.WRONG_FIELD),
        ({"text": "\u200b\u00ad\u0000\ufeff"}, {}, {}, FailureCode.WRONG_FIELD),
        ({}, {}, {"input": InputRule(fields={"text": Field(required=False)})}, FailureCode.WRONG_FIELD),
        ({"o": {"Body": "x"}}, {}, {"input": OF_BODY}, FailureCode.WRONG_FIELD),
        (
            {"n": True},
            {},
            {"input": InputRule(fields={"n": Field(type="integer")}, text_field=None)},
            FailureCode.WRONG_FIELD,
        ),
        ("plain", {}, {"input": InputRule(fields={"n": Field()}, text_field=None)}, FailureCode.UNDECODABLE_EVENT),
        ("x" * 101, {}, {"max_text_chars": 100}, FailureCode.TEXT_TOO_LONG),
        ("x" * 11, {}, {"input": InputRule(fields={"text": Field(max_chars=10)})}, FailureCode.TEXT_TOO_LONG),
        ("x", {"deadline_ms": NOW_MS}, {}, FailureCode.DEADLINE_EXCEEDED),
        ("x", {}, {"guidance": ["team/nothing"]}, FailureCode.GUIDANCE_UNKNOWN),
        ("x", {}, {"guidance": ["team/tone@9"]}, FailureCode.GUIDANCE_UNKNOWN),
        ("x", {}, {"guidance": ["other/secret"]}, FailureCode.GUIDANCE_FORBIDDEN),
        ("x", {"guidance": ["team/tone"]}, {}, FailureCode.GUIDANCE_FORBIDDEN),
        ("x", {}, {"input": InputRule(template="{length(missing)}")}, FailureCode.WRONG_FIELD),
    ],
)
def test_refused(
    catalogue: Catalogue,
    make_endpoint: MakeEndpoint,
    content: dict[str, Any] | str,
    event: dict[str, Any],
    endpoint: dict[str, Any],
    code: FailureCode,
) -> None:
    with pytest.raises(Refusal) as caught:
        run(catalogue, make_endpoint(**endpoint), content, **event)
    assert caught.value.code is code
    assert len(caught.value.message) > 20, "a sentence that says what to change"


FACTS = RetrievalSet(
    namespace="public",
    name="facts",
    artefact="sha256:" + "0" * 64,
    embedding=EmbeddingModel(source="x", fingerprint="sha256:" + "1" * 64, dimension=4),
    passages=3,
)


@pytest.fixture
def with_sets(catalogue: Catalogue) -> Catalogue:
    secret = msgspec.structs.replace(FACTS, namespace="other")
    for manifest, version in ((FACTS, 1), (FACTS, 2), (secret, 1)):
        catalogue.absorb(Identity.of(manifest).topic, Identity.of(manifest).key(version), MANIFEST.encode(manifest))
    return catalogue


def test_retrieval_is_bound_to_one_version_of_each_set(with_sets: Catalogue, make_endpoint: MakeEndpoint) -> None:
    rule = RetrievalRule(sets=["public/facts*0.5", "public/facts@1"], passages=2, if_none="refuse")
    request = run(with_sets, make_endpoint(retrieval=rule), "hello")
    wanted = request.retrieval
    assert wanted is not None
    assert [(str(ref), ref.weight) for ref in wanted.sets] == [("public/facts@2", 0.5), ("public/facts@1", 1.0)]
    assert (wanted.query, wanted.passages, wanted.if_none) == ("hello", 2, "refuse")
    assert REQUEST.decode(REQUEST.encode(request)) == request


def test_the_query_is_a_field_and_fields_filter(with_sets: Catalogue, make_endpoint: MakeEndpoint) -> None:
    endpoint = make_endpoint(
        input=InputRule(
            fields={"text": Field(), "asked": Field(required=False), "year": Field(type="integer", required=False)},
            template="Text: {text}",
        ),
        retrieval=RetrievalRule(sets=["public/facts"], query="asked", filter={"published": "year"}),
    )
    whole = run(with_sets, endpoint, {"text": "t"}).retrieval
    field = run(with_sets, endpoint, {"text": "t", "asked": "a", "year": 1990}).retrieval
    assert whole is not None
    assert field is not None
    assert (whole.query, whole.filter) == ("Text: t", [])
    assert (field.query, field.filter) == ("a", [Condition(key="published", value=1990)])


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**70])
def test_an_integer_that_no_index_holds_is_refused(
    with_sets: Catalogue, make_endpoint: MakeEndpoint, value: int
) -> None:
    endpoint = make_endpoint(
        input=InputRule(fields={"text": Field(), "year": Field(type="integer")}),
        retrieval=RetrievalRule(sets=["public/facts"], filter={"published": "year"}),
    )
    with pytest.raises(Refusal) as caught:
        run(with_sets, endpoint, {"text": "t", "year": value})
    assert caught.value.code is FailureCode.WRONG_FIELD
    inside = run(with_sets, endpoint, {"text": "t", "year": value // abs(value) * (2**63 - 1)})
    assert REQUEST.decode(REQUEST.encode(inside)) == inside


@pytest.mark.parametrize(
    ("type_", "default"),
    [("integer", "1990"), ("integer", True), ("integer", 2**63), ("boolean", 1), ("string", ["a"])],
)
def test_a_default_that_cannot_be_looked_up_by_is_no_endpoint(type_: Any, default: Any) -> None:
    fields = {"text": Field(), "year": Field(type=type_, required=False, default=default)}
    rules = [RetrievalRule(sets=["public/facts"], filter={"published": "year"})]
    rules += [RetrievalRule(sets=["public/facts"], query="year")] if type_ == "string" else []
    for rule in rules:
        with pytest.raises(ValueError, match=f"type {type_}"):
            Endpoint(
                namespace="team",
                name="task",
                model_size="small",
                output=Text(),
                input=InputRule(fields=fields),
                retrieval=rule,
            )


def test_an_event_brings_a_set_only_where_it_may(with_sets: Catalogue, make_endpoint: MakeEndpoint) -> None:
    endpoint = make_endpoint(retrieval=RetrievalRule(request_sets=["public/facts"]))
    assert run(with_sets, endpoint, "hello").retrieval is None
    wanted = run(with_sets, endpoint, "hello", guidance=["public/facts@1"]).retrieval
    assert wanted is not None
    assert [str(ref) for ref in wanted.sets] == ["public/facts@1"]
    for refused in ("other/facts", "public/brief"):
        with pytest.raises(Refusal) as caught:
            run(with_sets, endpoint, "hello", guidance=[refused])
        assert caught.value.code is FailureCode.GUIDANCE_FORBIDDEN
    many = make_endpoint(retrieval=RetrievalRule(sets=["public/facts"] * 16, request_sets=["public/facts"]))
    with pytest.raises(Refusal, match="17 retrieval sets"):
        run(with_sets, many, "hello", guidance=["public/facts"])


def test_an_event_brings_no_set_that_the_endpoint_answers_from(
    with_sets: Catalogue, make_endpoint: MakeEndpoint
) -> None:
    rule = RetrievalRule(sets=["public/facts@1"], request_sets=["public/facts"])
    for brought in (["public/facts@1"], ["public/facts"]):
        with pytest.raises(Refusal, match="public/facts is named twice") as caught:
            run(with_sets, make_endpoint(retrieval=rule), "hello", guidance=brought)
        assert caught.value.code is FailureCode.GUIDANCE_FORBIDDEN
    alone = RetrievalRule(request_sets=["public/facts"])
    with pytest.raises(Refusal, match="public/facts is named twice"):
        run(with_sets, make_endpoint(retrieval=alone), "hello", guidance=["public/facts", "public/facts@1"])


@pytest.mark.parametrize(
    ("name", "code"),
    [("other/facts", FailureCode.GUIDANCE_FORBIDDEN), ("public/none", FailureCode.GUIDANCE_UNKNOWN)],
)
def test_a_set_that_may_not_be_used_is_refused(
    with_sets: Catalogue, make_endpoint: MakeEndpoint, name: str, code: FailureCode
) -> None:
    with pytest.raises(Refusal) as caught:
        run(with_sets, make_endpoint(retrieval=RetrievalRule(sets=[name])), "hello")
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("own", "brought", "said"),
    [
        ([], ["team/tone"] * 5000, "5000 guidances are named for one request, at most 16 may be"),
        ([], ["team/tone"] * 17, "17 guidances"),
        ([], ["team/tone", "team/tone"], "named twice"),
        ([], ["team/tone", "team/tone@1"], "named twice"),
        ([], ["team/tone@2", "team/tone@1"], "named twice"),
        (["team/tone"], ["team/tone"], "named twice"),
        (["team/tone@1*0.5"], ["team/tone"], "named twice"),
        (["team/tone", "team/tone"], [], "named twice"),
        (["public/brief"], ["public/brief@1"], "named twice"),
        (["team/tone"], ["team/same"], "team/same@1 is the same artefact as team/tone@1"),
        (["team/tone"] * 20, [], "20 guidances"),
    ],
)
def test_guidance_acts_once_and_there_is_so_much_of_it(
    catalogue: Catalogue, make_endpoint: MakeEndpoint, own: list[str], brought: list[str], said: str
) -> None:
    tone = Guidance(namespace="team", name="tone", form="lora", artefact=DIGEST, model_fingerprint=DIGEST)
    again = msgspec.structs.replace(tone, artefact=OTHER_DIGEST)
    for one, version in ((tone, 1), (again, 2), (msgspec.structs.replace(tone, name="same"), 1)):
        catalogue.absorb(Identity.of(one).topic, Identity.of(one).key(version), MANIFEST.encode(one))
    own = [name.replace("tone*", "tone@1*") if name != "team/tone" else "team/tone@1" for name in own]
    endpoint = make_endpoint(guidance=own, request_guidance=["team/tone", "team/same", "public/brief"])
    with pytest.raises(Refusal, match=said) as caught:
        run(catalogue, endpoint, "x", guidance=brought)
    assert caught.value.code is FailureCode.GUIDANCE_FORBIDDEN
    if own:
        with pytest.raises(Refusal, match=r"twice|the same artefact|at most 16") as told:
            check_manifests(
                [msgspec.structs.replace(endpoint, request_guidance=list(dict.fromkeys(brought)))], catalogue
            )
        assert told.value.code is FailureCode.INVALID_MANIFEST


def test_a_call_brings_what_the_endpoint_allows_and_both_may_use(
    catalogue: Catalogue, make_endpoint: MakeEndpoint
) -> None:
    endpoint = make_endpoint(request_guidance=["public/brief", "team/tone", "other/lent", "other/none"])
    request = run(catalogue, endpoint, "hello", caller="guest", guidance=["public/brief"])
    assert request.caller == request.calling_namespace == "guest"
    told = set()
    for name in ("team/tone", "other/lent", "other/none", "team/unheard-of"):
        with pytest.raises(Refusal) as caught:
            run(catalogue, endpoint, "hello", caller="guest", guidance=[name])
        assert caught.value.code is FailureCode.GUIDANCE_FORBIDDEN
        told.add((caught.value.to_others or "").replace(name, "NAME"))
    assert len(told) == 1, "whether it exists, is listed or is shared is not told"


def test_different_guidance_acts_together(catalogue: Catalogue, make_endpoint: MakeEndpoint) -> None:
    endpoint = make_endpoint(guidance=["team/tone", "public/brief"], request_guidance=["other/lent"])
    assert len(run(catalogue, endpoint, "x", guidance=["other/lent"]).guidance) == 2
    check_manifests([endpoint], catalogue)


ASKABLE = RequestGeneration(max_tokens=512, temperature=1.5, samples=4, seed=True, top_p=True, stop=True)


def test_an_event_sets_what_its_endpoint_lets_it_set(catalogue: Catalogue, make_endpoint: MakeEndpoint) -> None:
    own = Generation(max_tokens=32, temperature=0.5, stop=["\n"])
    endpoint = make_endpoint(generation=own, request_generation=ASKABLE)
    asked = AskedGeneration(max_tokens=512, samples=4, seed=0, stop=[])
    assert run(catalogue, endpoint, "x").generation == own
    made = run(catalogue, endpoint, "x", generation=asked).generation
    assert made == Generation(max_tokens=512, temperature=0.5, samples=4, seed=0)
    assert run(catalogue, endpoint, "x", generation=AskedGeneration(max_tokens=1, temperature=0)).generation == (
        Generation(max_tokens=1, stop=["\n"])
    )


def test_what_equals_the_endpoints_own_is_never_refused(catalogue: Catalogue, make_endpoint: MakeEndpoint) -> None:
    own = Generation(max_tokens=32, temperature=0.5, samples=2, stop=["\n"], seed=4)
    asked = AskedGeneration(**msgspec.structs.asdict(own))
    assert run(catalogue, make_endpoint(generation=own), "x", generation=asked).generation is not None
    smaller = make_endpoint(generation=own, request_generation=RequestGeneration(max_tokens=16))
    assert run(catalogue, smaller, "x", generation=asked).generation == own


@pytest.mark.parametrize(
    ("asked", "allowed", "said"),
    [
        ({"temperature": 0.7}, {}, "does not let a request set temperature: .*`temperature: 0.7` written under"),
        (
            {"stop": ["a"]},
            {"seed": True},
            "`stop: true` written under request_generation in the manifest of /team/task",
        ),
        ({"seed": 0}, {}, "`seed: true`"),
        ({"top_p": 0.5}, {}, "`top_p: true`"),
        ({"samples": 5}, {"samples": 4}, "samples is 5, and a request may ask this endpoint for 4 at most"),
        ({"max_tokens": 65}, {"max_tokens": 60}, "max_tokens is 65"),
        ({"temperature": 0.5}, {"temperature": 0.0}, "temperature is 0.5"),
    ],
)
def test_what_an_event_may_not_set_is_refused(
    catalogue: Catalogue, make_endpoint: MakeEndpoint, asked: dict[str, Any], allowed: dict[str, Any], said: str
) -> None:
    endpoint = make_endpoint(request_generation=RequestGeneration(**allowed))
    with pytest.raises(Refusal, match=said) as caught:
        run(catalogue, endpoint, "x", generation=AskedGeneration(**asked))
    assert caught.value.code is FailureCode.GENERATION_REFUSED


def test_a_stop_string_that_would_cut_results_is_refused(catalogue: Catalogue, make_endpoint: MakeEndpoint) -> None:
    for output, stop in ((Choice(labels=["yes", "no"]), "e"), (Number(), "4"), (Boolean(), "true")):
        endpoint = make_endpoint(output=output, request_generation=ASKABLE)
        with pytest.raises(Refusal, match="would cut results") as caught:
            run(catalogue, endpoint, "x", generation=AskedGeneration(stop=["\n", stop]))
        assert caught.value.code is FailureCode.GENERATION_REFUSED
        assert run(catalogue, endpoint, "x", generation=AskedGeneration(stop=["\n"])).generation.stop == ["\n"]
