"""A manifest names its descriptors by a file, and holds them from then on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.protos import SHOP, compiled

from guideway.catalogue.difference import written
from guideway.catalogue.documents import descriptor_files
from guideway.catalogue.documents.faults import Faulty
from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.producers.checks.check import faults_alone
from guideway.producers.checks.doubts import doubts
from guideway.schemas.manifests import Endpoint

MANIFEST = """
kind: endpoint/v1
namespace: shop
name: mood
model_size: small
output: {type: text}
input:
  format: protobuf
  message: shop.v1.Ticket
  descriptors: shop.binpb
"""


def told(folder: Path, manifest: str) -> str:
    with pytest.raises(Faulty) as caught:
        applied(folder, manifest)
    return caught.value.message


def applied(folder: Path, manifest: str = MANIFEST) -> Endpoint:
    """The endpoint as `apply` would publish it."""
    folder.joinpath("shop.binpb").write_bytes(compiled(SHOP).SerializeToString())
    folder.joinpath("mood.yaml").write_text(manifest)
    (source,) = read_manifests(folder / "mood.yaml")
    if found := faults_alone([source]):
        raise Faulty(found)
    assert isinstance(source.manifest, Endpoint)
    return source.manifest


def test_the_manifest_holds_its_descriptors_and_fields(tmp_path: Path) -> None:
    rule = applied(tmp_path).input
    assert rule.descriptors.startswith("base64:")
    assert len(rule.descriptors) < 1700
    assert rule.fields["text"].required
    assert rule.text_field == "text"
    assert rule.fields["customer"].type == "object"


def test_what_describe_shows_is_taken_again(tmp_path: Path) -> None:
    endpoint = applied(tmp_path)
    tmp_path.joinpath("elsewhere").mkdir()
    assert applied(tmp_path / "elsewhere", written(endpoint)) == endpoint


def test_fields_that_are_written_stay(tmp_path: Path) -> None:
    more = "  template: '{note}: {customer.name}'\n  text_field: note\n  fields: {note: {}, customer: {type: object}}\n"
    rule = applied(tmp_path, MANIFEST + more).input
    assert list(rule.fields) == ["note", "customer"]
    assert rule.text_field == "note"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("shop.binpb", "no.binpb", 10, "input.descriptors: no.binpb cannot be read: No such file or directory"),
        ("shop.binpb", "mood.yaml", 10, "mood.yaml: it is no FileDescriptorSet: make one with `protoc"),
        ("shop.v1.Ticket", "shop.v1.Tickets", 9, "message 'shop.v1.Tickets' is not described: there is"),
        ("shop.v1.Ticket", "''", 7, "input.format is protobuf, which needs the message and its descriptors"),
        ("format: protobuf", "format: json", 7, "input.message is of Protobuf: write `format: protobuf`"),
        ("shop.binpb", "shop.binpb\n  fields: {words: {}}\n  text_field: words", 11, "has no such field"),
        ("shop.binpb", "shop.binpb\n  fields: {text: {type: integer}}\n  text_field: null", 11, "and in message"),
        ("shop.binpb", "shop.binpb\n  template: '{words}'", 11, "names 'words', which is no field"),
        ("shop.v1.Ticket", "[a]", 9, "it must be text"),
    ],
)
def test_faults_have_their_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    message = told(tmp_path, MANIFEST.replace(old, new))
    assert said in message
    assert f"mood.yaml:{line}" in message


def test_a_proto_file_is_compiled_where_protoc_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "protos" / "shop" / "v1"
    folder.mkdir(parents=True)
    folder.joinpath("base.proto").write_text('syntax = "proto3"; package shop.v1; message Base { string a = 1; }')
    folder.joinpath("shop.proto").write_text(
        'syntax = "proto3"; package shop.v1; import "shop/v1/base.proto"; '
        "message Ticket { Base base = 2; string text = 1; }"
    )
    manifest = MANIFEST.replace("shop.binpb", "protos/shop/v1/shop.proto")
    assert list(applied(tmp_path, manifest).input.fields) == ["base", "text"]
    folder.joinpath("shop.proto").write_text('syntax = "proto3"; messag X {}')
    assert "protoc does not compile shop.proto: " in told(tmp_path, manifest)
    monkeypatch.setattr(descriptor_files, "_compiler", lambda: None)
    assert "there is no protoc here: `pip install grpcio-tools`, or name the FILE that `protoc -I" in told(
        tmp_path, manifest
    )


def test_a_default_that_no_message_gets_is_doubted(tmp_path: Path) -> None:
    """In proto3 a number that is not sent is 0, so that nobody can tell that there is none."""
    some = "text: {}, number: {type: integer, required: false, default: 5}, note: {required: false, default: x}"
    more = f"  fields: {{{some}}}\n"
    (doubt,) = doubts([applied(tmp_path, MANIFEST + more)])
    assert "input.fields.number has a default, which no event in Protobuf gets" in doubt
    assert not [*doubts([applied(tmp_path)])]


def test_no_other_document_is_touched(tmp_path: Path) -> None:
    assert applied(tmp_path, yaml.safe_dump({**yaml.safe_load(MANIFEST), "input": {}})).input.format == "json"
