"""The OpenAPI document and its page, for endpoints of every type."""

from __future__ import annotations

import html
import re
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.batch.jobs import Job
from guideway.producers.gateway.batches.accepted import AcceptedBatch, Ask, NotMade, Standing
from guideway.producers.gateway.batches.file_store import About
from guideway.producers.gateway.batches.objects import file_object, object_of, result_file_object
from guideway.producers.gateway.inference.models import Model
from guideway.producers.gateway.inference.rest_form import read_request, write_response
from guideway.producers.gateway.inference.tensors import Answered, Tensor
from guideway.producers.gateway.openapi.document import MOST_BYTES, MOST_ENDPOINTS, Selection, document
from guideway.producers.gateway.openapi.page import HEADERS, page, style
from guideway.producers.gateway.visible import visible
from guideway.schemas.generation import RequestGeneration
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.schemas.services.batch import BatchJob
from guideway.schemas.wire import MANIFEST

PERSON = {
    "$id": "https://shop.example/person",
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "friends": {"type": "array", "items": {"$ref": "#"}},
                   "pet": {"$ref": "#/$defs/$ref"}, "$ref": {"type": "integer"}},
    "$defs": {"$ref": {"enum": ["cat", {"$ref": "#/none"}]}},
}  # fmt: skip
EVIL = "</code></pre><script src=//evil.example>alert(1)</script>' \" & {{ 7*7 }}"
RULES: dict[str, tuple[OutputRule, Any, Any]] = {
    "text": (Text(), "Hi", 1),
    "choice": (Choice(labels=["good", "bad"]), "bad", "worse"),
    "boolean": (Boolean(spelling="yes/no"), True, "yes"),
    "doubtful": (Choice(labels=["a", "b"], probabilities=True, min_confidence=0.8), None, "c"),
    "perhaps": (Boolean(probabilities=True, min_confidence=0.8), None, 1),
    "failing": (Boolean(probabilities=True, min_confidence=0.8, below="failed"), True, None),
    "number": (Number(), 1.5, "1.5"),
    "integer": (Number(decimals=0, negative=False), 3, -3),
    "words": (WordLabels(labels=["N", "V"]), [["a", "N"]], [["a", "X"]]),
    "json": (
        Json(schema=PERSON),
        {"name": "a", "friends": [{"name": "b"}], "pet": "cat"},
        {"name": "a", "friends": [1]},
    ),
    "regex": (Regex(pattern="[a-z]+"), "a", 1),
}


def endpoints() -> list[Endpoint]:
    found = [
        Endpoint(namespace="shop", name=name, model_size="small", output=rule, description=f"Says {name}.")
        for name, (rule, _, _) in RULES.items()
    ]
    fields = {
        "city": Field(description=EVIL, max_chars=40),
        "floor": Field(type="integer", required=False, default=1),
        "tags": Field(type="array", required=False),
    }
    evil = Endpoint(
        namespace="desk", name="evil", model_size="small", access=["*"], description=EVIL,
        input=InputRule(fields=fields, template="{city}", text_field=None), output=Choice(labels=[EVIL, "b"]),
        request_generation=RequestGeneration(temperature=0.0, samples=4, seed=True),
    )  # fmt: skip
    return [*found, evil, msgspec.structs.replace(evil, name="closed", access=[])]


def selection(*more: Endpoint, **of: Any) -> Selection:
    catalogue = Catalogue()
    for one in [*endpoints(), *more]:
        catalogue.absorb(Identity.of(one).topic, Identity.of(one).key(1), MANIFEST.encode(one))
    return Selection(visible(catalogue, "shop"), "shop", **of)


def test_the_document_is_openapi() -> None:
    made = document(selection())
    OpenAPIV31SpecValidator(made).validate()
    assert msgspec.json.decode(msgspec.json.encode(made)) == made
    assert {"/shop/text", "/desk/evil", "/v1/chat/completions"} <= {*made["paths"]}
    assert "/desk/closed" not in made["paths"]


def test_the_inference_protocol_has_the_shapes_that_the_document_says() -> None:
    made = document(selection())
    below = {path for path in made["paths"] if path.startswith("/v2")}
    model = "/v2/models/{namespace}/{name}"
    assert below == {"/v2", "/v2/health/live", "/v2/health/ready", model, f"{model}/ready", f"{model}/infer"}

    def require(name: str, told: bytes) -> None:
        schema = {"$ref": f"#/components/schemas/v2.{name}", "components": made["components"]}
        jsonschema_rs.validate(schema, msgspec.json.decode(told))

    require("model", msgspec.json.encode(Model("shop/text", 3, endpoints()[0]).info()))
    answered = Answered("shop/text", "3", "", [Tensor("value", "BYTES", (1,), [b'"Hi"'])])
    asked = b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}'
    require("request", asked)
    require("response", write_response(answered, read_request(asked, None, model="shop/text", version=""))[0])


def test_a_gateway_with_a_store_has_batches() -> None:
    made = document(selection(has_batches=True))
    OpenAPIV31SpecValidator(made).validate()
    paths = {path for path in made["paths"] if path.startswith(("/v1/files", "/v1/batches"))}
    assert paths == {
        "/v1/files", "/v1/files/{id}", "/v1/files/{id}/content",
        "/v1/batches", "/v1/batches/{id}", "/v1/batches/{id}/cancel",
    }  # fmt: skip
    assert "/v1/files" not in document(selection())["paths"]


