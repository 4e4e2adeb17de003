"""OpenAI's own clients, unchanged, on the whole system with the real model."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel
from tests.kafka.conftest import DEMO, ROOT, System

from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.producers.gateway.gateway import Gateway, GatewaySettings
from guideway.producers.gateway.http.server import HttpServer, Listen, listening
from guideway.settings import Settings
from guideway.usecases.apply import apply_manifests

pytestmark = [pytest.mark.model, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

MANIFESTS = """
{kind: endpoint/v1, namespace: shop, name: write, model_size: small, output: {type: text}, generation: {max_tokens: 24},
 request_generation: {max_tokens: 64, samples: 4, temperature: 1.5, top_p: true, stop: true, seed: true}}
---
{kind: endpoint/v1, namespace: shop, name: fixed, model_size: small, output: {type: text}, generation: {max_tokens: 4},
 max_text_chars: 100}
---
{kind: endpoint/v1, namespace: shop, name: mood, model_size: small, output: {type: choice, labels: [good, bad]},
 instruction: Say whether the review is good or bad.}
---
{kind: endpoint/v1, namespace: shop, name: parcel, model_size: small, generation: {max_tokens: 40},
 input: {fields: {text: {}, town: {}, floor: {type: integer, required: false}}, template: "{text} {town}"},
 output: {type: json, schema: {type: object, required: [city], properties: {city: {type: string, maxLength: 20}}}}}
