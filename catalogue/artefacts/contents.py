"""An artefact in memory: its files, how large they may be, its digest, and reading it from a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from guideway.catalogue.artefacts.plain_files import NotPlain, missing_files, read_plain_files
from guideway.schemas.failures import FailureCode, Refusal

Contents = Mapping[str, bytearray]
"""An artefact in memory: file name → its bytes."""

MAX_ARTEFACT_BYTES: Final = 2 * 2**30
MAX_TEXT_BYTES: Final = 4 * 2**20
"""The largest descriptive file; it is read whole."""
PEFT_FILES: Final = frozenset({"adapter_config.json", "adapter_model.safetensors"})
SET_FILES: Final = frozenset({"set.json", "passages.jsonl", "vectors.safetensors"})
_ABOUT: Final = "README.md"
FILE_LIMITS: Final = {
    "adapter_config.json": MAX_TEXT_BYTES,
    "adapter_model.safetensors": MAX_ARTEFACT_BYTES,
    "set.json": MAX_TEXT_BYTES,
    "passages.jsonl": MAX_ARTEFACT_BYTES,
    "vectors.safetensors": MAX_ARTEFACT_BYTES,
    _ABOUT: MAX_TEXT_BYTES,
}
"""File name → its most bytes. No file here can be unpickled or run."""
DIGEST: Final = re.compile("sha256:[0-9a-f]{64}")


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The list of an artefact's files. Its hash is the artefact's digest."""

    files: dict[str, str]
    """File name → digest of its bytes."""


class Altered(Refusal):
    """A copy on this machine's disk no longer has its digest, or is gone. It must be fetched again."""

    def __init__(self, digest: str, message: str = "") -> None:
        super().__init__(
            FailureCode.GUIDANCE_MISSING,
            message
            or "its copy on this machine's disk has changed: send the event again; if that does not help, check the "
            "disk, and which other program writes to the artefact cache",
        )
        self.digest = digest


def as_refusal(code: FailureCode, message: str, altered: str) -> Refusal:
    """The refusal of another process. altered: the digest of the artefact that it found altered, if any."""
    return Altered(altered, message) if altered else Refusal(code, message)


def read_folder(folder: Path, needed: frozenset[str]) -> dict[str, bytearray]:
    """The files of an artefact from a folder that somebody made: those `needed`, and its README.md.

    Raises Refusal(invalid_manifest) if one is missing, too large or no plain file.
    """
    limits = {name: FILE_LIMITS[name] for name in [*needed, _ABOUT]}
    try:
        files = read_plain_files(folder, limits, total=MAX_ARTEFACT_BYTES)
    except NotPlain as error:
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{folder} is no artefact: {error}") from None
    except (FileNotFoundError, NotADirectoryError):
        files = {}
    except OSError as error:
        raise Refusal(
            FailureCode.INVALID_MANIFEST, f"{folder} cannot be read ({reason(error)}): allow guideway to read it"
        ) from None
    if lacks := missing_files(files, needed):
        hint = _hint(folder, needed)
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{folder} is no artefact: it lacks {lacks}{hint}")
    return files


def _hint(folder: Path, needed: frozenset[str]) -> str:
    """What the folder has instead, and what to do; empty if that is unknown."""
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
    """The files of a fetched artefact. The bytes in memory are hashed, so that nobody can change them afterwards.

    Raises Altered if they do not have this digest.
    """
    try:
        files = read_plain_files(folder, FILE_LIMITS, total=MAX_ARTEFACT_BYTES)
    except (NotPlain, OSError):
        raise Altered(digest) from None
    if digest_of(files) != digest:
        raise Altered(digest)
    return files


def digest_of(files: Contents) -> str:
    """The digest of an artefact."""
    return digest_of_bytes(listing_of({name: digest_of_bytes(content) for name, content in files.items()}))


def digest_of_bytes(data: bytes | bytearray) -> str:
    """`sha256:HEX` of the bytes of one file, or of a listing."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def listing_of(files: dict[str, str]) -> bytes:
    """The listing of an artefact as it is stored. The same files (name → digest) give the same bytes."""
    return msgspec.json.encode(Listing(files), order="deterministic")


def reason(error: OSError) -> str:
    """The system's own words for the error of a disk or a store."""
    return error.strerror or type(error).__name__
