"""What a client may send in OpenAI's form, and what it is told of the rest."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from guideway.producers.gateway.openai.event import Prepared, prepared, to_blame
from guideway.producers.gateway.openai.parameters import Chat, Completion, generation_of, read_chat, read_completion
from guideway.producers.gateway.openai.refused import Wrong, envelope
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation, RequestGeneration
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Choice, Json, Text

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "required": ["b", "a"],
    "properties": {"a": {"type": "string"}, "b": {"enum": ["title"]}, "title": {"type": "integer"}},
}
WRITE = Endpoint(namespace="shop", name="write", model_size="small", output=Text())
MOOD = msgspec.structs.replace(WRITE, name="mood", output=Choice(labels=["good", "bad"]))
PARTS = msgspec.structs.replace(WRITE, name="parts", output=Json(schema=SCHEMA))
FORM = msgspec.structs.replace(
    WRITE,
    name="form",
    input=InputRule(fields={"city": Field(), "floor": Field(type="integer")}, template="{city}", text_field=None),
)
MIXED = msgspec.structs.replace(
    WRITE, name="mixed", input=InputRule(fields={"text": Field(), "town": Field(), "floor": Field(type="integer")})
)


def chat(**more: Any) -> Chat:
    return read_chat(json.dumps({"model": "shop/write", "messages": HELLO} | more).encode())


def made(endpoint: Endpoint | None = WRITE, **more: Any) -> Prepared:
    return prepared(chat(**more), endpoint)


def test_the_message_of_the_user_is_the_text_field() -> None:
    assert (made().content, made().content_type) == (b"Hello", "text/plain; charset=utf-8")
    assert made().headers == made(temperature=None, stop=None, n=None).headers == ()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "ü"}]
    assert made(messages=[{"role": "user", "content": parts}]).content == "a\nü".encode()
    asked = read_completion(b'{"model": "shop/write", "prompt": ["Hello"], "max_tokens": 3}')
    assert prepared(asked, WRITE).content == b"Hello"


def test_other_fields_come_by_metadata_and_by_fields() -> None:
    given = made(MIXED, metadata={"town": "Rome"}, fields={"floor": 3})
    assert json.loads(given.content) == {"text": "Hello", "town": "Rome", "floor": 3}
    assert json.loads(made(FORM, messages=[], fields={"city": "Rome", "floor": 3}).content) == {
        "city": "Rome",
        "floor": 3,
    }
    asked = read_completion(b'{"model": "shop/form", "prompt": "", "fields": {"city": "Rome"}}')
    assert json.loads(prepared(asked, FORM).content) == {"city": "Rome"}


def test_generation_parameters_go_along_under_our_names() -> None:
    given = made(n=2, max_completion_tokens=9, temperature=1, top_p=0.5, stop="END", seed=7, guidance=["public/brief"])
    assert [(name, json.loads(value)) for name, value in given.headers] == [
        ("generation", {"samples": 2, "max_tokens": 9, "temperature": 1, "top_p": 0.5, "stop": ["END"], "seed": 7})
    ]
    assert given.guidance == ("public/brief",)


def test_the_router_gets_the_text_as_it_is() -> None:
    given = made(None)
    assert (given.content, given.content_type) == (b"Hello", "text/plain; charset=utf-8")
    more: dict[str, Any]
    for more in ({"fields": {"town": "Rome"}}, {"messages": []}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(Wrong, match="router"):
            made(None, **more)


def test_what_asks_for_nothing_may_be_sent() -> None:
    made(
        frequency_penalty=0, presence_penalty=0.0, logit_bias={}, tools=[], tool_choice="auto", store=False, echo=None,
        service_tier="auto", parallel_tool_calls=True, user="u-1", logprobs=False, stream_options={},
        response_format={"type": "text"}, modalities=["text"], reasoning_effort=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"temperture": 1}, "temperture", "unknown parameter 'temperture'"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "frequency_penalty has no effect here, so 0.5"),
        ({"best_of": True}, "best_of", "no effect"),
        ({"tools": [{"type": "function"}]}, "tools", "no effect"),
        ({"model": None}, "model", "missing"),
        ({"model": 7}, "model", "expected `str`"),
        ({"messages": []}, "messages", "messages is empty"),
        ({"messages": None}, "messages", "missing"),
        ({"messages": "Hello"}, "messages", "expected `array`"),
        ({"messages": HELLO * 1001}, "messages", "length"),
        ({"messages": [{"role": "system", "content": "Obey."}, *HELLO]}, "messages[0]", "no system message is taken"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Hi"}, *HELLO]}, "messages[0]", "no conversation"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "messages[0]", "no conversation"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0]", "'tool'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "no content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "expected"),
        ({"messages": [{"role": "user", "text": "a"}]}, "messages[0].text", "unknown field `text`"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "'image_url'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache": 1}]}]},
            "messages[0].content[0].cache",
            "'cache'",
        ),
        ({"n": 0}, "n", ">= 1"),
        ({"n": 100}, "n", "n cannot be 100.*<= 16"),
        ({"n": 1.5}, "n", "expected `int"),
        ({"n": True}, "n", "expected `int"),
        ({"temperature": 30}, "temperature", "<= 10"),
        ({"temperature": -1}, "temperature", ">= 0"),
        ({"temperature": "hot"}, "temperature", "expected `float"),
        ({"top_p": 0}, "top_p", "> 0"),
        ({"max_tokens": 10**9}, "max_tokens", "<= 32768"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens", "<= 32768"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "leave one out"),
        ({"stop": ["a"] * 9}, "stop", "<= 8"),
        ({"stop": [""]}, "stop", ">= 1"),
        ({"stop": 5}, "stop", "expected"),
        ({"seed": -1}, "seed", ">= 0"),
        ({"seed": 2**63}, "seed", "seed"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "<= 20"),
        ({"logprobs": True}, "logprobs", "no log-probabilities"),
        ({"stream_options": {"include": True}}, "stream_options.include", "unknown field"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid enum value"),
        ({"response_format": {"type": "json_object"}}, "response_format", "answers with `type: text`"),
        ({"metadata": {"a": 1}}, "metadata[...]", "expected `str`"),
        ({"metadata": {"text": "a"}}, "messages", "given by fields or metadata too"),
        ({"metadata": {"a": "1"}, "fields": {"a": "1"}}, "metadata", "leave one out"),
        ({"user": 5}, "user", "expected `str"),
    ],
)
def test_what_is_refused_names_the_parameter(more: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(Wrong, match=said) as caught:
        made(**more)
    status, body = envelope(caught.value)
    assert (status.http, body["error"]["type"], body["error"]["code"]) == (400, "invalid_request_error", "bad_request")
    assert body["error"]["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b'"a"', b"\xff", b'{"model": "a", "model": "b"}', b'{"temperature": NaN}',
        b'{"model": "shop/write", "messages": [{"role": "user", "content": "\\ud800"}]}', b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    for read in (read_chat, read_completion):
        with pytest.raises(Wrong) as caught:
            read(body)
        assert "text/plain" not in caught.value.message, "there is no such way here"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [([1, 2], "as tokens"), ([[1]], "as tokens"), (["a", "b"], "2 prompts"), ("", "empty"), ([], "empty")],
)
def test_prompts_that_are_no_one_text_are_refused(prompt: Any, said: str) -> None:
    asked = read_completion(json.dumps({"model": "shop/write", "prompt": prompt}).encode())
    assert isinstance(asked, Completion)
    with pytest.raises(Wrong, match=said) as caught:
        prepared(asked, WRITE)
    assert caught.value.param == "prompt"


def test_a_text_for_an_endpoint_that_takes_none_is_refused() -> None:
    with pytest.raises(Wrong, match=r"takes no plain text.*give city, floor by `fields`"):
        made(FORM)


def form(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}


def test_the_endpoints_own_schema_may_be_given_however_it_is_written() -> None:
    written = {
        "title": "Parts",
        "properties": {
            "b": {"enum": ["title"]},
            "a": {"type": "string", "description": "the first"},
            "title": {"type": "integer", "title": "Title"},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
        "type": "object",
    }
    for schema in (SCHEMA, written):
        made(PARTS, response_format=form(schema, strict=True))
    made(PARTS, response_format={"type": "json_object"})


@pytest.mark.parametrize(
    "schema",
    [
        {},
        SCHEMA | {"required": ["a"]},
        SCHEMA | {"additionalProperties": True},
        SCHEMA | {"properties": {"a": {"type": "string"}, "b": {"enum": ["title"]}}},
        SCHEMA | {"properties": {"a": {"type": "string"}, "b": {"enum": ["Title"]}, "title": {"type": "integer"}}},
    ],
)
def test_another_schema_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(Wrong, match="not the endpoint's own") as caught:
        made(PARTS, response_format=form(schema))
    assert caught.value.param == "response_format.json_schema.schema"
    with pytest.raises(Wrong, match="answers with `type: choice`"):
        made(MOOD, response_format=form(schema))


@pytest.mark.parametrize(("own", "given"), [([0, 1], [False, True]), ([[1]], [[True]]), ([{"a": 1}], [{"a": True}])])
def test_a_schema_of_booleans_is_not_one_of_numbers(own: list[Any], given: list[Any]) -> None:
    endpoint = msgspec.structs.replace(PARTS, output=Json(schema={"enum": own}))
    made(endpoint, response_format=form({"enum": own}))
    with pytest.raises(Wrong, match="not the endpoint's own"):
        made(endpoint, response_format=form({"enum": given}))


def test_a_schema_of_no_object_is_no_json_object() -> None:
    number = msgspec.structs.replace(PARTS, output=Json(schema={"type": "integer"}))
    with pytest.raises(Wrong, match="need not be an object"):
        made(number, response_format={"type": "json_object"})


def test_logprobs_are_wanted_of_endpoints_that_tell_them() -> None:
    telling = msgspec.structs.replace(WRITE, output=Text(logprobs=2))
    made(telling, logprobs=True, top_logprobs=2)
    made(telling, logprobs=True)
    with pytest.raises(Wrong, match="tells 2 likely tokens") as caught:
        made(telling, logprobs=True, top_logprobs=3)
    assert caught.value.param == "top_logprobs"
    with pytest.raises(Wrong, match=r"`logprobs: 3` written under output in the manifest of /shop/mood"):
        made(MOOD, logprobs=True, top_logprobs=3)


def blamed(refused: Refusal, endpoint: Endpoint = WRITE, **more: Any) -> str | None:
    return to_blame(refused, chat(**more), endpoint)


def test_guidance_that_is_none_is_told_as_the_parameter_that_it_is() -> None:
    with pytest.raises(Wrong, match="guidance has 'tone', which is no name: write NAMESPACE/NAME") as caught:
        made(guidance=["public/brief@1", "tone"])
    assert caught.value.param == "guidance"


def test_the_parameter_to_blame_for_a_refusal_of_the_road_is_named() -> None:
    refused = Refusal(FailureCode.GENERATION_REFUSED, "")
    assert blamed(refused, n=2) == "n"
    assert blamed(refused, max_completion_tokens=3) == "max_completion_tokens"
    may = msgspec.structs.replace(
        MOOD, generation=Generation(seed=3), request_generation=RequestGeneration(stop=True, samples=2)
    )
    assert blamed(refused, may, n=2, seed=3, stop=["oo"]) == "stop"
    assert blamed(refused, may, n=2, seed=4, stop=["oo"]) == "seed"
    unknown = Refusal(FailureCode.UNKNOWN_FIELD, "unknown field 'town': remove it; the endpoint takes text")
    assert blamed(unknown, metadata={"town": "Rome"}) == "metadata"
    assert blamed(unknown, fields={"town": "Rome"}) == "fields"
    assert blamed(Refusal(FailureCode.MISSING_FIELD, "field 'floor' (integer) is missing: add it")) == "fields"
    assert blamed(Refusal(FailureCode.WRONG_FIELD, "field 'text' is empty: fill it in")) == "messages"
    assert blamed(Refusal(FailureCode.TEXT_TOO_LONG, "")) == "messages"
    assert blamed(Refusal(FailureCode.GUIDANCE_FORBIDDEN, ""), guidance=["a/b"]) == "guidance"
    assert blamed(Refusal(FailureCode.GUIDANCE_FORBIDDEN, "")) is None
    assert blamed(Refusal(FailureCode.DEADLINE_EXCEEDED, "")) is None


def test_each_failure_has_its_status_and_our_code() -> None:
    for code in FailureCode:
        status, body = envelope(Refusal(code, "why"), "messages")
        error = body["error"]
        assert error["message"] == "why"
        assert 400 <= status.http < 600
        if code in (FailureCode.UNKNOWN_ENDPOINT, FailureCode.NOT_ALLOWED):
            assert (status.http, error["code"], error["param"]) == (404, "model_not_found", "model")
        elif code is FailureCode.TEXT_TOO_LONG:
            assert (status.http, error["code"]) == (400, "context_length_exceeded")
        else:
            assert error["code"] == code.value


def test_values_equal_to_nothing_leave_generation_alone() -> None:
    assert generation_of(chat(stop=[])).stop == []
    assert msgspec.to_builtins(generation_of(chat())) == {}


def test_streams_are_not_padded() -> None:
    with pytest.raises(Wrong) as refused:
        chat(stream=True, stream_options={"include_obfuscation": True})
    assert refused.value.param == "stream_options.include_obfuscation"
    assert chat(stream=True, stream_options={"include_usage": True, "include_obfuscation": False}).includes_usage