def test_files_and_batches_have_the_shape_that_the_document_says() -> None:
    schemas = document(selection(has_batches=True))["components"]["schemas"]
    job = BatchJob(id="j", rows=2, pieces=1, index="0" * 64, secret="0" * 32, submitted_ms=1, deadline_ms=2)
    about = About(id="file-1", filename="a", bytes=1, created_s=1)
    ask = Ask(input_file_id="file-1", endpoint="/shop/write", completion_window="24h")
    accepted = AcceptedBatch(id="batch-1", ask=ask, created_ms=1, deadline_ms=2)
    failed = NotMade(outcome="failed", at_ms=3, code="invalid_data", message="line 7: no", param="input_file_id")
    for name, made in (
        ("openai.batch", object_of(Job(namespace="shop", job=job))),
        ("openai.batch", object_of(Standing(accepted, False, None))),
        ("openai.batch", object_of(Standing(accepted, False, failed))),
        ("openai.file", file_object(about)),
        ("openai.file", result_file_object("file-j-output", 1, Job(namespace="shop", job=job), "output.jsonl", 9)),
    ):
        validator = jsonschema_rs.Draft202012Validator(schemas[name])
        assert not [str(error) for error in validator.iter_errors(made)]


@pytest.mark.parametrize("name", RULES)
def test_an_endpoint_has_its_own_result(name: str) -> None:
    made = document(selection())
    of_reply = made["paths"][f"/shop/{name}"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    validator = jsonschema_rs.Draft202012Validator({**of_reply, "components": made["components"]})
    _, right, wrong = RULES[name]

    def reply(value: Any) -> dict[str, Any]:
        return {
            "schema": "guideway.reply.completed.v1", "id": "1", "namespace": "shop", "endpoint": name,
            "endpoint_version": 1, "samples": [{"value": value, "text": "", "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "output_tokens": 1}, "guidance": [], "model_fingerprint": "",
        }  # fmt: skip

    assert validator.is_valid(reply(right))
    assert not validator.is_valid(reply(wrong))


def test_an_endpoint_has_its_own_fields() -> None:
    made = document(selection())
    taken = made["paths"]["/desk/evil"]["post"]["requestBody"]["content"]
    assert [*taken] == ["application/json"], "it takes no plain text"
    validator = jsonschema_rs.Draft202012Validator(taken["application/json"]["schema"])
    assert validator.is_valid(taken["application/json"]["example"])
    assert validator.is_valid({"city": "Rome", "floor": None, "tags": ["a"]})
    for wrong in ({}, {"city": ""}, {"city": 1}, {"city": "Rome", "more": 1}, {"city": "Rome", "floor": "1"}):
        assert not validator.is_valid(wrong)


def test_there_is_a_bound_and_what_is_left_out_is_told() -> None:
    many = [
        Endpoint(namespace="public", name=f"e{number}", model_size="small", output=Text())
        for number in range(MOST_ENDPOINTS)
    ]
    chosen = selection(*many)
    assert len(chosen.endpoints) == MOST_ENDPOINTS
    assert [one.namespace for one in chosen.endpoints[:11]] == ["shop"] * 11, "the caller's own come first"
    assert "12 more endpoints are not shown" in document(chosen)["info"]["description"]
    assert "12 more endpoints are not shown" in page(chosen, "http://x")
    assert [one.name for one in selection(*many, namespace="desk").endpoints] == ["evil"]
    assert [one.name for one in selection(*many, endpoint="public/e7").endpoints] == ["e7"]
    assert selection(*many, endpoint="desk/closed").endpoints == []


def test_large_schemas_do_not_make_a_large_document() -> None:
    rule = Json(schema={"enum": ["x" * 1000 + str(number) for number in range(200)]})
    many = [Endpoint(namespace="big", name=f"e{n}", model_size="small", output=rule, access=["*"]) for n in range(30)]
    chosen = selection(*many, namespace="big")
    assert chosen.left_out == 30 - len(chosen.endpoints) > 0
    assert len(msgspec.json.encode(document(chosen))) < 2 * MOST_BYTES


def test_what_teams_wrote_is_text_on_the_page() -> None:
    shown = page(selection(), "http://127.0.0.1:8080")
    assert "<script" not in shown
    assert html.escape(EVIL, quote=False).split("'", maxsplit=1)[0] in shown
    assert "49" not in re.sub(r"&#\d+;", "", shown), "no template is run in what they wrote"
    assert not re.search(r'(?:src|href)="(?!#|/)', shown), "nothing is fetched from elsewhere"
    assert "http" not in style()
    assert "style=" not in shown
    assert HEADERS["content-security-policy"].startswith("default-src 'self'")


def test_the_page_says_how_each_is_called() -> None:
    shown = html.unescape(page(selection(), "http://127.0.0.1:8080"))
    assert 'curl http://127.0.0.1:8080/shop/text -H "authorization: Bearer $KEY"' in shown
    assert """-d '{"text":"…"}'""" in shown
    assert 'base_url="http://127.0.0.1:8080/v1"' in shown
    assert "temperature up to 0, samples up to 4, seed" in shown
    assert '"pet": {' in shown, "the schema of a JSON result"
    assert "There is none" in page(selection(namespace="nobody"), "http://x")
