"""Manifests as people write them: YAML or TOML files in a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec

from guideway.catalogue.adapter_forms import check_folder
from guideway.catalogue.artefacts import PEFT_FILES, ArtefactStore, read_folder
from guideway.catalogue.documents import read_documents
from guideway.catalogue.entries import Identity
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model

_NO_TEXT: Final = re.compile(r"Expected `str[^`]*`, got `(?:int|float|bool|null)`")
SUFFIXES: Final = (".yaml", ".yml", ".toml")


def read(place: Path) -> list[tuple[Path, Manifest]]:
    """All manifests of a file or of a folder and its sub-folders, in order of path. Raises Refusal(invalid_manifest).

    A YAML file may hold several documents. Guidance still names its artefact by folder: see `upload`.
    """
    try:
        if not place.exists():
            raise Refusal(FailureCode.INVALID_MANIFEST, f"there is no file or folder {place}")
        paths = [place] if not place.is_dir() else sorted(path for path in place.rglob("*") if path.suffix in SUFFIXES)
    except OSError as error:
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{str(place)[:200]} cannot be read: {error.strerror}") from None
    found: dict[Identity, tuple[Path, Manifest]] = {}
    for path in paths:
        for document in read_documents(path):
            manifest = _convert(path, document)
            identity = Identity.of(manifest)
            if identity in found:
                raise Refusal(FailureCode.INVALID_MANIFEST, f"{path}: {identity} is in {found[identity][0]} as well")
            found[identity] = (path, manifest)
    if not found:
        raise Refusal(FailureCode.INVALID_MANIFEST, f"{place} holds no manifest (*.yaml, *.yml, *.toml)")
    return list(found.values())


def upload(path: Path, manifest: Manifest, store: ArtefactStore) -> Manifest:
    """The manifest as the catalogue keeps it: an artefact's folder is checked, stored and named by its digest.

    Raises Refusal(invalid_manifest | guidance_damaged); invalid_setting where it cannot be stored.
    """
    if not isinstance(manifest, Guidance) or not manifest.artefact or manifest.form == "text_prompt":
        return manifest
    if manifest.artefact.startswith("sha256:"):
        # By its digest, anybody could serve an artefact that its owner does not share.
        raise Refusal(
            FailureCode.INVALID_MANIFEST, f"{path}: {manifest.name}: name the artefact's folder, not a digest"
        )
    try:
        files = read_folder(path.parent / manifest.artefact, PEFT_FILES)
        check_folder(files, manifest.form)
    except Refusal as refusal:
        raise Refusal(refusal.code, f"{path}: {manifest.name}: {refusal.message}") from None
    return msgspec.structs.replace(manifest, artefact=store.put(files))


def _convert(path: Path, document: Any) -> Manifest:
    try:
        return msgspec.convert(document, Endpoint | Guidance | Model)
    except msgspec.ValidationError as error:
        name = document.get("name", "") if isinstance(document, dict) else ""
        raise Refusal(
            FailureCode.INVALID_MANIFEST, f"{path}: {name}: {said(error)}" if name else f"{path}: {said(error)}"
        ) from None


def said(error: msgspec.ValidationError) -> str:
    """What is wrong, and how to write it where the value is right and its type is not."""
    hint = " (write it in quotes)" if _NO_TEXT.match(str(error)) else ""
    return f"{error}{hint}"
