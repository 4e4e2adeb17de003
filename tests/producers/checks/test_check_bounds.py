"""What is said of manifests before they are applied: how much they may say, and who needs what is deleted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guideway.catalogue.bounds import too_much
from guideway.catalogue.changes import catalogue_records, plan_changes, plan_deletion
from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.catalogue.entries import Catalogue, Identity
from guideway.cli.demo.demo import EXAMPLES
from guideway.producers.checks.check import check_manifests
from guideway.producers.checks.references import broken_by
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.retrieval_set import EmbeddingModel, RetrievalSet
from guideway.schemas.kinds.router import Router, RoutingByModel
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model


def endpoint(**fields: Any) -> Endpoint:
    plain = {"namespace": "team", "name": "task", "model_size": "small", "output": {"type": "boolean"}}
    return msgspec.convert(plain | fields, Endpoint)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"description": "x" * 10_001}, "the length of description is 10,001, and at most 10,000 is allowed"),
        ({"instruction": "x" * 100_001}, "the length of instruction"),
        ({"input": {"template": "x" * 100_001}}, "the length of input.template"),
        ({"input": {"fields": {"text": {}} | {f"f{n}": {} for n in range(256)}}}, "the number of input.fields is 257"),
        ({"guidance": ["team/tone"] * 33}, "the number of guidance is 33"),
        ({"request_guidance": ["team/tone"] * 1001}, "the number of request_guidance"),
        ({"targets": ["other"] * 33}, "the number of targets"),
        (
            {"retrieval": {"sets": ["team/facts"], "filter": {f"k{n}": "text" for n in range(33)}}},
            "the number of retrieval.filter",
        ),
        ({"output": {"type": "json", "schema": {"enum": ["x" * 300_000]}}}, "the size of output.schema"),
        ({"input": {"fields": {"text": {"default": "x" * 2**20}}}}, "the size of the manifest in bytes"),
        ({"deadline_s": float("inf")}, "deadline_s is inf"),
        ({"deadline_s": 1e300}, "deadline_s is 1e+300: choose one from 0.001 to 31622400 seconds"),
        ({"deadline_s": 1e-9}, "deadline_s is 1e-09"),
        ({"input": {"fields": {"text": {}, "x": {"type": "number", "default": float("inf")}}}}, "JSON does not have"),
        ({"output": {"type": "json", "schema": {"maximum": float("nan")}}}, "JSON does not have"),
        ({"output": {"type": "json", "schema": {"maximum": 10**5000}}}, "cannot be written as JSON"),
        ({"output": {"type": "json", "schema": {"a": {None: 1}}}}, "cannot be written as JSON"),
        ({"output": {"type": "json", "schema": {"a": {1: 1}}}}, "JSON does not have"),
        ({"output": {"type": "json", "schema": {"a": "\ud800"}}}, "cannot be written as JSON"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else None,
)
def test_what_is_too_much_or_cannot_be_kept_is_refused(fields: dict[str, Any], says: str, catalogue: Catalogue) -> None:
    with pytest.raises(Refusal) as caught:
        check_manifests([endpoint(**fields)], catalogue)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert caught.value.message.startswith("endpoint /team/task")
    assert says in caught.value.message


def test_a_models_context_has_a_bound(catalogue: Catalogue) -> None:
    model = Model(namespace="public", name="small", source="folder", max_context_tokens=2**24 + 1)
    with pytest.raises(Refusal, match="max_context_tokens is 16,777,217, and at most 16,777,216"):
        check_manifests([model], catalogue)


def test_a_thousand_labels_and_all_that_is_in_use_are_far_below_the_bounds(catalogue: Catalogue) -> None:
    labels = [f"label {number}" for number in range(1000)]
    fields = {"text": Field()} | {f"field{number}": Field(required=False) for number in range(200)}
    check_manifests([endpoint(output={"type": "choice", "labels": labels}, input={"fields": fields})], catalogue)
    for folder in ("demo/manifests", "demo/asking"):
        for source in read_manifests(EXAMPLES / folder):
            assert [*too_much(source.manifest)] == []


TONE = Guidance(namespace="team", name="tone", form="text_prompt", text="Be kind.")
FACTS = RetrievalSet(
    namespace="team",
    name="facts",
    artefact="sha256:" + "0" * 64,
    embedding=EmbeddingModel(source="x", fingerprint="sha256:" + "1" * 64, dimension=4),
    passages=3,
)


def with_all(catalogue: Catalogue, *manifests: Manifest) -> Catalogue:
    for manifest in manifests:
        catalogue = catalogue.after(catalogue_records(plan_changes(catalogue, [manifest])))
    return catalogue


def test_what_endpoints_need_is_known_before_it_is_deleted(catalogue: Catalogue) -> None:
    """Their events would be refused, and those of an endpoint without its model never answered."""
    catalogue = with_all(
        catalogue,
        TONE,
        msgspec.structs.replace(TONE, text="Be very kind."),
        FACTS,
        endpoint(name="newest", guidance=["team/tone"]),
        endpoint(name="pinned", guidance=["team/tone@1"]),
        endpoint(name="brought", request_guidance=["team/tone"]),
        endpoint(name="asking", retrieval={"sets": ["team/facts"]}),
        endpoint(name="sending", targets=["newest"]),
        endpoint(name="plain"),
    )

    def broken(manifest: Manifest, *versions: int) -> list[str]:
        identity = Identity.of(manifest)
        gone = plan_deletion(catalogue, identity, versions or catalogue.versions(identity))
        return [one.name for one, _ in broken_by(gone, catalogue)]

    assert broken(TONE, 1) == ["pinned"]
    assert broken(TONE, 2) == [], "the name stands for version 1 then"
    assert broken(TONE) == ["brought", "newest", "pinned"]
    assert broken(FACTS) == ["asking"]
    assert broken(endpoint(name="newest")) == ["sending"]
    assert broken(endpoint(name="plain")) == []
    model = catalogue.model("small")
    assert broken(model) == ["asking", "brought", "newest", "pinned", "plain", "sending"]


def test_an_earlier_version_that_does_not_fit_is_no_replacement(catalogue: Catalogue) -> None:
    """When the newest version goes, the one before is what the name stands for."""
    one, other = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
    model = msgspec.structs.replace(catalogue.model("small"), fingerprint=one)
    tuned = Guidance(namespace="team", name="tuned", form="lora", artefact=one, model_fingerprint=one)
    ends = EmbeddingModel(source="m", fingerprint=one, dimension=3)
    facts = RetrievalSet(namespace="team", name="f", artefact=one, embedding=ends, passages=9, metadata=["year"])
    asking = {"sets": ["team/f"], "filter": {"year": "text"}, "max_tokens": 10}
    described = [endpoint(name=name, description=f"Does {name}.") for name in ("a", "b")]
    catalogue = with_all(
        catalogue,
        msgspec.structs.replace(model, fingerprint=other),
        msgspec.structs.replace(model, max_context_tokens=100),
        model,
        msgspec.structs.replace(tuned, model_fingerprint=other),
        tuned,
        msgspec.structs.replace(facts, metadata=["month"]),
        facts,
        endpoint(name="guided", guidance=["team/tuned"]),
        endpoint(name="long", generation={"max_tokens": 100}),
        endpoint(name="asking", retrieval=asking),
        endpoint(name="sharing", guidance=["team/tuned@2"]),
        *described,
        Router(namespace="team", name="router", model=RoutingByModel(), model_size="small"),
        Namespace(namespace="public", name="team", max_tokens=70),
        Namespace(namespace="public", name="team", max_tokens=200),
    )

    def broken(manifest: Manifest, *versions: int) -> dict[str, str]:
        gone = plan_deletion(catalogue, Identity.of(manifest), versions)
        return {one.name: why for one, why in broken_by(gone, catalogue)}

    newest = catalogue.latest(Identity.of(model))
    assert newest is not None
    assert broken(model, newest[0]).keys() == {"long"}
    assert broken(model, newest[0], newest[0] - 1).keys() == {"guided", "sharing"}
    assert "another base model" in broken(tuned, 2)["guided"]
    assert broken(tuned, 2).keys() == {"guided", "sharing"}
    assert broken(tuned, 1) == {}
    assert "'year'" in broken(facts, 2)["asking"]
    assert "one endpoint only to choose from" in broken(described[0], 1)["router"]
    assert broken(Namespace(namespace="public", name="team"), 2).keys() == {"long"}
    assert broken(Namespace(namespace="public", name="team"), 1, 2) == {}


def test_an_endpoint_counts_though_something_else_is_wrong_with_it(catalogue: Catalogue) -> None:
    """What was applied before a rule was made works, and is not to be broken unasked."""
    longer = endpoint(name="longer", generation={"max_tokens": 32_768}, guidance=["team/tone"])
    dangling = endpoint(name="dangling", guidance=["team/tone"], request_guidance=["team/gone"])
    catalogue = with_all(catalogue, TONE, longer, dangling)
    gone = plan_deletion(catalogue, Identity.of(TONE), catalogue.versions(Identity.of(TONE)))
    assert [one.name for one, _ in broken_by(gone, catalogue)] == ["dangling", "longer"]


def test_an_earlier_version_of_an_endpoint_that_has_lost_what_it_names_is_no_replacement(catalogue: Catalogue) -> None:
    """Its events were answered until then, and would be refused."""
    catalogue = with_all(catalogue, endpoint(name="one", guidance=["team/gone"]), endpoint(name="one"))
    own = Identity.of(endpoint(name="one"))
    [(_, why)] = broken_by(plan_deletion(catalogue, own, [2]), catalogue)
    assert "there is no guidance team/gone" in why
    assert broken_by(plan_deletion(catalogue, own, [1, 2]), catalogue) == []
    assert broken_by(plan_deletion(catalogue, own, [1]), catalogue) == []


def test_an_endpoint_may_name_an_older_version(catalogue: Catalogue) -> None:
    """All versions are looked up, not only the newest."""
    catalogue = with_all(catalogue, TONE, msgspec.structs.replace(TONE, text="Be very kind."))
    check_manifests([endpoint(guidance=["team/tone@1"])], catalogue)
