"""Replies in OpenAI's form, as OpenAI's own types read them, and endpoints as models."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types import Completion as OpenAiCompletion
from openai.types import Model
from openai.types.chat import ChatCompletion
from tests.producers.gateway.openai.made import PROMPT, asked, reply

from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.gateway.openai.models import called_model, model_list, model_of
from guideway.producers.gateway.openai.parameters import read_completion
from guideway.producers.gateway.openai.refused import UnknownModel, envelope
from guideway.producers.gateway.openai.reply import completion
from guideway.producers.gateway.openai.stream import Stream
from guideway.producers.gateway.visible import VisibleEndpoints
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.schemas.reply import Alternative, Sample, TokenLogprob
from guideway.schemas.wire import MANIFEST


def test_a_reply_is_a_chat_completion() -> None:
    body = completion(reply("Hi", "Ho", lost=(1,), reason="length"), asked(n=3), created_s=1)
    told = ChatCompletion.model_validate(body)
    assert (told.id, told.model, told.object) == ("chatcmpl-r-1", "shop/write", "chat.completion")
    assert [(one.index, one.message.content, one.finish_reason) for one in told.choices] == [
        (0, "Hi", "length"),
        (2, "Ho", "length"),
    ]
    assert told.usage is not None
    assert (told.usage.prompt_tokens, told.usage.completion_tokens, told.usage.total_tokens) == (7, 5, 12)
    extra: Any = told.model_extra
    assert extra["guideway"]["endpoint_version"] == 3
    assert extra["guideway"]["failed_samples"][0]["sample"] == 1
    assert extra["guideway"] == msgspec.to_builtins(reply("Hi", "Ho", lost=(1,), reason="length"))


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("yes", "yes"),
        (True, "true"),
        (1.5, "1.5"),
        ({"a": ["ü"]}, '{"a":["ü"]}'),
        (None, "null"),
        ([["a", "B"]], '[["a","B"]]'),
    ],
)
def test_a_typed_value_is_json_and_a_string_is_as_it_is(value: Any, content: str) -> None:
    for one in (asked(), PROMPT):
        choice = completion(reply(value), one, created_s=1)["choices"][0]
        assert choice.get("text", choice.get("message", {}).get("content")) == content


TOKENS = [
    TokenLogprob(
        text="Hé", logprob=-0.5, top=[Alternative(text="Hé", logprob=-0.5), Alternative(text="Ho", logprob=-1.5)]
    ),
    TokenLogprob(text="!", logprob=-0.25, top=[Alternative(text="!", logprob=-0.25)]),
]


def test_logarithms_of_probabilities_are_told_where_they_are_wanted() -> None:
    sample = Sample(value="Hé!", text="Hé!", finish_reason="stop", logprobs=TOKENS)
    whole = msgspec.structs.replace(reply("Hé!"), samples=[sample])
    assert completion(whole, asked(), created_s=1)["choices"][0]["logprobs"] is None
    told = ChatCompletion.model_validate(completion(whole, asked(logprobs=True, top_logprobs=1), created_s=1))
    logprobs = told.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(one.token, one.logprob, one.bytes) for one in logprobs.content] == [
        ("Hé", -0.5, [72, 195, 169]),
        ("!", -0.25, [33]),
    ]
    assert [top.token for top in logprobs.content[0].top_logprobs] == ["Hé"], "as many as are wanted"
    prompted = read_completion(b'{"model": "shop/write", "prompt": "Hello", "logprobs": 2}')
    assert completion(whole, prompted, created_s=1)["choices"][0]["logprobs"] == {
        "tokens": ["Hé", "!"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"Hé": -0.5, "Ho": -1.5}, {"!": -0.25}],
        "text_offset": [0, 2],
    }
    (_, _, last, _) = Stream("r-1", asked(logprobs=True, stream=True), created_s=1).end(whole)
    assert json.loads(last[6:])["choices"][0]["logprobs"]["content"][1]["token"] == "!"


def test_a_reply_is_a_text_completion() -> None:
    told = OpenAiCompletion.model_validate(completion(reply("Hi"), PROMPT, created_s=1))
    assert (told.id, told.object, told.choices[0].text) == ("cmpl-r-1", "text_completion", "Hi")


def catalogue() -> Catalogue:
    made = Catalogue()
    own = Endpoint(namespace="shop", name="write", model_size="small", output=Text(), description="Writes.")
    for one in (
        own,
        msgspec.structs.replace(own, namespace="public"),
        msgspec.structs.replace(own, namespace="desk", name="closed"),
        msgspec.structs.replace(own, namespace="desk", name="open", access=["shop"]),
    ):
        made.absorb(Identity.of(one).topic, Identity.of(one).key(1), MANIFEST.encode(one))
    return made


def test_models_are_the_endpoints_that_the_caller_may_call() -> None:
    found = model_list(VisibleEndpoints().of(catalogue(), "shop"), "shop")
    assert [Model.model_validate(one).id for one in found["data"]] == ["desk/open", "public/write", "shop/write"]
    assert found["data"][0]["owned_by"] == "desk"
    called = called_model(catalogue(), "shop/write", "shop")
    assert called is not None
    assert model_of(called) == found["data"][2]
    assert called_model(catalogue(), "shop/call", "shop") is None, "the router of the caller's own namespace"


@pytest.mark.parametrize("model", ["shop/none", "desk/closed", "desk/none", "gpt-5", "", "a/b/c", "desk/call", "../x"])
def test_what_there_is_not_and_what_one_may_not_call_are_told_alike(model: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        called_model(catalogue(), model, "shop")
    status, body = envelope(caught.value)
    assert status.http == 404
    assert body["error"]["message"].replace(repr(model), "NAME") == (
        "the model NAME does not exist, or namespace shop may not call it: models are endpoints, NAMESPACE/NAME, and "
        "GET /v1/models lists those that you may call"
    )
    assert body["error"] | {"message": ""} == {
        "message": "", "type": "not_found_error", "param": "model", "code": "model_not_found",
    }  # fmt: skip


def test_the_list_is_made_anew_when_the_catalogue_changes() -> None:
    visible, changing = VisibleEndpoints(), catalogue()
    first = visible.of(changing, "shop")
    assert visible.of(changing, "shop") is first
    assert [*visible.of(changing, "desk").endpoints] == ["desk/closed", "desk/open", "public/write"]
    gone = Identity("endpoint", "shop", "write")
    changing.absorb(gone.topic, gone.key(1), None)
    assert [*visible.of(changing, "shop").endpoints] == ["desk/open", "public/write"]
