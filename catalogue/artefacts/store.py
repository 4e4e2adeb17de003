"""Artefacts in an object store. Each file is named by the hash of its bytes, an artefact by that of its listing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

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
from guideway.catalogue.artefacts.opening import opened
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import NAME

_MAX_LISTING_BYTES: Final = 2**16
_PIECE_BYTES: Final = 2**20


class ArtefactStore:
    """An object store (any fsspec address: a folder, s3://, gs://, ...), written once and checked on every read.

    Layout: `BASE/OWNER/sha256/HEX`, for files and listings alike. What a namespace put is in its own part, `of` it: a
    digest is no right to what another one put. A store without an owner has `BASE/sha256/HEX`.
    """

    def __init__(self, address: str, owner: str = "") -> None:
        self.address, self.owner = address, owner
        self._fs, self._base = opened(address)
        if owner:
            assert NAME.fullmatch(owner), "a namespace"
            self._base = f"{self._base}/{owner}"

    def of(self, owner: str) -> ArtefactStore:
        """The part of a namespace: what it put, and nothing else."""
        return ArtefactStore(self.address, owner)

    def name_in_cache(self, digest: str) -> str:
        """The artefact's name in a cache: each owner's copy is its own. Raises Refusal(guidance_damaged)."""
        plain = cache_name(digest)
        return f"{self.owner}.{plain}" if self.owner else plain

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

    def held_bytes(self, digests: Iterable[str]) -> int:
        """The bytes of these artefacts. A file that several have counts once, and one that is not there not at all."""
        sizes: dict[str, int] = {}
        for digest in digests:
            with contextlib.suppress(Refusal):
                for one in self._files(digest).values():
                    if one not in sizes:
                        sizes[one] = self._size(one)
        return sum(sizes.values())

    def fetch(self, digest: str, cache: ArtefactCache) -> Path:
        """The artefact as a folder of the cache. It is fetched and checked once, and stays until this process ends.

        Raises Refusal: guidance_missing if the store lacks a piece or cannot be read, guidance_damaged if a piece has
        changed or is too large; OSError if the cache cannot be written.
        """
        return cache.hold(self.name_in_cache(digest), lambda folder: self._download(digest, folder))

    def renew(self, digest: str, cache: ArtefactCache) -> None:
        """Fetch a held artefact again if its copy has changed. Raises as `fetch`."""
        name = self.name_in_cache(digest)
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

    def contents(self, digest: str) -> Contents:
        """The artefact in memory, read from the store once; nothing is kept on this machine's disk.

        Raises Refusal: guidance_missing, guidance_damaged, as `fetch`.
        """
        files = self._bounded_files(digest)
        return {name: bytearray().join(self._pieces(one, FILE_LIMITS[name])) for name, one in files.items()}

    def _download(self, digest: str, folder: Path) -> None:
        for name, content in self._bounded_files(digest).items():
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

    def _bounded_files(self, digest: str) -> dict[str, str]:
        """As `_files`, none of which is too large."""
        files = self._files(digest)
        total = 0
        for name, content in files.items():
            size = self._size(content)
            total += size
            if size > FILE_LIMITS[name] or total > MAX_ARTEFACT_BYTES:
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
        except FileNotFoundError as error:
            refusal = _not_read(digest, error)
            # Whether it is there is not told: it may be another namespace's.
            if self.owner and self._fs.exists(ArtefactStore(self.address)._path("")):
                message = "the store also has artefacts of an earlier guideway, which `guideway catalogue move` moves"
                raise Refusal(refusal.code, f"{refusal.message}; {message}") from None
            raise refusal from None
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
