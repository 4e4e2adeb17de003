"""Artefacts by content: a folder of files is named by the hash of its listing, each file by the hash of its bytes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any, Final

import fsspec
import msgspec

from guideway.schemas.failures import FailureCode, Refusal

PEFT_FILES: Final = frozenset({"adapter_config.json", "adapter_model.safetensors"})
SET_FILES: Final = frozenset({"set.json", "passages.jsonl", "vectors.safetensors"})
ALLOWED_FILES: Final = PEFT_FILES | SET_FILES | {"README.md"}
"""Nothing that could be unpickled or run is ever taken in."""
_DIGEST: Final = re.compile("sha256:[0-9a-f]{64}")
MAX_ARTEFACT_BYTES: Final = 2 * 2**30


class _Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    files: dict[str, str]
    """File name → digest of its bytes."""


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class ArtefactStore:
    """An object store (any fsspec address: a folder, s3://, gs://, ...), written once and checked on every read.

    Layout: `BASE/sha256/HEX`, for files and listings alike.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._fs: Any
        try:
            self._fs, self._base = fsspec.core.url_to_fs(address)
        except (ValueError, ImportError) as error:
            # ImportError: the package for this kind of store is not installed, and the message names it.
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"GUIDEWAY_STORE is {address!r}, which cannot be opened ({error}): name a folder, or another address",
            ) from None

    def check_writable(self) -> None:
        """Raises Refusal(invalid_setting) if nothing can be stored: better known before an artefact takes hours."""
        probe = f"{self._base}/.probe-{uuid.uuid4().hex}"
        try:
            self._fs.makedirs(self._base, exist_ok=True)
            self._fs.pipe_file(probe, b"")
            self._fs.rm_file(probe)
        except OSError as error:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"the artefact store {self.address} cannot be written ({error.strerror or type(error).__name__}): give "
                "us the right to, or name another with GUIDEWAY_STORE",
            ) from None

    def put_folder(self, folder: Path, needed: frozenset[str] = PEFT_FILES) -> str:
        """Store a PEFT folder, or with `SET_FILES` a retrieval set's; returns its digest.

        Raises Refusal(invalid_manifest) for anything else.
        """
        paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        found = {path.name for path in paths}
        if not needed <= found:
            raise Refusal(
                FailureCode.INVALID_MANIFEST,
                f"{folder} is no artefact: it lacks {', '.join(sorted(needed - found))}",
            )
        if sum(path.stat().st_size for path in paths) > MAX_ARTEFACT_BYTES:
            raise Refusal(FailureCode.INVALID_MANIFEST, f"{folder} is larger than {MAX_ARTEFACT_BYTES} bytes")
        files = {path.name: self._put(path.read_bytes()) for path in paths if path.name in ALLOWED_FILES}
        return self._put(msgspec.json.encode(_Listing(files), order="deterministic"))

    def fetch(self, digest: str, cache: Path) -> Path:
        """The artefact as a folder under `cache`, fetched and checked the first time.

        Raises Refusal: guidance_missing if the store lacks a piece or cannot be read, guidance_damaged if a piece
        is not what it was.
        """
        if not _DIGEST.fullmatch(digest):
            raise _damaged(digest)
        target = cache / digest.removeprefix("sha256:")
        if target.is_dir():
            return target
        try:
            files = msgspec.json.decode(self._get(digest), type=_Listing).files
        except msgspec.DecodeError:
            raise _damaged(digest) from None
        if not files.keys() <= ALLOWED_FILES:
            raise _damaged(digest)
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=cache, prefix=".fetch-"))
        try:
            for name, content in files.items():
                (fresh / name).write_bytes(self._get(content))
            try:
                fresh.rename(target)
            except OSError:
                # Another process was quicker, with the same bytes.
                if not target.is_dir():
                    raise
            return target
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _path(self, digest: str) -> str:
        return f"{self._base}/sha256/{digest.removeprefix('sha256:')}"

    def _put(self, data: bytes) -> str:
        digest = _digest(data)
        path = self._path(digest)
        if not self._fs.exists(path):
            self._fs.makedirs(os.path.dirname(path), exist_ok=True)
            # Whole or not at all: what is there is never written again.
            fresh = f"{path}.{uuid.uuid4().hex}"
            self._fs.pipe_file(fresh, data)
            self._fs.mv(fresh, path)
        return digest

    def _get(self, digest: str) -> bytes:
        try:
            data: bytes = self._fs.cat_file(self._path(digest))
        except FileNotFoundError:
            raise Refusal(
                FailureCode.GUIDANCE_MISSING,
                f"the artefact store lacks {digest[:19]}…: apply its guidance again, or name the right store",
            ) from None
        except OSError as error:
            raise Refusal(
                FailureCode.GUIDANCE_MISSING,
                f"the artefact store cannot be read ({error.strerror or type(error).__name__}): give us "
                "the right to, or name another with GUIDEWAY_STORE",
            ) from None
        if _digest(data) != digest:
            raise _damaged(digest)
        return data


def _damaged(digest: str) -> Refusal:
    return Refusal(
        FailureCode.GUIDANCE_DAMAGED,
        f"the artefact store's copy of {digest[:19]}… is damaged: remove it there and apply its guidance again",
    )
