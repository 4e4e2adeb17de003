"""The reference pages and the schema for editors say what the types say that read manifests and tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from typer.testing import CliRunner

from guideway.catalogue.documents.document import parse_documents
from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.catalogue.protobuf.descriptor_set import read
from guideway.cli import app
from guideway.reference.pages import pages
from guideway.reference.schema import schema
from guideway.reference.types import ALL, bounds, meanings, structs_in
from guideway.schemas.names.addresses import RESERVED_NAMESPACES
from guideway.schemas.partial import Streamed
from guideway.schemas.protobuf.compiling import compiled
from guideway.schemas.protobuf.messages import DESCRIPTORS, message
from guideway.schemas.reply import Completed, Failed, FailedSample, Sample, Usage
from guideway.schemas.retrieval import Citation
from guideway.training.runs.task import read_task

ROOT = Path(__file__).resolve().parents[1]
EDITOR = jsonschema_rs.validator_for(schema())
ENDPOINT: dict[str, Any] = {
    "kind": "endpoint/v1",
    "namespace": "shop",
    "name": "mood",
    "model_size": "small",
    "output": {"type": "text"},
}
TASK: dict[str, Any] = {
    "kind": "task/v1",
    "namespace": "shop",
    "endpoint": "mood",
    "model_sizes": ["small"],
    "data": {"train": "a.csv"},
    "output": {"type": "boolean", "spelling": "yes/no"},
    "methods": [{"form": "lora", "rank": 4}, {"form": "prefix"}],
}
DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize("name", ["manifests.md", "task.md"])
def test_the_pages_are_those_that_the_types_make(name: str) -> None:
    assert (ROOT / "docs" / name).read_text("utf-8") == pages()[name], "run `make docs`"


def test_every_field_has_a_meaning_and_every_bound_a_field() -> None:
    fields = {(struct.cls, field.encode_name) for struct in structs_in(*ALL) for field in struct.fields}
    assert fields == {(struct.cls, name) for struct in structs_in(*ALL) for name in meanings(struct.cls)}
    assert len(bounds()) >= 18
    assert bounds().keys() <= fields
    written = meanings(ALL[0])["namespace"]
    assert {*re.findall("`([a-z0-9]+)`", written)} == RESERVED_NAMESPACES


def test_every_link_of_the_pages_leads_somewhere() -> None:
    made = pages()
    anchors = {
        name: {
            re.sub(r"[^a-z0-9 _-]", "", one.lower()).replace(" ", "-") for one in re.findall("^#+ (.*)$", text, re.M)
        }
        for name, text in made.items()
    }
    for name, text in made.items():
        links = re.findall(r"\]\(([a-z]*\.?m?d?)(?:#([^)]*))?\)", text)
        assert len(links) > 10
        for file, anchor in links:
            assert anchor in anchors[file or name] if anchor else (ROOT / "docs" / file).is_file(), (file, anchor)


@pytest.mark.parametrize("name", ["manifests.md", "task.md"])
def test_the_examples_of_the_pages_are_read(name: str, tmp_path: Path) -> None:
    (text,) = re.findall("```yaml\n(.*?)```", pages()[name], re.DOTALL)
    (tmp_path / "a.yaml").write_text(text)
    assert len(read_manifests(tmp_path)) == 4 if name == "manifests.md" else read_task(tmp_path / "a.yaml").methods


def test_the_schema_is_one_and_is_printed_whole() -> None:
    jsonschema_rs.meta.validate(schema())
    printed = CliRunner().invoke(app, ["schema"])
    assert printed.exit_code == 0
    assert msgspec.json.decode(printed.stdout) == schema()


def test_what_is_published_in_protobuf_can_be_had_of_the_command(tmp_path: Path) -> None:
    written = CliRunner().invoke(
        app, ["schema", "--proto", str(tmp_path / "protos"), "--descriptor-set", str(tmp_path / "set.binpb")]
    )
    assert written.exit_code == 0
    assert "message Reply {" in (tmp_path / "protos" / "guideway" / "v1" / "reply.proto").read_text()
    assert read((tmp_path / "set.binpb").read_bytes()).file
    refused = CliRunner().invoke(app, ["schema", "--descriptor-set", str(tmp_path)])
    assert refused.exit_code != 0


def test_all_examples_are_well_by_the_schema() -> None:
    folder = ROOT / "examples"
    other = {folder / "demo" / "plan.yaml", *(folder / "data").rglob("*")}
    files = [path for path in folder.rglob("*") if path.suffix in {".yaml", ".toml"} and path not in other]
    files.append(ROOT / "catalogue" / "packaged" / "small.yaml")
    found = [document for path in files for document in parse_documents(path)[0]]
    assert len(found) >= 26
    for document in found:
        assert [error.message for error in EDITOR.iter_errors(document.value)] == [], document.file


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"description": "x" * 10_000},
        {"guidance": ["shop/a@3*-0.5"], "deadline_s": 0.001, "retrieval": None},
        {"input": {"fields": {"a": {"default": [1, {"b": None}], "required": False}}, "text_field": None}},
        {"output": {"type": "json", "schema": {"anything": [1]}}},
        {"retrieval": {"sets": ["shop/a"], "filter": {"Name_1": "text"}}},
    ],
)
def test_what_is_well_is_well_in_an_editor(change: dict[str, Any]) -> None:
    assert EDITOR.is_valid(ENDPOINT | change)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "endpoint"},
        {"kind": "guidance/v1"},
        {"namespace": "Shop"},
        {"namespace": "shop\n"},
        {"name": None},
        {"lane": "fast"},
        {"unknown": 1},
        {"description": "x" * 10_001},
        {"guidance": ["tone"]},
        {"guidance": ["shop/tone"] * 17},
        {"output": {}},
        {"output": {"type": "choice"}},
        {"output": {"type": "choice", "labels": []}},
        {"output": {"type": "choice", "labels": [1]}},
        {"output": {"type": "text", "labels": ["a"]}},
        {"output": {"type": "boolean", "spelling": "ja/nein"}},
        {"generation": {"temperature": "0"}},
        {"generation": {"max_tokens": 0}},
        {"input": {"fields": {}}},
        {"input": {"fields": {"a": {"typ": "string"}}}},
        {"input": {"fields": {f"f{n}": {} for n in range(257)}}},
        {"retrieval": {"sets": ["shop/a"], "filter": {"a b": "text"}}},
        {"deadline_s": 0},
        {"deadline_s": 1e9},
        {"partitions": 1001},
    ],
)
def test_what_is_wrong_is_wrong_in_an_editor(change: dict[str, Any]) -> None:
    assert EDITOR.is_valid(ENDPOINT)
    assert not EDITOR.is_valid(ENDPOINT | change)


@pytest.mark.parametrize(
    "change",
    [
        {"model_sizes": []},
        {"data": {}},
        {"methods": [{"form": "lora", "rank": 300}]},
        {"methods": [{"form": "prefix", "rank": 3}]},
        {"methods": [{"form": "lorra"}]},
        {"stop": {"max_step": 3}},
        {"schedule": {"seed": -1}},
        {"publish": {"when": "worse"}},
    ],
)
def test_tasks_too(change: dict[str, Any]) -> None:
    assert EDITOR.is_valid(TASK)
    assert not EDITOR.is_valid(TASK | change)


def test_what_is_described_is_well_by_the_schema() -> None:
    model = {"kind": "model/v1", "namespace": "public", "name": "small", "source": "x", "fingerprint": DIGEST}
    assert EDITOR.is_valid(model)
    assert not EDITOR.is_valid(model | {"fingerprint": "sha256:0"})
    assert not EDITOR.is_valid(model | {"max_context_tokens": 2**24 + 1})
    embedding = {"source": "m", "fingerprint": DIGEST, "dimension": 3}
    facts = {"kind": "set/v1", "namespace": "a", "name": "b", "artefact": DIGEST, "embedding": embedding, "passages": 1}
    assert EDITOR.is_valid(facts)
    assert EDITOR.is_valid({"kind": "alias/v1", "namespace": "a", "name": "b", "version": 1})
    guidance = {"kind": "guidance/v1", "namespace": "a", "name": "b", "form": "text_prompt", "text": "x"}
    assert EDITOR.is_valid(guidance)
    assert not EDITOR.is_valid(guidance | {"shared_with": ["A"]})


def test_the_descriptors_are_those_of_the_protos() -> None:
    held = FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    assert held == compiled(), "schemas/protobuf: make protos"


@pytest.mark.parametrize("struct", [Completed, Failed, Sample, FailedSample, Usage, Citation, Streamed])
def test_a_reply_in_protobuf_has_the_fields_of_one_in_json(struct: type[msgspec.Struct]) -> None:
    """A new field of a reply is to be added to schemas/protobuf/guideway/v1/reply.proto, then `make protos`."""
    on_the_reply = {"id", "namespace", "endpoint"} if issubclass(struct, Completed | Failed) else set()
    only_protobuf = {"value_json"} if struct is Sample else set()
    declared = {field.name for field in msgspec.structs.fields(struct)} - on_the_reply
    assert set(message(f"guideway.v1.{struct.__name__}").DESCRIPTOR.fields_by_name) == declared | only_protobuf
