"""What `describe` shows is what `apply` takes: applied again, it changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.catalogue.artefacts.contents import digest_of
from guideway.catalogue.changes import Change, plan_changes
from guideway.catalogue.difference import difference, written
from guideway.catalogue.documents.faults import Faulty
from guideway.catalogue.documents.manifest_files import Source, read_manifests, resolved
from guideway.catalogue.documents.yaml_text import as_yaml
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.owned import known_artefacts
from guideway.schemas.generation import Generation
from guideway.schemas.input import Field, InputRule
from guideway.schemas.kinds.calibrated import Calibrated, LabelBias
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.retrieval_set import EmbeddingModel, RetrievalSet, SetAlias
from guideway.schemas.kinds.router import Router, RoutingByModel, RoutingExamples, RoutingRule
from guideway.schemas.kinds.targets import ArchiveRule, Target, Webhook, WebhookUse
from guideway.schemas.manifests import Endpoint, Guidance, Lineage, Manifest, Model
from guideway.schemas.output import Choice, Json, Regex, Text
from guideway.schemas.wire import MANIFEST
from guideway.training.runs.task import Task, read_task
from guideway.usecases.apply import check_together

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DIGEST, OTHER = f"sha256:{'0' * 64}", f"sha256:{'1' * 64}"
ODD = (
    "no",
    "yes\n",
    "1",
    "0o17",
    "1:30",
    "2026-11-29",
    "~",
    "null",
    "",
    " ",
    "- a",
    "a: b",
    "# a",
    "'",
    '"',
    "%",
    "@",
    "{{a}}",
    "|",
    ">",
    "---",
    "...",
    "<<",
    "=",
    "\n",
    "\n\n  a\n b\n\n",
    "  a\nb",
    "a \nb",
    "a\n\tb",
    "a\r\nb",
    "a\x85b\u2028c\u2029d\ufeffe",
    "\u202ea\u200b",
    "\x7f\x80",
    "日本\u3000語\n二",
    "🐦\u200d🔥",
    "word " * 60,
    "x" * 300,
    "a\\nb",
)
FACTS = RetrievalSet(
    namespace="team",
    name="facts",
    artefact=DIGEST,
    embedding=EmbeddingModel(source="m", fingerprint=OTHER, dimension=3),
    passages=9,
    metadata=["no", "1"],
)
LINEAGE = Lineage(
    run="r", method="lora", code="0.1+ab", seed=1, data=DIGEST, eval_data=OTHER, metric="f1", score=[0.1, 0, 1], rows=9
)
MANIFESTS: Sequence[Manifest] = (
    *(
        Endpoint(
            namespace="team",
            name="task",
            description=odd,
            model_size="1",
            instruction=odd,
            input=InputRule(fields={"text": Field(), odd: Field(default=odd, required=False)}, template="{text}"),
            output=Choice(labels=["no", "1", "1.0", "true", odd[:100] or "x"]),
            generation=Generation(stop=["\n", "no"], temperature=1),
        )
        for odd in ODD
    ),
    Endpoint(
        namespace="team",
        name="task",
        model_size="small",
        output=Json(
            {"type": "object", "properties": {"no": {"const": 1.0}, "1": {"enum": [True, 1, "1", None, 1e300]}}}
        ),
        deadline_s=1,
    ),
    Endpoint(namespace="team", name="task", model_size="small", output=Regex("(?i)[\\t\n]{2}'\"")),
    Guidance(namespace="team", name="tone", form="text_prompt", text="Be kind.\n\nNo:\n  - 1\n", shared_with=["*"]),
    Guidance(
        namespace="team",
        name="tone",
        form="lora",
        artefact=DIGEST,
        model_fingerprint=OTHER,
        lineage=LINEAGE,
        shared_with=["1"],
    ),
    Model(namespace="public", name="small", source="package:a/b c.gguf", fingerprint=DIGEST),
    FACTS,
    SetAlias(namespace="team", name="facts", version=1),
    Calibrated(
        namespace="team",
        name="task",
        endpoint_version=1,
        guidance=["team/tone@1"],
        model_fingerprint=DIGEST,
        method="contextual",
        biases=[LabelBias(label="no", bias=-0.1), LabelBias(label="yes", bias=1e-17)],
        texts=20,
    ),
    Namespace(namespace="public", name="team", weight=2, requests_per_minute=600, over_limit="refuse"),
    Router(
        namespace="team",
        name="router",
        endpoints=["/team/task", "/public/other"],
        rules=[RoutingRule(when="headers.task == 'a: b'", endpoint="/team/task")],
        examples=RoutingExamples(texts={"/team/task": ["no", "1"], "/public/other": ["- x"]}, none=["~"]),
        model=RoutingByModel(least_score=0.75),
        model_size="small",
    ),
    Endpoint(
        namespace="team",
        name="leaving",
        model_size="small",
        output=Text(),
        targets=["task", "/desk/on", WebhookUse(webhook="no")],
        archive=ArchiveRule(retention_days=7, format="parquet"),
    ),
    Endpoint(namespace="team", name="kept", model_size="small", output=Text(), archive=True),
    Webhook(namespace="team", name="no", url="https://a.example/~x?y=1", secret="1", timeout_s=2.5),
    Target(namespace="team", name="on", accepts_from=["*", "null"]),
)


def catalogue_of(*manifests: Manifest) -> Catalogue:
    catalogue = Catalogue()
    for manifest in manifests:
        catalogue.absorb(Identity.of(manifest).topic, Identity.of(manifest).key(1), MANIFEST.encode(manifest))
    return catalogue


def applied(text: str, catalogue: Catalogue, folder: Path) -> list[Change]:
    """What `apply` would do with this file."""
    file = folder / "described.yaml"
    file.write_bytes(text.encode())
    sources = read_manifests(file)
    check_together([source for source in sources if not isinstance(source.manifest, Endpoint | Router)], catalogue)
    return plan_changes(
        catalogue,
        [resolved(one.path, one.manifest, digest_of, known_artefacts(one.manifest, catalogue)) for one in sources],
    )


def test_there_is_one_of_every_kind() -> None:
    assert {type(one) for one in MANIFESTS} == set(get_args(Manifest))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda one: f"{type(one).__name__}-{one.description[:9]!a}")
def test_what_is_shown_of_odd_manifests_is_unchanged_when_it_is_applied(manifest: Manifest, tmp_path: Path) -> None:
    catalogue = catalogue_of(FACTS, manifest)
    (change,) = applied(written(manifest), catalogue, tmp_path)
    assert change.action == "unchanged"
    assert difference(change, (1, manifest)) == []


def test_all_examples_are_unchanged_when_what_is_shown_of_them_is_applied(tmp_path: Path) -> None:
    sources = [*read_manifests(EXAMPLES / "demo" / "manifests"), *read_manifests(EXAMPLES / "demo" / "asking")]
    kept = [resolved(one.path, one.manifest, digest_of) for one in sources]
    changes = applied("---\n".join(map(written, kept)), catalogue_of(*kept), tmp_path)
    assert [change.action for change in changes] == ["unchanged"] * len(kept)
    assert len(kept) >= 23


@pytest.mark.parametrize("name", ["sentiment", "topics", "addresses"])
def test_a_task_is_read_again_from_what_is_kept_of_it(name: str, tmp_path: Path) -> None:
    task = read_task(EXAMPLES / "studio" / f"{name}.yaml")
    (tmp_path / "task.yaml").write_text(as_yaml(msgspec.to_builtins(task)), "utf-8")
    assert read_task(tmp_path / "task.yaml") == task
    assert isinstance(task, Task)


@given(st.text(max_size=60) | st.lists(st.sampled_from(ODD), max_size=4).map("\n".join))
def test_no_text_is_another_one_when_it_is_shown_and_applied(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    manifest = Endpoint(
        namespace="team",
        name="task",
        model_size="small",
        instruction=text,
        output=Json({"x": [text, {text: [[text]]}]}),
    )
    shown = written(manifest)
    assert all(one == "\n" or one.isprintable() or one in "\u200c\u200d" or one.isspace() for one in shown)
    (change,) = applied(shown, catalogue_of(manifest), tmp_path_factory.getbasetemp())
    assert change.action == "unchanged"


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (
            Guidance(namespace="thief", name="tone", form="lora", artefact=DIGEST, model_fingerprint=OTHER),
            "name the artefact's folder, not a digest",
        ),
        (msgspec.structs.replace(FACTS, namespace="thief"), "no version of the set has this artefact"),
        (msgspec.structs.replace(FACTS, passages=10), "guideway sets create team/facts"),
        (
            SetAlias(namespace="team", name="facts", version=7),
            "the set team/facts has no version 7: its versions are 1",
        ),
        (SetAlias(namespace="team", name="none", version=1), "has no version 1: its versions are none"),
    ],
)
def test_a_digest_is_nobodys_who_does_not_have_it(manifest: Manifest, why: str) -> None:
    mine = Guidance(namespace="team", name="tone", form="lora", artefact=DIGEST, model_fingerprint=OTHER)
    with pytest.raises(Faulty, match=why):
        check_together([Source(Path("a.yaml"), manifest)], catalogue_of(FACTS, mine))


def test_whoever_has_a_set_may_share_it_by_its_manifest(tmp_path: Path) -> None:
    shared = written(FACTS) + "shared_with: [other]\n"
    (change,) = applied(shared, catalogue_of(FACTS), tmp_path)
    assert (change.action, change.version) == ("updated", 2)
    assert difference(change, (1, FACTS)) == [
        "--- set team/facts@1",
        "+++ set team/facts@2",
        "@@ -10,3 +10,5 @@",
        " metadata:",
        " - 'no'",
        " - '1'",
        "+shared_with:",
        "+- other",
    ]


def _json(schema: dict[str, Any]) -> Endpoint:
    return Endpoint(namespace="team", name="task", model_size="small", output=Json(schema))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"properties": {"a": {}, "b": {}}}, {"properties": {"b": {}, "a": {}}}),
        ({"const": 1}, {"const": True}),
        ({"const": 1}, {"const": 1.0}),
    ],
)
def test_what_python_takes_for_the_same_is_another_schema(before: dict[str, Any], after: dict[str, Any]) -> None:
    """The model writes properties in the order of the schema."""
    (change,) = plan_changes(catalogue_of(_json(before)), [_json(after)])
    assert change.action == "updated"
    assert difference(change, (1, _json(before)))
