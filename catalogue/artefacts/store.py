"""Artefacts by content: a folder of files is named by the hash of its listing, each file by the hash of its bytes."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import fsspec
import msgspec

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.plain_files import NotPlain, missing, read_plain_files
from guideway.schemas.failures import FailureCode, Refusal

Contents = Mapping[str, bytearray]
"""An artefact in memory: file name → its bytes."""

MAX_ARTEFACT_BYTES: Final = 2 * 2**30
MAX_TEXT_BYTES: Final = 4 * 2**20
"""Of a file that describes: it is read whole, in one go."""
PEFT_FILES: Final = frozenset({"adapter_config.json", "adapter_model.safetensors"})
SET_FILES: Final = frozenset({"set.json", "passages.jsonl", "vectors.safetensors"})
_ABOUT: Final = "README.md"
_LIMITS: Final = {
    "adapter_config.json": MAX_TEXT_BYTES,
    "adapter_model.safetensors": MAX_ARTEFACT_BYTES,
    "set.json": MAX_TEXT_BYTES,
    "passages.jsonl": MAX_ARTEFACT_BYTES,
    "vectors.safetensors": MAX_ARTEFACT_BYTES,
    _ABOUT: MAX_TEXT_BYTES,
}
"""Nothing that could be unpickled or run is ever taken in."""
_DIGEST: Final = re.compile("sha256:[0-9a-f]{64}")
_MAX_LISTING_BYTES: Final = 2**16
_PIECE_BYTES: Final = 2**20


class _Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    files: dict[str, str]
    """File name → digest of its bytes."""


class Altered(Refusal):
    """A copy on this machine's disk is not what its digest says, or not there any more: it is to be fetched again."""

    def __init__(self, digest: str, message: str = "") -> None:
        super().__init__(
            FailureCode.GUIDANCE_MISSING,
            message
            or "its copy on this machine's disk is not what it was: send the event again; if that does not help, look "
            "at the disk, and at who else writes to the artefact cache",
        )
        self.digest = digest


def as_refusal(code: FailureCode, message: str, altered: str) -> Refusal:
    """What another process refused; `altered` is the digest of the artefact that it found so, if it did."""
    return Altered(altered, message) if altered else Refusal(code, message)


def read_folder(folder: Path, needed: frozenset[str]) -> dict[str, bytearray]:
    """The files of an artefact that somebody made: those `needed`, and what is said about them.

    Raises Refusal(invalid_manifest) for anything else.
    """
    limits = {name: _LIMITS[name] for name in [*needed, _ABOUT]}
    try:
        files = read_plain_files(folder, limits, total=MAX_ARTEFACT_BYTES)
    except NotPlain as error:
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{folder} is no artefact: {error}") from None
    except (FileNotFoundError, NotADirectoryError):
        files = {}
    except OSError as error:
        raise Refusal(
            FailureCode.INVALID_MANIFEST, f"{folder} cannot be read ({_why(error)}): give us the right to"
        ) from None
    if lacks := missing(files, needed):
        hint = _hint(folder, needed)
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{folder} is no artefact: it lacks {lacks}{hint}")
    return files


def _hint(folder: Path, needed: frozenset[str]) -> str:
    """What is there instead, and what to do; empty where that is not to be seen."""
    try:
        inside = sorted(os.listdir(folder))
        below = [one for one in inside if needed <= {*_listdir(folder / one)}]
    except OSError:
        return ": there is no such folder" if not folder.exists() else ""
    if len(below) == 1:
        return f"; its folder {below[0]} has them: name it"
    if below:
        return f"; its folders {', '.join(below[-3:])} have them: name one"
    if "adapter_model.bin" in inside and needed == PEFT_FILES:
        return (
            "; adapter_model.bin is a pickle, which could run anything and is never read: load it with PEFT and save "
            "it again with `save_pretrained(FOLDER)`, which writes safetensors"
        )
    if needed == PEFT_FILES and any(one.startswith("model") and one.endswith(".safetensors") for one in inside):
        return "; it holds a whole model: save the adapter alone, before it is merged"
    return ""


