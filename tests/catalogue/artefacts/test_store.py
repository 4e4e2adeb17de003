"""Artefacts by content: what is damaged, missing or no artefact is never served."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.contents import MAX_ARTEFACT_BYTES, MAX_TEXT_BYTES, Altered, read_fetched
from guideway.catalogue.artefacts.store import ArtefactStore
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
    fetched = store.fetch(digest, ArtefactCache(tmp_path / "cache"))
    assert {path.name for path in fetched.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert (fetched / "adapter_model.safetensors").read_bytes() == b"weights"
    assert store.fetch(digest, ArtefactCache(tmp_path / "cache")) == fetched


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
            store.fetch(digest, ArtefactCache(tmp_path / "cache"))
        assert caught.value.code is FailureCode.GUIDANCE_DAMAGED
        blob.write_bytes(intact)
    assert not list((tmp_path / "cache").iterdir()), "nothing half-fetched is left behind"
    store.fetch(digest, ArtefactCache(tmp_path / "cache"))


def test_a_missing_piece_is_refused(folder: Path, tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    digest = store.put_folder(folder)
    for blob in (tmp_path / "store" / "sha256").iterdir():
        blob.unlink()
    with pytest.raises(Refusal) as caught:
        store.fetch(digest, ArtefactCache(tmp_path / "cache"))
    assert caught.value.code is FailureCode.GUIDANCE_MISSING


def test_a_store_that_cannot_be_read_is_refused(folder: Path, tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    digest = store.put_folder(folder)
    for blob in (tmp_path / "store" / "sha256").iterdir():
        blob.unlink()
        blob.mkdir()  # reading it is an OSError, whoever runs the test
    with pytest.raises(Refusal, match="cannot be read") as caught:
        store.fetch(digest, ArtefactCache(tmp_path / "cache"))
    assert caught.value.code is FailureCode.GUIDANCE_MISSING


@pytest.mark.parametrize("digest", ["sha256:/etc", "sha256:../..", "/etc", "sha256:" + "0" * 63])
def test_what_is_no_digest_leads_nowhere(tmp_path: Path, digest: str) -> None:
    (tmp_path / "cache").mkdir()
    with pytest.raises(Refusal) as caught:
        ArtefactStore(str(tmp_path / "store")).fetch(digest, ArtefactCache(tmp_path / "cache"))
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED


def test_what_is_no_artefact_is_refused(tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    with pytest.raises(Refusal, match=r"lacks adapter_config.json, adapter_model.safetensors"):
        store.put_folder(tmp_path)


# Only plain files ----------------------------------------------------------------------------------------------------

SECRET = b"of somebody else"


def _link(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def _dangling(path: Path, outside: Path) -> None:
    path.symlink_to(outside.with_name("nothing"))


def _folder(path: Path, outside: Path) -> None:
    path.mkdir()


def _pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, outside: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("make", [_link, _dangling, _folder, _pipe, _socket])
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "README.md"])
def test_what_is_no_plain_file_is_not_packed(
    folder: Path, tmp_path: Path, name: str, make: Callable[[Path, Path], None]
) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(SECRET)
    (folder / name).unlink(missing_ok=True)
    make(folder / name, outside)
    with pytest.raises(Refusal, match=f"{name} is no plain file") as caught:
        ArtefactStore(str(tmp_path / "store")).put_folder(folder)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert not (tmp_path / "store").exists()


def test_what_else_the_folder_holds_is_not_looked_at(folder: Path, tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    digest = store.put_folder(folder)
    (folder / "link").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    (folder / os.fsdecode(b"\xff\xfe")).write_bytes(b"no name in UTF-8")
    for number in range(300):
        (folder / f"checkpoint-{number}").mkdir()
    assert store.put_folder(folder) == digest


def test_a_hard_link_is_the_plain_file_that_it_is(folder: Path, tmp_path: Path) -> None:
    store = ArtefactStore(str(tmp_path / "store"))
    digest = store.put_folder(folder)
    os.link(folder / "adapter_config.json", tmp_path / "the-same")
    assert store.put_folder(folder) == digest


@pytest.mark.parametrize(
    ("name", "size"),
    [("adapter_config.json", MAX_TEXT_BYTES + 1), ("adapter_model.safetensors", MAX_ARTEFACT_BYTES + 1)],
)
def test_a_file_that_is_too_large_is_refused_by_its_size(folder: Path, tmp_path: Path, name: str, size: int) -> None:
    os.truncate(folder / name, size)  # of nothing: it takes no room
    with pytest.raises(Refusal, match=f"{name} has {size} bytes, and at most"):
        ArtefactStore(str(tmp_path / "store")).put_folder(folder)


# What a store may hold -----------------------------------------------------------------------------------------------


def _stored(tmp_path: Path, listing: bytes) -> str:
    """The digest of a listing that somebody else wrote."""
    name = hashlib.sha256(listing).hexdigest()
    blobs = tmp_path / "store" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / name).write_bytes(listing)
    return f"sha256:{name}"


@pytest.mark.parametrize(
    "files",
    [
        {"README.md": "../../outside"},
        {"README.md": "sha256:../../outside"},
        {"README.md": "/etc/passwd"},
        {"../README.md": f"sha256:{'0' * 64}"},
        {"/elsewhere/README.md": f"sha256:{'0' * 64}"},
        {"weights.bin": f"sha256:{'0' * 64}"},
    ],
)
def test_a_listing_is_checked_before_a_byte_that_it_names_is_read(
    tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "outside").write_bytes(SECRET)
    digest = _stored(tmp_path, json.dumps({"files": files}, separators=(",", ":")).encode())
    opened: list[str] = []
    store = ArtefactStore(str(tmp_path / "store"))
    monkeypatch.setattr(store._fs, "open", _told(store._fs.open, opened))
    with pytest.raises(Refusal) as caught:
        store.fetch(digest, ArtefactCache(tmp_path / "cache"))
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED
    assert [Path(path).name for path in opened] == [digest.removeprefix("sha256:")]
    assert not list((tmp_path / "cache").iterdir())


def _told(opens: Callable[..., Any], opened: list[str]) -> Callable[..., Any]:
    def told(path: str, *args: Any, **kwargs: Any) -> Any:
        opened.append(path)
        return opens(path, *args, **kwargs)

    return told


def test_a_listing_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the digest of weights in the place of an artefact's."""
    digest = _stored(tmp_path, b" " * 2**17)
    opened: list[str] = []
    store = ArtefactStore(str(tmp_path / "store"))
    monkeypatch.setattr(store._fs, "open", _told(store._fs.open, opened))
    with pytest.raises(Refusal) as caught:
        store.fetch(digest, ArtefactCache(tmp_path / "cache"))
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED
    assert not opened


