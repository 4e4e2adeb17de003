"""Manifests as people write them: YAML or TOML files in a folder."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from guideway.catalogue.adapters.forms import check_folder
from guideway.catalogue.adapters.virtual_tokens import virtual_tokens_in
from guideway.catalogue.artefacts.contents import PEFT_FILES, Contents, read_folder
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.documents.calibration_files import with_texts
from guideway.catalogue.documents.conversion import converted
from guideway.catalogue.documents.descriptor_files import with_descriptors
from guideway.catalogue.documents.document import STDIN, Document, name_of, parse_documents
from guideway.catalogue.documents.faults import MAX_FOUND, Fault, Faulty, FieldPath
from guideway.catalogue.documents.foreign import no_manifest
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.owned import known_artefacts
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Guidance, Manifest

SUFFIXES: Final = (".yaml", ".yml", ".toml")
_MOST_FILES: Final = 10_000
_LONG_WORD: Final = re.compile(r"\S{200,}")


@dataclass(frozen=True)
class Source:
    """A manifest and its place."""

    path: Path
    """The path of its file. Guidance names its artefact by a folder relative to it: see `upload`."""
    manifest: Manifest
    document: Document | None = None
    """None: it was not read from a file."""

    def fault(self, message: str, place: FieldPath = (), code: FailureCode = FailureCode.INVALID_MANIFEST) -> Fault:
        """A fault of the value at `place`."""
        what = called(Identity.of(self.manifest))
        # A number or a name in the file may be a megabyte long.
        message = _LONG_WORD.sub(lambda word: f"{word[0][:60]}…{word[0][-20:]}", message)
        found = self.document.fault(message, place, what) if self.document is not None else None
        return msgspec.structs.replace(found or Fault(message=message, what=what), code=code)


def called(identity: Identity) -> str:
    """The manifest's kind and name as people write them: an endpoint by its address."""
    return str(identity).replace(" ", " /") if identity.kind == "endpoint" else str(identity)


def read_manifests(*places: Path) -> list[Source]:
    """All manifests of each place: a file, a folder with its sub-folders in order of path, or standard input (`-`).

    A YAML file may hold several documents. Hidden files and folders are left out, and links are followed.
    Raises Faulty with all faults of all files.
    """
    found: dict[Identity, Source] = {}
    faults: list[Fault] = []
    held = {place: _files(place) for place in places}
    for path in dict.fromkeys(path for files in held.values() for path in files):
        if len(faults) >= MAX_FOUND:
            break
        if path not in places and path.exists() and not (path.is_file() or path.is_dir()):
            # Reading a pipe in a folder would wait for a writer. A pipe that is named itself is read.
            faults.append(Fault(file=str(path), message="it is a pipe or a device, and no file: leave it out"))
            continue
        documents, wrong = parse_documents(path)
        faults += wrong
        for document in documents:
            manifest, wrong = _manifest(path, document) if len(faults) < MAX_FOUND else (None, [])
            faults += wrong
            if manifest is None:
                continue
            source = Source(path, manifest, document)
            before = found.setdefault(Identity.of(manifest), source)
            if before is not source and before.document is not None:
                where = f"{before.document.file}:{before.document.line()}"
                faults.append(source.fault(f"it is in {where} as well: keep one of them", ("name",)))
    if not faults:
        told = {source.path for source in found.values()}
        empty = [place for place, files in held.items() if told.isdisjoint(files)]
        faults = [Fault(file=name_of(place), message=_nothing_in(place)) for place in empty]
    if faults:
        raise Faulty(faults)
    return list(found.values())


def _nothing_in(place: Path) -> str:
    if place.is_dir():
        return "it holds no manifest: write some as *.yaml, *.yml or *.toml (hidden files are left out)"
    return "it holds no manifest: it is empty, or has nothing but comments"


def _files(place: Path) -> list[Path]:
    if place == STDIN:
        return [place]
    try:
        if not place.exists():
            raise Faulty([Fault(message=f"there is no file or folder {str(place)[:200]}")])
        return [place] if not place.is_dir() else sorted(_files_in(place))
    except OSError as error:
        raise Faulty([Fault(message=f"{str(place)[:200]} cannot be read: {error.strerror}")]) from None


