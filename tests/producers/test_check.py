"""What is said of an endpoint before it is applied."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.check import check
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.manifests import EmbeddingModel, Endpoint, Field, InputRule, RetrievalSet
from guideway.schemas.output import Choice, Json, Regex
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
        check([make_endpoint(input=InputRule(template=template))], catalogue)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert says in caught.value.message
    assert "/team/task" in caught.value.message


def test_a_template_whose_functions_want_values_is_accepted(
    catalogue: Catalogue, make_endpoint: Callable[..., Endpoint]
) -> None:
    rule = InputRule(fields={"tags": Field(type="array")}, template="{join(', ', tags)}", text_field=None)
    check([make_endpoint(input=rule)], catalogue)


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
        check([endpoint], catalogue)
        return
    with pytest.raises(Refusal, match=r"team/facts has metadata 'yaer'; did you mean 'year'\? it has source, year"):
        check([endpoint], catalogue)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"output": Json({"x-guidance": {"lenient": True}})}, "x-guidance"),
        ({"output": Json({"items": {"const": -(2**63)}})}, r"output\.schema has -9223372036854775808 under const"),
        ({"output": Json({"minimum": 10**30})}, "not JSON serializable"),
        ({"output": Json({"type": "array", "uniqueItems": True})}, r"output\.schema cannot .+uniqueItems"),
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
        check([make_endpoint(**settings)], catalogue)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert "/team/task" in caught.value.message
