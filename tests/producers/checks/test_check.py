"""What is said of an endpoint before it is applied."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.checks.check import check_manifests
from guideway.producers.checks.doubts import doubts
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.input import Field, InputRule
from guideway.schemas.json_schema.keywords import FORMATS
from guideway.schemas.manifests import EmbeddingModel, Endpoint, RetrievalSet
from guideway.schemas.output import Choice, Json, Regex, Text, WordLabels
from guideway.schemas.retrieval import RetrievalRule
from guideway.schemas.wire import MANIFEST

DIGEST = "sha256:" + "0" * 64
HUNDRED = f"`{json.dumps(list(range(100)))}`"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{map(&map(&map(&map(&@, " + ", ".join([HUNDRED + ")"] * 4) + "}", "cost more than one text may"),
        ("{" + "(" * 5000 + "}", "nested too deeply"),
        ("{text", "single '{'"),
    ],
)
def test_a_template_that_no_event_can_be_rendered_by_is_refused(
    template: str, says: str, catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    with pytest.raises(Refusal) as caught:
        check_manifests([make_endpoint(input=InputRule(template=template))], catalogue)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert says in caught.value.message
    assert "/team/task" in caught.value.message


def test_a_template_whose_functions_want_values_is_accepted(
    catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    rule = InputRule(fields={"tags": Field(type="array")}, template="{join(', ', tags)}", text_field=None)
    check_manifests([make_endpoint(input=rule)], catalogue)


@pytest.mark.parametrize(("key", "fine"), [("year", True), ("source", True), ("yaer", False)])
def test_a_filter_by_metadata_that_no_passage_has_is_refused(
    key: str, fine: bool, catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    embedding = EmbeddingModel(source="m", fingerprint=DIGEST, dimension=3)
    facts = RetrievalSet(
        namespace="team", name="facts", artefact=DIGEST, embedding=embedding, passages=9, metadata=["source", "year"]
    )
    older = RetrievalSet(namespace="team", name="older", artefact=DIGEST, embedding=embedding, passages=9)
    for one in (facts, older):
        catalogue.absorb(Identity.of(one).key(1), MANIFEST.encode(one))
    rule = RetrievalRule(sets=["team/older", "team/facts"], filter={key: "year"})
    endpoint = make_endpoint(
        retrieval=rule, input=InputRule(fields={"text": Field(), "year": Field(type="integer", required=False)})
    )
    if fine:
        check_manifests([endpoint], catalogue)
        return
    with pytest.raises(Refusal, match=r"team/facts has metadata 'yaer'; did you mean 'year'\? it has source, year"):
        check_manifests([endpoint], catalogue)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"output": Json({"x-guidance": {"lenient": True}})}, "x-guidance"),
        ({"output": Json({"items": {"const": -(2**63)}})}, r"output\.schema has -9223372036854775808 under const"),
        ({"output": Json({"minimum": 10**30})}, "not JSON serializable"),
        (
            {"output": Json({"type": "array", "uniqueItems": True})},
            r"schema has 'uniqueItems', which no",
        ),
        ({"output": Json({"type": "integer", "minimum": 5, "maximum": 3})}, "greater than maximum"),
        ({"output": Regex("(unclosed")}, r"output\.pattern cannot be satisfied \(.+ unclosed group"),
        ({"output": Regex(r"(a)\1")}, "backreferences"),
        ({"output": Choice(["New York"]), "generation": Generation(stop=[" York"])}, r"generation\.stop"),
    ],
    ids=str,
)
def test_an_output_rule_that_cannot_keep_its_promise_is_refused(
    settings: dict[str, Any], says: str, catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    with pytest.raises(Refusal, match=says) as caught:
        check_manifests([make_endpoint(**settings)], catalogue)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert "/team/task" in caught.value.message


@pytest.mark.parametrize(
    ("fields", "template", "says"),
    [
        ({"question": Field()}, "{text}", "names 'text', which is no field: declared are question"),
        ({"question": Field()}, "Q: {questoin}", "names 'questoin', which is no field: did you mean 'question'?"),
        ({"text": Field()}, "Answer this", "uses no field, so that all events become the same text: put one in"),
        ({"text": Field()}, "{{text}}", "uses no field"),
        ({"text": Field()}, "{`[1]`}", "uses no field"),
        ({"a": Field(type="object")}, "{a.b} {b.c}", "names 'b', which is no field"),
        ({"a": Field(type="array")}, "{a[?x == `1`].y | join(', ', @)} {z}", "names 'z', which is no field"),
        (
            {"text": Field(), "n": Field(type="integer", required=False, default="five")},
            "{text}",
            "its default is 'five'",
        ),
    ],
)
def test_an_input_that_loses_its_text_is_refused(
    fields: dict[str, Field], template: str, says: str, catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    rule = InputRule(fields=fields, template=template, text_field=None)
    with pytest.raises(Refusal) as caught:
        check_manifests([make_endpoint(input=rule)], catalogue)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert says in caught.value.message


@pytest.mark.parametrize(
    "template",
    [
        "{text}",
        "{to_string(@)}",
        "{items[*].name | join(', ', @)}",
        "{map(&name, items) | [0]}",
        "{sort_by(items, &price)[-1].name}",
        "{items[?price > `3` && name != 'x'].name | [0]}",
        "{text || items[0].name}",
        "{[text, items[0].name] | join(' ', @)}",
    ],
)
def test_fields_of_elements_are_no_fields_of_the_event(
    template: str, catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    rule = InputRule(fields={"text": Field(), "items": Field(type="array", required=False)}, template=template)
    check_manifests([make_endpoint(input=rule)], catalogue)


def test_what_is_hardly_meant_is_told(make_endpoint: Callable[..., Endpoint]) -> None:
    fields = {"text": Field(), "lang": Field(default="en"), "more": Field(), "year": Field(), "words": Field()}
    endpoint = make_endpoint(
        input=InputRule(fields=fields, template="{text} {{more}}"),
        retrieval=RetrievalRule(sets=["team/facts"], filter={"year": "year"}),
        output=WordLabels(["A"], words_from="words"),
    )
    assert [*doubts([endpoint])] == [
        "endpoint /team/task: input.fields.lang is not used: nothing reads it",
        "endpoint /team/task: input.fields.lang is required, so that its default is never used: add `required: false`",
        "endpoint /team/task: input.fields.more is not used: the template has it in double braces, which stay as they "
        "are",
    ]


def test_what_a_schema_sets_no_end_to_is_doubted(make_endpoint: Callable[..., Endpoint]) -> None:
    text = {"type": "string"}
    lines = {"type": "array", "items": {"type": "object", "properties": {f"p{n}": text for n in range(5)}}}
    plain = {"type": "object", "properties": {"name": text, "lines": lines, "n": {"type": "integer"}}}
    (told,) = doubts([make_endpoint(output=Json(plain), generation=Generation(max_tokens=99))])
    assert "does not bound .properties.name (maxLength), .properties.lines (maxItems), " in told
    assert " and 3 more: a reply that outgrows generation.max_tokens (99) is a failure" in told
    bounded = {"type": "object", "properties": {"name": {**text, "maxLength": 9}, "n": {"type": "integer"}}}
    assert [*doubts([make_endpoint(output=Json(bounded))])] == []


def test_an_answer_as_long_as_the_context_is_refused(
    catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    with pytest.raises(Refusal, match=r"generation\.max_tokens is 2048, and model size small has 2048 tokens"):
        check_manifests([make_endpoint(generation=Generation(max_tokens=2048))], catalogue)


def test_a_text_field_that_was_not_named_is_said_to_be_the_default() -> None:
    with pytest.raises(ValueError, match=r"`text` unless it says another field.*write `text_field: question`"):
        Endpoint(
            namespace="team",
            name="task",
            model_size="small",
            output=Text(),
            input=InputRule(fields={"question": Field()}, template="{question}"),
        )


@pytest.mark.parametrize("format_", sorted(FORMATS))
def test_the_grammar_library_knows_the_formats_that_are_called_known(
    format_: str, catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    check_manifests([make_endpoint(output=Json({"type": "string", "format": format_}))], catalogue)