def _files_in(folder: Path) -> Iterator[Path]:
    """Each file once, even if it has several names."""
    seen: set[str] = set()

    def unread(error: OSError) -> None:
        raise error

    number = 0
    for at, folders, files in os.walk(folder, followlinks=True, onerror=unread):
        # Kubernetes mounts a ConfigMap as links to files in a hidden folder.
        folders[:] = sorted(one for one in folders if not one.startswith(".") and _is_new(Path(at, one), seen))
        called_files = [one for one in folders if Path(one).suffix.lower() in SUFFIXES]
        for name in sorted([*files, *called_files]):
            path = Path(at, name)
            if (
                name.startswith(".")
                or path.suffix.lower() not in SUFFIXES
                or not (path.is_dir() or _is_new(path, seen))
            ):
                continue
            number += 1
            if number > _MOST_FILES:
                raise Faulty([Fault(file=str(folder), message=f"it holds more than {_MOST_FILES} files: name fewer")])
            yield path


def _is_new(path: Path, seen: set[str]) -> bool:
    real = os.path.realpath(path)
    return real not in seen and not seen.add(real)  # type: ignore[func-returns-value]


def _manifest(path: Path, document: Document) -> tuple[Any, list[Fault]]:
    if why := no_manifest(document.value):
        return None, [document.fault(why, ("kind",))]
    if wrong := with_descriptors(path, document):
        return None, wrong
    return converted(document, Manifest)


def counted(sources: Sequence[Source], catalogue: Catalogue) -> list[Source]:
    """The same manifests, guidance with its virtual tokens as far as they are known, as `resolved` has it."""

    def counted_one(source: Source) -> Source:
        guidance, tokens = source.manifest, None
        if not isinstance(guidance, Guidance) or guidance.form not in ("soft_prompt", "prefix"):
            return source
        if guidance.artefact.startswith("sha256:"):
            tokens = known_artefacts(guidance, catalogue).get(guidance.artefact)
        else:
            with contextlib.suppress(Refusal):
                files = read_folder(source.path.parent / guidance.artefact, PEFT_FILES)
                tokens = virtual_tokens_in(files, guidance.form)
        return replace(source, manifest=msgspec.structs.replace(guidance, virtual_tokens=tokens))

    return [*map(counted_one, sources)]


def resolved(
    path: Path,
    manifest: Manifest,
    keep: Callable[[Contents], str],
    known: Mapping[str, int | None] = MappingProxyType({}),
) -> Manifest:
    """The manifest as the catalogue keeps it, with the artefact's digest in place of its folder, with its virtual
    tokens and with its texts.

    keep: stores the files of the checked folder and returns their digest. known: digests of versions of this guidance,
    which the manifest may name → virtual tokens, as far as known. Raises Refusal(invalid_manifest | guidance_damaged),
    and what `keep` raises.
    """
    manifest = with_texts(path, manifest)
    if not isinstance(manifest, Guidance) or manifest.form == "text_prompt":
        return manifest
    if manifest.artefact in known:
        return _with_tokens(manifest, known[manifest.artefact])
    if manifest.artefact.startswith("sha256:"):
        # With the digest alone anybody could use an artefact that its owner does not share.
        raise Refusal(
            FailureCode.INVALID_MANIFEST,
            "artefact: name the artefact's folder, not a digest (but one that a version of this guidance has)",
        )
    files = read_folder(path.parent / manifest.artefact, PEFT_FILES)
    check_folder(files, manifest.form)
    manifest = _with_tokens(manifest, virtual_tokens_in(files, manifest.form))
    return msgspec.structs.replace(manifest, artefact=keep(files))


def _with_tokens(guidance: Guidance, tokens: int | None) -> Guidance:
    if guidance.virtual_tokens not in (None, tokens):
        raise Refusal(
            FailureCode.INVALID_MANIFEST,
            f"virtual_tokens is {guidance.virtual_tokens}, and its artefact is "
            f"{f'known to have {tokens}' if tokens else 'not known to have so many'}: leave it out",
        )
    has_some = guidance.form in ("soft_prompt", "prefix")
    return msgspec.structs.replace(guidance, virtual_tokens=tokens if has_some else None)


def upload(path: Path, manifest: Manifest, store: ArtefactStore) -> Manifest:
    """As `resolved`, with the artefact in the store. Raises also Refusal(invalid_setting) if that cannot be written."""
    try:
        return resolved(path, manifest, store.of(manifest.namespace).put)
    except Refusal as refusal:
        raise Refusal(refusal.code, f"{path}: {manifest.name}: {refusal.message}") from None