@pytest.mark.parametrize("listing", [b"[" * 50_000, b'{"files":{}} ', b'{"files":{},"files":{}}', b"\xff"])
def test_a_listing_that_is_none_is_damaged(tmp_path: Path, listing: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        ArtefactStore(str(tmp_path / "store")).fetch(_stored(tmp_path, listing), ArtefactCache(tmp_path / "cache"))
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED


def test_a_stored_file_that_is_too_large_for_its_name_is_not_read(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "store" / "sha256"
    blobs.mkdir(parents=True)
    name = "0" * 64
    (blobs / name).touch()
    os.truncate(blobs / name, MAX_TEXT_BYTES + 1)
    listing = json.dumps({"files": {"README.md": f"sha256:{name}"}}, separators=(",", ":")).encode()
    with pytest.raises(Refusal) as caught:
        ArtefactStore(str(tmp_path / "store")).fetch(_stored(tmp_path, listing), ArtefactCache(tmp_path / "cache"))
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED


def test_a_store_that_cannot_be_written_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"no folder")
    with pytest.raises(Refusal, match="cannot be written") as caught:
        ArtefactStore(str(tmp_path / "store")).put_folder(folder)
    assert caught.value.code is FailureCode.INVALID_SETTING


# Copies that change --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["altered", "cut", "gone", "linked", "more"])
def test_a_copy_that_changed_is_never_read_and_is_fetched_again(folder: Path, tmp_path: Path, how: str) -> None:
    store, cache = ArtefactStore(str(tmp_path / "store")), ArtefactCache(tmp_path / "cache")
    digest = store.put_folder(folder)
    copy = store.fetch(digest, cache)
    intact = read_fetched(copy, digest)
    weights = copy / "adapter_model.safetensors"
    match how:
        case "altered":
            weights.write_bytes(b"WEIGHTS")
        case "cut":
            os.truncate(weights, 3)
        case "gone":
            weights.unlink()
        case "linked":
            weights.rename(tmp_path / "elsewhere")
            weights.symlink_to(tmp_path / "elsewhere")
        case "more":
            (copy / "README.md").write_text("Read me.")
    with pytest.raises(Altered) as caught:
        read_fetched(copy, digest)
    assert caught.value.digest == digest
    assert caught.value.code.retryable
    assert store.read(digest, cache) == intact


def test_a_copy_that_changed_is_refused_where_the_store_changed_as_well(folder: Path, tmp_path: Path) -> None:
    store, cache = ArtefactStore(str(tmp_path / "store")), ArtefactCache(tmp_path / "cache")
    digest = store.put_folder(folder)
    for path in (*(tmp_path / "store" / "sha256").iterdir(), store.fetch(digest, cache) / "adapter_config.json"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(Refusal) as caught:
        store.read(digest, cache)
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED
