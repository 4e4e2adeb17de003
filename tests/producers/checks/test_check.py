"""What is said of an endpoint before it is applied."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guideway.catalogue.documents.faults import Faulty
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.checks.check import check_manifests, faults_alone
from guideway.producers.checks.doubts import doubts
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation, RequestGeneration
from guideway.schemas.input import Field, InputRule
from guideway.schemas.json_schema.restrictions import FORMATS
from guideway.schemas.kinds.retrieval_set import EmbeddingModel, RetrievalSet
from guideway.schemas.kinds.targets import WebhookUse
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Choice, DoubtfulTarget, Json, OutputRule, Regex, Text, WordLabels
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
        catalogue.absorb(Identity.of(one).topic, Identity.of(one).key(1), MANIFEST.encode(one))
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
        (
            {
                "output": Json(
                    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0.5, "maximum": 0.6}}}
                )
            },
            r"a property that is never written, .+ 'a' is unsatisfiable",
        ),
        ({"output": Json({"oneOf": [{"type": "integer"}, {"type": "number"}]})}, "write `anyOf`"),
        ({"output": Json({"$ref": "other.json#/a"})}, r"other\.json is outside of it: .+ under `\$defs`"),
        ({"output": Regex(r"[^\s\S]")}, r"output\.pattern cannot be satisfied \(no text matches it\)"),
        ({"output": Json({"anyOf": [{}, {"type": "string"}]})}, r"says nothing, so that any JSON would be a result"),
        ({"output": Json({"format": "password"})}, r"says nothing, so that any JSON would be a result"),
        (
            {"output": Json({"properties": {"a": {"type": "array", "items": {"type": "string", "pattern": "("}}}})},
            r"output\.schema\.properties\.a\.items cannot be satisfied \(.+ unclosed group",
        ),
        (
            {"output": Json({"$defs": {"A": {"minLength": "x"}}, "properties": {"a": {"$ref": "#/$defs/A"}}})},
            r"output\.schema\.\$defs\.A cannot be satisfied",
        ),
        ({"output": Regex("a\\")}, r"output\.pattern ends in a backslash"),
        (
            {"output": Json({"properties": {"a": {"type": "number", "multipleOf": 1e-300, "maximum": 0.95}}})},
            r"output\.schema\.properties\.a cannot be satisfied \(.+ too many digits",
        ),
        ({"output": Regex("(unclosed")}, r"output\.pattern cannot be satisfied \(.+ unclosed group"),
        ({"output": Regex(r"(a)\1")}, "backreferences"),
        ({"output": Text(logprobs=20), "generation": Generation(max_tokens=800)}, r"16,800 log-prob.+ lower one"),
        (
            {"output": Text(logprobs=1), "request_generation": RequestGeneration(max_tokens=2000, samples=5)},
            r"max_tokens 2000 times samples 5 times 2",
        ),
        (
            {
                "output": Choice(["a"], probabilities=True, min_confidence=0.5, below=DoubtfulTarget("people")),
            },
            r"people",
        ),
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


def test_braces_that_stand_for_themselves_name_no_field(
    catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    rule = InputRule(fields={"first-name": Field()}, text_field=None, template='{{first-name}} is {"first-name"}')
    check_manifests([make_endpoint(input=rule)], catalogue)


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
        (
            {"text": Field()},
            "{text | upper}",
            "'text | upper' looks inside of 'text', of type string, where there is not",
        ),
        ({"text": Field()}, "{text.a}", "'text.a' looks inside of 'text'"),
        ({"text": Field()}, "{text[0:5]}", "'text[0:5]' looks inside of 'text'"),
        ({"text": Field()}, "{text | @[0]}", "'text | @[0]' looks inside of 'text'"),
        (
            {"text": Field(), "n": Field(type="integer")},
            "{text} {join(',', n[*])}",
            "looks inside of 'n', of type integer",
        ),
        ({"text": Field()}, "{join(', ', text)}", "does not fit the fields"),
        ({"text": Field(), "n": Field(type="integer", max_chars=3)}, "{text}{n}", "which has no max_chars"),
        ({"text": Field(required=False, default="abcd", max_chars=3)}, "{text}", "of 4 characters, and max_chars is 3"),
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
        "{text} {length(text)} {text | length(@)} {text.length(@)}",
        "{text} {text.to_array(@)[0]} {text | (@ | length(@))}",
        "{text} {sum([to_number(text)])} {abs(n)} {n == `1`}",
        "{text} {contains(text, 'x') && 'y' || ''}",
        "{text} {o.text.b} {l[0]} {l[?text.b == 'x'].text.c} {sort_by(l, &text.n)[0].b}",
        "{text} {o | text}",
    ],
)
def test_an_expression_that_may_hold_something_is_taken(
    template: str, catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    fields = {"text": Field(), "n": Field(type="integer"), "o": Field(type="object"), "l": Field(type="array")}
    check_manifests([make_endpoint(input=InputRule(fields=fields, template=template))], catalogue)


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
    with pytest.raises(Refusal, match=r"request_generation\.max_tokens is 2048"):
        check_manifests([make_endpoint(request_generation=RequestGeneration(max_tokens=2048))], catalogue)


def test_targets_that_are_named_twice_are_doubted(make_endpoint: Callable[..., Endpoint]) -> None:
    crm = WebhookUse(webhook="crm")
    targets = ["other", "/team/other", "task", crm, crm, "more", "more"]
    output = Choice(["a", "b"], probabilities=True, min_confidence=0.9, below=DoubtfulTarget("other"))
    assert [*doubts([make_endpoint(targets=targets, output=output)])] == [
        "endpoint /team/task: targets has other and /team/other, which are one topic: it gets one copy of each result",
        "endpoint /team/task: targets has more and more, which are one topic: it gets one copy of each result",
        "endpoint /team/task: targets has webhook crm 2 times: each result is posted to it once",
        "endpoint /team/task: output.below.target other is one of `targets`, which get all results: leave one of them "
        "out",
    ]
    # Its own topic is told of results whose callers have them sent elsewhere.
    assert [*doubts([make_endpoint(targets=["other", "/other/other", "task", crm])])] == []


LONG = {"type": "object", "properties": {"a": {"type": "string", "minLength": 400}}, "required": ["a"]}
NAMES = [f"the name of field {number}" for number in range(20)]
MANY = {"type": "object", "properties": {one: {"type": "boolean"} for one in NAMES}, "required": NAMES}


@pytest.mark.parametrize(
    ("output", "asked", "doubt", "fault"),
    [
        (Regex("a{512}"), None, "", ""),
        (
            Regex("(a{19}){27}"),
            None,
            "output.pattern has texts of at least 513 characters, which hardly fit into 64",
            "",
        ),
        (Regex("(a{19}){27}"), 65, "", ""),
        (Regex("a{65536}"), None, "output.pattern has texts of at least 65,536 characters", ""),
        (Regex("(a{1000}){1000}"), None, "", "output.pattern has results of at least 1,000,000 characters, and none"),
        (Regex("a{1000000}"), 977, "output.pattern has texts of at least 1,000,000 characters", ""),
        (Json(LONG), None, "output.schema has results of at least 408 characters, which hardly fit into 64", ""),
        (Json(MANY), None, "output.schema has results of at least 551 characters, which hardly fit into 64", ""),
        (Json(MANY), 96, "", ""),
        (
            Json({"type": "string", "pattern": "^a{600}$"}),
            None,
            "output.schema.pattern has texts of at least 600 characters, which hardly fit into 64",
            "",
        ),
        (
            Json({"type": "array", "items": {"type": "boolean"}, "minItems": 100_000, "maxItems": 100_000}),
            None,
            "",
            "output.schema has results of at least 500,001 characters, and none ends within 64 tokens",
        ),
    ],
)
def test_results_that_do_not_end_in_time(
    output: OutputRule, asked: int | None, doubt: str, fault: str, make_endpoint: Callable[..., Endpoint]
) -> None:
    endpoint = make_endpoint(output=output, request_generation=RequestGeneration(max_tokens=asked))
    if fault:
        with pytest.raises(Faulty, match=fault):
            check_manifests([endpoint], Catalogue())
        return
    assert faults_alone([Source(Path(), endpoint)]) == []
    said = [one for one in doubts([endpoint]) if "hardly fit" in one]
    assert [doubt in one for one in said] == [True] * bool(doubt)


def test_passages_that_leave_no_room_for_the_text_are_refused(
    catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    embedding = EmbeddingModel(source="m", fingerprint=DIGEST, dimension=3)
    facts = RetrievalSet(namespace="team", name="facts", artefact=DIGEST, embedding=embedding, passages=9)
    catalogue.absorb(Identity.of(facts).topic, Identity.of(facts).key(1), MANIFEST.encode(facts))

    def endpoint(passages: int, answer: int) -> Endpoint:
        rule = RetrievalRule(sets=["team/facts"], max_tokens=passages)
        return make_endpoint(retrieval=rule, generation=Generation(max_tokens=answer))

    check_manifests([endpoint(1900, 147)], catalogue)
    for passages, answer in ((1900, 148), (2048, 1), (32_768, 64)):
        says = (
            rf"retrieval\.max_tokens is {passages} and generation\.max_tokens {answer}, and model size small has 2048"
        )
        with pytest.raises(Refusal, match=says):
            check_manifests([endpoint(passages, answer)], catalogue)


@pytest.mark.parametrize(
    ("sets", "in_addition", "says"),
    [
        (["team/facts", "team/facts"], [], "set team/facts is named twice (as team/facts and as team/facts)"),
        (["team/facts@1", "team/more", "team/facts"], [], "(as team/facts@1 and as team/facts)"),
        (["team/facts@1*0.5", "team/facts@2"], [], "(as team/facts@1*0.5 and as team/facts@2)"),
        (["team/facts@1"], ["team/more", "team/facts"], "(as team/facts@1 and as team/facts)"),
        (["team/facts"], ["team/more", "team/more@1"], ""),
    ],
)
def test_a_set_that_is_named_twice_is_refused(
    sets: list[str], in_addition: list[str], says: str, catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    embedding = EmbeddingModel(source="m", fingerprint=DIGEST, dimension=3)
    for name in ("facts", "more"):
        one = RetrievalSet(namespace="team", name=name, artefact=DIGEST, embedding=embedding, passages=9)
        for version in (1, 2):
            catalogue.absorb(Identity.of(one).topic, Identity.of(one).key(version), MANIFEST.encode(one))
    endpoint = make_endpoint(retrieval=RetrievalRule(sets=sets, request_sets=in_addition))
    if not says:
        check_manifests([endpoint], catalogue)
        return
    with pytest.raises(Refusal, match=re.escape(says)):
        check_manifests([endpoint], catalogue)


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
