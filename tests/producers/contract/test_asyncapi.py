"""The AsyncAPI document of a namespace: what it says of topics and messages, and what the parser says of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from guideway.producers.contract.asyncapi import document
from guideway.schemas.failures import FailureCode
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.schemas.reply import Completed, Failed, Sample, Usage
from guideway.schemas.wire import REPLY

PARSER = Path(__file__).with_name("parser")
NODES = {"type": "array", "items": {"$ref": "#/$defs/node"}}
TREE = {
    "$defs": {"node": {"type": "object", "properties": {"prefixItems": NODES}}},
    "$ref": "#/$defs/node",
}
FORMS: dict[str, OutputRule] = {
    "essay": Text(),
    "mood": Choice(["good", "bad"], probabilities=True, min_confidence=0.8),
    "yes": Boolean(),
    "price": Number(decimals=2),
    "tree": Json(TREE),
    "code": Regex("[0-9]{4}"),
    "words": WordLabels(["NOUN", "VERB"]),
}


def endpoint(name: str, output: OutputRule, **more: Any) -> Endpoint:
    return Endpoint(
        namespace="shop", name=name, model_size="small", output=output, description=f"It does {name}.", **more
    )


ENDPOINTS = [
    *(endpoint(name, output, partial=name == "essay") for name, output in FORMS.items()),
    endpoint(
        "fields",
        Text(),
        input=InputRule(
            fields={"n": Field(type="integer"), "note": Field(required=False, default="none")},
            template="{n}",
            text_field=None,
        ),
    ),
]
DOCUMENT = document("shop", ENDPOINTS, brokers="localhost:9092")


def validator(name: str) -> jsonschema_rs.Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft7Validator(schema)


def as_json(value: Any, name: str = "mood") -> Any:
    reply = Completed(
        id="7",
        namespace="shop",
        endpoint=name,
        endpoint_version=1,
        samples=[Sample(value=value, text=str(value), finish_reason="stop")],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="sha256:00",
    )
    return json.loads(REPLY.encode(reply))


def test_each_endpoint_receives_events_and_replies_where_the_event_says() -> None:
    operation = DOCUMENT["operations"]["mood"]
    assert operation["action"] == "receive"
    assert operation["reply"]["address"] == {"location": "$message.header#/reply_to"}
    channels = DOCUMENT["channels"]
    assert channels["mood.in"]["address"] == "gw.shop.mood.in.v1"
    assert channels["mood.out"]["address"] == "gw.shop.mood.out.v1"
    assert channels["mood.reply"]["address"] is None, "AsyncAPI: it stands in the message"
    assert {*channels["mood.reply"]["messages"]} == {"mood.completed", "failed"}
    assert {*channels["fields.in"]["messages"]} == {"fields.event"}, "it takes no plain text"
    assert channels["essay.partial"]["address"] == "gw.shop.essay.partial.v1"
    assert "mood.partial" not in channels


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("essay", "text", 7),
        ("mood", "good", "other"),
        ("mood", None, 1),
        ("yes", True, "yes"),
        ("price", 1.5, "1.5"),
        ("tree", {"prefixItems": [{"prefixItems": []}]}, {"prefixItems": [1]}),
        ("code", "0123", 123),
        ("words", [["cats", "NOUN"]], [["cats", "NOUN", "x"]]),
        ("words", [], [["cats", "ADJ"]]),
    ],
)
def test_replies_are_what_the_document_says(name: str, right: Any, wrong: Any) -> None:
    completed = validator(f"{name}.completed")
    assert completed.is_valid(as_json(right, name))
    assert not completed.is_valid(as_json(wrong, name))
    assert not completed.is_valid(as_json(right, name) | {"surprise": 1})


def test_failures_and_events_are_what_the_document_says() -> None:
    failed = Failed(
        id="7", namespace="shop", endpoint="mood", code=FailureCode.TEXT_TOO_LONG, message="shorten it", retryable=False
    )
    assert validator("Failed").is_valid(json.loads(REPLY.encode(failed)))
    assert validator("fields.fields").is_valid({"n": 1})
    assert not validator("fields.fields").is_valid({"n": "1"})
    assert not validator("fields.fields").is_valid({"n": 1, "m": 2})


def test_the_official_parser_takes_it() -> None:
    node = shutil.which("node")
    if node is None or not (PARSER / "node_modules" / "@asyncapi").is_dir():
        pytest.skip("the official parser is not there (Node, and `npm install` in tests/producers/contract/parser)")
    run = subprocess.run(
        [node, "validate.mjs"], cwd=PARSER, input=json.dumps(DOCUMENT), capture_output=True, text=True, check=True
    )
    told = json.loads(run.stdout)
    assert told["valid"], told
    # That there is a newer AsyncAPI is no fault.
    assert [one for one in told["diagnostics"] if one["code"] != "asyncapi-latest-version"] == []
