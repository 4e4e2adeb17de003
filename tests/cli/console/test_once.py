"""An option of one value that is given twice, and a file option that may be."""

from __future__ import annotations

import msgspec
import pytest
from typer.testing import CliRunner

from guideway.cli import app
from guideway.schemas.failures import Refusal


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "-f", "a.txt", "-f", "b.txt", "/a/b"],
        ["send", "--file=a.txt", "--file", "b.txt", "/a/b"],
        ["send", "/a/b", "text", "--key", "1", "--key", "1"],
        ["tail", "/a/b", "-n1", "-n", "2"],
        ["topics", "apply", "-f", "a.yaml", "--file", "b.yaml"],
    ],
    ids=" ".join,
)
def test_it_is_refused(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, Refusal)
    assert "is given twice" in result.exception.message


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "/a/b", "--key", "--key", "text"],
        ["send", "--guidance", "a/b", "--guidance", "a/c", "/a/b", "text"],
        ["send", "/a/b", "--key", "k", "--", "--key"],
        ["apply", "-f", "a.yaml", "-f", "b.yaml"],
    ],
    ids=" ".join,
)
def test_what_only_looks_like_it_is_not(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, Refusal)
    assert "twice" not in result.exception.message


def test_several_places_are_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    from guideway.catalogue.documents.manifest_files import read_manifests

    folder = tmp_path_factory.mktemp("manifests")
    places = [folder / "a.yaml", folder / "b.yaml"]
    for place in places:
        document = {
            "kind": "endpoint/v1",
            "namespace": "shop",
            "name": place.stem,
            "model_size": "small",
            "output": {"type": "text"},
        }
        place.write_bytes(msgspec.json.encode(document))
    assert [source.manifest.name for source in read_manifests(*places)] == ["a", "b"]
    assert [source.manifest.name for source in read_manifests(folder, places[0])] == ["a", "b"]
    (folder / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(Refusal, match=r"empty.yaml: it holds no manifest"):
        read_manifests(*places, folder / "empty.yaml")
