"""Artefacts in an object store. Each file is named by the hash of its bytes, an artefact by that of its listing."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import fsspec
import msgspec

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.contents import (
    DIGEST,
    FILE_LIMITS,
    MAX_ARTEFACT_BYTES,
    PEFT_FILES,
    Altered,
    Contents,
    Listing,
    digest_of_bytes,
    listing_of,
    read_fetched,
    read_folder,
    reason,
)
from guideway.schemas.failures import FailureCode, Refusal

_MAX_LISTING_BYTES: Final = 2**16
_PIECE_BYTES: Final = 2**20


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
            # ImportError: the package for this kind of store is not installed; the message names it.
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"GUIDEWAY_STORE is {address!r}, which cannot be opened ({error}): name a folder, or another address",
            ) from None

    def check_writable(self) -> None:
        """Raises Refusal(invalid_setting) if nothing can be stored. Ask before work that takes hours."""
        probe = f"{self._base}/.probe-{uuid.uuid4().hex}"
        try:
            self._fs.makedirs(self._base, exist_ok=True)
            self._fs.pipe_file(probe, b"")
            self._fs.rm_file(probe)
        except OSError as error:
            raise self._not_written(error) from None

    def put_folder(self, folder: Path, needed: frozenset[str] = PEFT_FILES) -> str:
        """Store a PEFT folder, or with `SET_FILES` a retrieval set's; returns its digest.

        Raises Refusal(invalid_manifest) for anything else, invalid_setting where it cannot be written.
        """
        return self.put(read_folder(folder, needed))

    def put(self, files: Contents) -> str:
        """Store an artefact; returns its digest. Raises Refusal(invalid_setting) where it cannot be written."""
        return self._put(listing_of({name: self._put(content) for name, content in files.items()}))

    def fetch(self, digest: str, cache: ArtefactCache) -> Path:
        """The artefact as a folder of the cache. It is fetched and checked once, and stays until this process ends.

        Raises Refusal: guidance_missing if the store lacks a piece or cannot be read, guidance_damaged if a piece has
        changed or is too large; OSError if the cache cannot be written.
        """
        return cache.hold(cache_name(digest), lambda folder: self._download(digest, folder))

    def renew(self, digest: str, cache: ArtefactCache) -> None:
        """Fetch a held artefact again if its copy has changed. Raises as `fetch`."""
        name = cache_name(digest)
        try:
            read_fetched(cache.folder / name, digest)
        except Altered:
            cache.remove(name)
            self.fetch(digest, cache)
            cache.let_go(name)

    def checked(self, digest: str, cache: ArtefactCache) -> Path:
        """As `fetch`; the artefact is fetched again if its copy has changed."""
        folder = self.fetch(digest, cache)
        self.renew(digest, cache)
        return folder

    def read(self, digest: str, cache: ArtefactCache) -> Contents:
        """The artefact in memory, read from the cache. Raises as `fetch`, and Altered if the disk changes bytes."""
        return read_fetched(self.checked(digest, cache), digest)

    def _download(self, digest: str, folder: Path) -> None:
        files = self._files(digest)
        total = 0
        for name, content in files.items():
            size = self._size(content)
            total += size
            if size > FILE_LIMITS[name] or total > MAX_ARTEFACT_BYTES:
                raise _damaged(digest)
        for name, content in files.items():
            with (folder / name).open("xb") as file:
                for piece in self._pieces(content, FILE_LIMITS[name]):
                    file.write(piece)

    def _files(self, digest: str) -> dict[str, str]:
        """The listing, name → digest. All names are checked before any file is read."""
        listing = b"".join(self._pieces(digest, _MAX_LISTING_BYTES))
        try:
            files = msgspec.json.decode(listing, type=Listing).files
        except (msgspec.DecodeError, RecursionError):
            raise _damaged(digest) from None
        plain = files.keys() <= FILE_LIMITS.keys() and all(map(DIGEST.fullmatch, files.values()))
        if not plain or listing_of(files) != listing:
            raise _damaged(digest)
        return files

    def _path(self, digest: str) -> str:
        return f"{self._base}/sha256/{digest.removeprefix('sha256:')}"

    def _put(self, data: bytes | bytearray) -> str:
        digest = digest_of_bytes(data)
        path = self._path(digest)
        # The file appears whole or not at all. A file that is there is never written again.
        fresh = f"{path}.{uuid.uuid4().hex}"
        try:
            if not self._fs.exists(path):
                self._fs.makedirs(os.path.dirname(path), exist_ok=True)
                self._fs.pipe_file(fresh, data)
                self._fs.mv(fresh, path)
        except OSError as error:
            raise self._not_written(error) from None
        return digest

    def _size(self, digest: str) -> int:
        try:
            found = self._fs.info(self._path(digest))
        except OSError as error:
            raise _not_read(digest, error) from None
        if found.get("type") != "file":
            raise _not_read(digest, IsADirectoryError())
        return int(found["size"])

    def _pieces(self, digest: str, limit: int) -> Iterator[bytes]:
        """The bytes of one file, hashed while they are read: at most `limit`, and no more than its size at first."""
        size = self._size(digest)
        if size > limit:
            raise _damaged(digest)
        hashed = hashlib.sha256()
        try:
            with self._fs.open(self._path(digest), "rb") as file:
                while size > 0 and (piece := file.read(min(_PIECE_BYTES, size))):
                    size -= len(piece)
                    hashed.update(piece)
                    yield piece
        except OSError as error:
            raise _not_read(digest, error) from None
        if f"sha256:{hashed.hexdigest()}" != digest:
            raise _damaged(digest)

    def _not_written(self, error: OSError) -> Refusal:
        return Refusal(
            FailureCode.INVALID_SETTING,
            f"the artefact store {self.address} cannot be written ({reason(error)}): check that it has space and "
            "that guideway may write to it, or name another with GUIDEWAY_STORE",
        )


def cache_name(digest: str) -> str:
    """The artefact's name in a cache. Raises Refusal(guidance_damaged) if it is no digest."""
    if not DIGEST.fullmatch(digest):
        raise _damaged(digest)
    return digest.removeprefix("sha256:")


def _not_read(digest: str, error: OSError) -> Refusal:
    if isinstance(error, FileNotFoundError):
        return Refusal(
            FailureCode.GUIDANCE_MISSING,
            f"the artefact store lacks {digest[:19]}…: apply its guidance, or create its set, again; or name the "
            "right store",
        )
    return Refusal(
        FailureCode.GUIDANCE_MISSING,
        f"the artefact store cannot be read ({reason(error)}): allow guideway to read it, or name another with "
        "GUIDEWAY_STORE",
    )


def _damaged(digest: str) -> Refusal:
    return Refusal(
        FailureCode.GUIDANCE_DAMAGED,
        f"the artefact store's copy of {digest[:19]}… is damaged: remove it there, and apply its guidance, or "
        "create its set, again",
    )
