"""Artefacts by content: what is damaged, missing or no artefact is never served."""

from __future__ import annotations

from pathlib import Path

import pytest

from guideway.catalogue.artefacts import ArtefactStore
from guideway.schemas.failures import FailureCode, Refusal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "artefact"
    made.mkdir()
    (made / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (made / "adapter_model.safetensors").write_bytes(b"weights")
    (made / "training_args.bin").write_bytes(b"a pickle")
    return made


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_what_goes_in_comes_out_without_what_could_be_run(folder: Path, tmp_path: Path, scheme: str) -> None:
    store = ArtefactStore(f"{scheme}{tmp_path}/store")
    digest = store.put_folder(folder)
    assert store.put_folder(folder) == digest
    fetched = store.fetch(digest, tmp_path / "cache")
    assert {path.name for path in fetched.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert (fetched / "adapter_model.safetensors").read_bytes() == b"weights"
    assert store.fetch(digest, tmp_path / "cache") == fetched


def test_a_changed_weight_is_another_artefact(folder: Path, tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    before = store.put_folder(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"other weights")
    assert store.put_folder(folder) != before


def test_damage_anywhere_is_refused(folder: Path, tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    digest = store.put_folder(folder)
    for blob in (tmp_path / "store" / "sha256").iterdir():
        intact = blob.read_bytes()
        blob.write_bytes(intact[:-1] + b"?")
        with pytest.raises(Refusal) as caught:
            store.fetch(digest, tmp_path / "cache")
        assert caught.value.code is FailureCode.GUIDANCE_DAMAGED
        blob.write_bytes(intact)
    assert not list((tmp_path / "cache").iterdir()), "nothing half-fetched is left behind"
    store.fetch(digest, tmp_path / "cache")


def test_a_missing_piece_is_refused(folder: Path, tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    digest = store.put_folder(folder)
    for blob in (tmp_path / "store" / "sha256").iterdir():
        blob.unlink()
    with pytest.raises(Refusal) as caught:
        store.fetch(digest, tmp_path / "cache")
    assert caught.value.code is FailureCode.GUIDANCE_MISSING


def test_a_store_that_cannot_be_read_is_refused(folder: Path, tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    digest = store.put_folder(folder)
    for blob in (tmp_path / "store" / "sha256").iterdir():
        blob.unlink()
        blob.mkdir()  # reading it is an OSError, whoever runs the test
    with pytest.raises(Refusal, match="cannot be read") as caught:
        store.fetch(digest, tmp_path / "cache")
    assert caught.value.code is FailureCode.GUIDANCE_MISSING


@pytest.mark.parametrize("digest", ["sha256:/etc", "sha256:../..", "/etc", "sha256:" + "0" * 63])
def test_what_is_no_digest_leads_nowhere(tmp_path: Path, digest: str) -> None:
    (tmp_path / "cache").mkdir()
    with pytest.raises(Refusal) as caught:
        ArtefactStore(str(tmp_path / "store")).fetch(digest, tmp_path / "cache")
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED


def test_what_is_no_artefact_is_refused(tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    with pytest.raises(Refusal, match=r"lacks adapter_config.json, adapter_model.safetensors"):
        store.put_folder(tmp_path)