---
{kind: endpoint/v1, namespace: desk, name: secret, model_size: small, output: {type: text}}
"""


@pytest.fixture(scope="module")
def served(broker: RunningBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The endpoint service and a worker, for these manifests."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").symlink_to(ROOT / ".guideway" / "models")
    made = System(broker.cluster, broker.kind, Settings(home=home, store=str(home / "store"), named=broker.cluster))
    (home / "shop.yaml").write_text(MANIFESTS)
    sources = [*read_manifests(DEMO / "model.yaml"), *read_manifests(home / "shop.yaml")]
    asyncio.run(apply_manifests(made.settings, sources))
    asyncio.run(make_topics(made.cluster, topics.calls("shop")))
    try:
        made.start("endpoints")
        made.start("worker")
        yield made
    finally:
        made.stop()


@asynccontextmanager
async def gateway_of(system: System) -> AsyncIterator[str]:
    """The URL of a gateway that is open to namespace `shop`."""
    async with Gateway(GatewaySettings(cluster=system.cluster, open_to="shop", keep_alive_s=0.2)) as gateway:
        listen = Listen(host="127.0.0.1", port=0)
        bound = listening(listen)
        server = HttpServer(gateway, listen)
        serving = asyncio.create_task(server.run(bound))
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.stop()
            await serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(served: System) -> AsyncIterator[str]:
    async with gateway_of(served) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


async def test_a_chat_has_the_typed_value_and_the_reply(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="shop/mood", messages=said("The soup was very good."))
    assert answer.choices[0].message.content in ("good", "bad")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 5
    extra: Any = answer.model_extra
    assert extra["guideway"]["samples"][0]["value"] == answer.choices[0].message.content
    assert answer._request_id == answer.id.removeprefix("chatcmpl-")


async def test_parameters_act_where_the_endpoint_lets_a_request_set_them(client: openai.AsyncOpenAI) -> None:
    drawn: Any = {"model": "shop/write", "messages": said("Tell me a story."), "temperature": 1.2, "seed": 7}
    first = await client.chat.completions.create(**drawn, n=2, max_completion_tokens=6)
    again = await client.chat.completions.create(**drawn, n=2, max_tokens=6)
    texts = [[one.message.content for one in answer.choices] for answer in (first, again)]
    assert texts[0] == texts[1], "the same seed draws the same"
    assert texts[0][0] != texts[0][1]
    assert [one.finish_reason for one in first.choices] == ["length", "length"]
    assert first.usage is not None
    assert first.usage.completion_tokens == 12
    plain = await client.completions.create(model="shop/write", prompt="Count: 1, 2, 3,", stop=[" "], max_tokens=8)
    assert " " not in plain.choices[0].text
    assert plain.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", ["shop/write", "shop/mood"])
async def test_a_stream_is_put_together_to_the_same_text(client: openai.AsyncOpenAI, model: str) -> None:
    asked: Any = {"model": model, "messages": said("The soup was good.")}
    whole = await client.chat.completions.create(**asked)
    text, usage, last, deltas = "", None, None, 0
    streamed = asked | {"stream": True, "stream_options": {"include_usage": True}}
    async for chunk in await client.chat.completions.create(**streamed):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            deltas += bool(choice.delta.content)
            last = choice.finish_reason
        usage = chunk.usage
    assert (deltas > 1) == (model == "shop/write")
    assert (text, last, usage) == (whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage)


class Parcel(BaseModel):
    city: str


async def test_fields_and_a_schema_of_ones_own_class(client: openai.AsyncOpenAI) -> None:
    schema: Any = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string", "maxLength": 20}}}
    answer = await client.chat.completions.create(
        model="shop/parcel",
        messages=said("A parcel to Oslo."),
        metadata={"town": "Oslo"},
        extra_body={"fields": {"floor": 3}},
        response_format={"type": "json_schema", "json_schema": {"name": "parcel", "schema": schema}},
    )
    assert Parcel.model_validate_json(answer.choices[0].message.content or "").city
    with pytest.raises(openai.BadRequestError, match="not the endpoint's own"):
        await client.chat.completions.parse(model="shop/parcel", messages=said("Hi"), response_format=Parcel)


async def test_models_are_those_that_one_may_call(client: openai.AsyncOpenAI) -> None:
    assert [one.id async for one in client.models.list()] == ["shop/fixed", "shop/mood", "shop/parcel", "shop/write"]
    assert (await client.models.retrieve("shop/mood")).owned_by == "shop"
    told = set()
    for model in ("desk/secret", "desk/none", "shop/none", "gpt-5"):
        for asked in (
            client.models.retrieve(model),
            client.chat.completions.create(model=model, messages=said("Hi")),
            client.chat.completions.create(model=model, messages=said("Hi"), stream=True),
        ):
            with pytest.raises(openai.NotFoundError) as caught:
                await asked
            assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
            told.add(caught.value.message.replace(model, "NAME"))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("asked", "param", "code", "said_of_it"),
    [
        ({"n": 2}, "n", "generation_refused", "`samples: 2` written under request_generation"),
        ({"temperature": 3}, "temperature", "generation_refused", "/shop/fixed"),
        ({"max_completion_tokens": 5}, "max_completion_tokens", "generation_refused", "max_tokens: 5"),
        ({"seed": 1}, "seed", "generation_refused", "`seed: true`"),
        ({"messages": said("x" * 101)}, "messages", "context_length_exceeded", "100"),
        ({"messages": said(" ")}, "messages", "wrong_field", "empty"),
        ({"metadata": {"tag": "a"}}, "metadata", "unknown_field", "'tag'"),
        ({"extra_body": {"guidance": ["desk/own"]}}, "guidance", "guidance_forbidden", "desk/own"),
        ({"extra_body": {"top_k": 5}}, "top_k", "bad_request", "unknown parameter 'top_k'"),
        ({"logprobs": True}, "logprobs", "bad_request", "tells no log-probabilities"),
    ],
)
async def test_what_an_endpoint_fixes_is_refused_and_never_ignored(
    client: openai.AsyncOpenAI, asked: dict[str, Any], param: str, code: str, said_of_it: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(
                **{"model": "shop/fixed", "messages": said("Hi"), "stream": stream} | asked
            )
        assert (caught.value.param, caught.value.code) == (param, code)
        assert said_of_it in caught.value.message
        assert caught.value.status_code == (403 if code == "guidance_forbidden" else 400)
    same = await client.chat.completions.create(
        model="shop/fixed", messages=said("Hi"), n=1, temperature=0, max_tokens=4
    )
    assert same.choices[0].message.content


async def test_a_client_that_goes_away_ends_its_request(served: System, url: str, client: openai.AsyncOpenAI) -> None:
    asked = {"model": "shop/write", "messages": said("Tell me a long story."), "max_tokens": 64, "stream": True}
    async with (
        httpx.AsyncClient(timeout=60) as http,
        http.stream("POST", f"{url}/v1/chat/completions", json=asked) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"]
        async for line in response.aiter_lines():
            if line:
                break
    # The gateway and the worker go on.
    answer = await client.chat.completions.create(model="shop/mood", messages=said("Good."))
    assert answer.choices


async def test_a_path_and_a_body_that_are_not_served_are_told_in_their_form(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        for method, path, body, status in (
            ("POST", "/v1/embeddings", b"{}", 404),
            ("GET", "/v1/files/abc", b"", 404),
            ("POST", "/v1/chat/completions", b"{", 400),
            ("POST", "/v1/chat/completions", b"\xff\xfe", 400),
            ("POST", "/v1/completions", b'{"model": "shop/write", "prompt": "\\ud800"}', 400),
        ):
            answer = await http.request(method, path, content=body)
            assert answer.status_code == status, path
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert answer.headers["x-request-id"]


async def test_the_document_and_the_page_show_what_one_may_call(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        made = (await http.get("/openapi.json")).json()
        OpenAPIV31SpecValidator(made).validate()
        assert "/shop/parcel" in made["paths"]
        assert "/desk/secret" not in made["paths"]
        page = await http.get("/docs", params={"endpoint": "shop/mood"})
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert "one of: good, bad" in page.text
        assert "/shop/write" not in page.text
        assert (await http.get("/docs/page.css")).headers["content-type"].startswith("text/css")


@pytest.mark.parametrize("package", ["python", "node"])
async def test_the_example_clients_stream(url: str, package: str) -> None:
    if package == "python":
        command = [sys.executable, str(ROOT / "examples" / "clients" / "openai_client.py")]
    else:
        folder, node = ROOT / "examples" / "clients" / "openai-node", shutil.which("node")
        if node is None or not (folder / "node_modules" / "openai").is_dir():
            pytest.skip("node or openai is not installed (npm install in examples/clients/openai-node)")
        command = [node, str(folder / "client.mjs")]
    for model, code in (("shop/mood", 0), ("shop/none", 1)):
        process = await asyncio.create_subprocess_exec(
            *command, f"{url}/v1", model, "The soup was good.", stdout=-1, stderr=-1,
            env={**os.environ, "OPENAI_API_KEY": "none"},
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == code, err.decode()
        if code:
            assert err.decode().startswith("model_not_found: ")
        else:
            text, told = out.decode().strip().split("\n")
            assert text == json.loads(told)["value"]
    for place, key, said in (
        (f"{url}/v1", {}, "OPENAI_API_KEY"),
        ("http://127.0.0.1:1/v1", {"OPENAI_API_KEY": "x"}, "not sent: "),
    ):
        plain = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
        process = await asyncio.create_subprocess_exec(
            *command, place, "shop/mood", "Good.", stdout=-1, stderr=-1, env=plain | key
        )
        _, err = await process.communicate()
        assert process.returncode == 1
        assert said in err.decode()
        assert err.decode().count("\n") <= 2, "a sentence, and no stack trace"
