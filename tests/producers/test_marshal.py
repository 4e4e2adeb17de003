"""Events become requests by the endpoint's rules, or are refused with a code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from guideway.catalogue.entries import Catalogue
from guideway.producers.marshal import marshal
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Field, InputRule
from guideway.schemas.output import WordLabels
from guideway.schemas.request import ReplyAddress, Request
from guideway.schemas.wire import REQUEST

NOW_MS = 1_000_000
MakeEndpoint = Callable[..., Endpoint]


def run(catalogue: Catalogue, endpoint: Endpoint, content: dict[str, Any] | str, **event: Any) -> Request:
    return marshal(
        Event(id="e", content=content, **event),
        endpoint,
        4,
        catalogue,
        reply_to=[ReplyAddress(topic="gw.team.task.out.v1")],
        now_ms=NOW_MS,
    )


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


def test_deadline_of_the_endpoint_counts_from_now(catalogue: Catalogue, make_endpoint: MakeEndpoint) -> None:
    assert run(catalogue, make_endpoint(deadline_s=2.5), "x").deadline_ms == NOW_MS + 2500
    assert run(catalogue, make_endpoint(deadline_s=2.5), "x", deadline_ms=NOW_MS + 1).deadline_ms == NOW_MS + 1


@pytest.mark.parametrize(
    ("content", "event", "endpoint", "code"),
    [
        ({}, {}, {}, FailureCode.MISSING_FIELD),
        ({"text": "a", "more": 1}, {}, {}, FailureCode.UNKNOWN_FIELD),
        ({"text": 5}, {}, {}, FailureCode.WRONG_FIELD),
        ({"text": " "}, {}, {}, FailureCode.WRONG_FIELD),
        ({"text": None}, {}, {}, FailureCode.WRONG_FIELD),
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