def _listdir(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def read_fetched(folder: Path, digest: str) -> Contents:
    """The files of a fetched artefact, whose bytes are hashed after they were read: nobody can change them any more.

    Raises Altered if they are not what `digest` says.
    """
    try:
        files = read_plain_files(folder, _LIMITS, total=MAX_ARTEFACT_BYTES)
    except (NotPlain, OSError):
        raise Altered(digest) from None
    if digest_of(files) != digest:
        raise Altered(digest)
    return files


def digest_of(files: Contents) -> str:
    """The digest of an artefact."""
    return _digest(_listed({name: _digest(content) for name, content in files.items()}))


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
            raise self._not_written(error) from None

    def put_folder(self, folder: Path, needed: frozenset[str] = PEFT_FILES) -> str:
        """Store a PEFT folder, or with `SET_FILES` a retrieval set's; returns its digest.

        Raises Refusal(invalid_manifest) for anything else, invalid_setting where it cannot be written.
        """
        return self.put(read_folder(folder, needed))

    def put(self, files: Contents) -> str:
        """Store an artefact; returns its digest. Raises Refusal(invalid_setting) where it cannot be written."""
        return self._put(_listed({name: self._put(content) for name, content in files.items()}))

    def fetch(self, digest: str, cache: ArtefactCache) -> Path:
        """The artefact as a folder of the cache, fetched and checked the first time; it stays until this process ends.

        Raises Refusal: guidance_missing if the store lacks a piece or cannot be read, guidance_damaged if a piece
        is not what it was, or more than an artefact may be; OSError where the cache cannot be written.
        """
        return cache.hold(cache_name(digest), lambda folder: self._download(digest, folder))

    def renew(self, digest: str, cache: ArtefactCache) -> None:
        """Fetch a held artefact again if its copy is not what it was. Raises as `fetch`."""
        name = cache_name(digest)
        try:
            read_fetched(cache.folder / name, digest)
        except Altered:
            cache.remove(name)
            self.fetch(digest, cache)
            cache.let_go(name)

    def checked(self, digest: str, cache: ArtefactCache) -> Path:
        """As `fetch`, and fetched again if its copy is not what it was."""
        folder = self.fetch(digest, cache)
        self.renew(digest, cache)
        return folder

    def read(self, digest: str, cache: ArtefactCache) -> Contents:
        """The artefact in memory, by way of the cache. Raises as `fetch`; Altered where the disk alters things."""
        return read_fetched(self.checked(digest, cache), digest)

    def _download(self, digest: str, folder: Path) -> None:
        files = self._files(digest)
        total = 0
        for name, content in files.items():
            size = self._size(content)
            total += size
            if size > _LIMITS[name] or total > MAX_ARTEFACT_BYTES:
                raise _damaged(digest)
        for name, content in files.items():
            with (folder / name).open("xb") as file:
                for piece in self._pieces(content, _LIMITS[name]):
                    file.write(piece)

    def _files(self, digest: str) -> dict[str, str]:
        """The listing: names that an artefact may have → digests; all known before any of their bytes is read."""
        listing = b"".join(self._pieces(digest, _MAX_LISTING_BYTES))
        try:
            files = msgspec.json.decode(listing, type=_Listing).files
        except (msgspec.DecodeError, RecursionError):
            raise _damaged(digest) from None
        plain = files.keys() <= _LIMITS.keys() and all(map(_DIGEST.fullmatch, files.values()))
        if not plain or _listed(files) != listing:
            raise _damaged(digest)
        return files

    def _path(self, digest: str) -> str:
        return f"{self._base}/sha256/{digest.removeprefix('sha256:')}"

    def _put(self, data: bytes | bytearray) -> str:
        digest = _digest(data)
        path = self._path(digest)
        # Whole or not at all: what is there is never written again.
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
        """The bytes of one file, hashed while they are read; no more than `limit`, and no more than there were."""
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
            f"the artefact store {self.address} cannot be written ({_why(error)}): see that there is room and that we "
            "have the right to, or name another with GUIDEWAY_STORE",
        )


def cache_name(digest: str) -> str:
    """The name in a cache. Raises Refusal(guidance_damaged) for what is no digest."""
    if not _DIGEST.fullmatch(digest):
        raise _damaged(digest)
    return digest.removeprefix("sha256:")


def _digest(data: bytes | bytearray) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _listed(files: dict[str, str]) -> bytes:
    return msgspec.json.encode(_Listing(files), order="deterministic")


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _not_read(digest: str, error: OSError) -> Refusal:
    if isinstance(error, FileNotFoundError):
        return Refusal(
            FailureCode.GUIDANCE_MISSING,
            f"the artefact store lacks {digest[:19]}…: apply its guidance, or create its set, again; or name the "
            "right store",
        )
    return Refusal(
        FailureCode.GUIDANCE_MISSING,
        f"the artefact store cannot be read ({_why(error)}): give us the right to, or name another with GUIDEWAY_STORE",
    )


def _damaged(digest: str) -> Refusal:
    return Refusal(
        FailureCode.GUIDANCE_DAMAGED,
        f"the artefact store's copy of {digest[:19]}… is damaged: remove it there, and apply its guidance, or "
        "create its set, again",
    )
