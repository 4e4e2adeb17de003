"""Manifests as files: what reads, and how what does not is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from guideway.catalogue.artefacts import ArtefactStore
from guideway.catalogue.files import read, upload
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Guidance
from guideway.schemas.output import Choice

YAML = """
kind: endpoint/v1
namespace: team
name: mood
model_size: small
instruction: How does it sound?
guidance: [team/tone]
output: {type: choice, labels: [good, bad]}
---
kind: guidance/v1
namespace: team
name: tone
form: text_prompt
text: Be kind.
"""
TOML = """
kind = "endpoint/v1"
namespace = "team"
name = "again"
model_size = "small"
output = { type = "boolean", spelling = "yes/no" }
"""


def test_yaml_with_several_documents_and_toml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(YAML)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.toml").write_text(TOML)
    mood, tone, again = (manifest for _, manifest in read(tmp_path))
    assert isinstance(mood, Endpoint)
    assert mood.output == Choice(labels=["good", "bad"])
    assert isinstance(tone, Guidance)
    assert again.name == "again"


def test_an_artefact_is_named_by_its_folder_and_not_by_a_digest(tmp_path: Path) -> None:
    """Somebody else's digest can be read in the catalogue; their artefact is theirs to share."""
    guidance = Guidance(
        namespace="team", name="x", form="lora", artefact="sha256:" + "0" * 64, model_fingerprint="sha256:" + "0" * 64
    )
    with pytest.raises(Refusal, match="folder, not a digest"):
        upload(tmp_path / "a.yaml", guidance, ArtefactStore(str(tmp_path / "store")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: model/v1\nname: 2024-13-45", "month must be in 1..12"),
        (YAML.replace("labels", "lables"), "unknown field `lables`"),
        (YAML.replace("model_size: small", ""), "missing required field `model_size`"),
        (YAML.replace("team", "Team"), "regex"),
        (YAML.replace("endpoint/v1", "endpoint/v7"), "Invalid value 'endpoint/v7'"),
        (YAML.replace("name: tone", "name: tone\nartefact: x"), "no `artefact`"),
        (YAML.replace("namespace: team", "namespace: infer", 1), "reserved"),
        (YAML + "\n---\n" + YAML, "is in"),
        ("{", "a.yaml"),
        ("", "holds no manifest"),
        ("!!python/object/apply:os.system [ls]", "a.yaml"),
    ],
)
def test_a_wrong_manifest_is_refused_by_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(Refusal, match=message) as caught:
        read(tmp_path)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert str(tmp_path) in caught.value.message
