"""Whether guidance fits its base model: guidance that is applied, and what is there already when a model is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from guideway.catalogue.adapters.adapter import parse_adapter
from guideway.catalogue.adapters.fitting import check_fits
from guideway.catalogue.adapters.forms import check_adapter
from guideway.catalogue.artefacts.contents import PEFT_FILES, Contents, read_folder
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.documents.faults import Fault
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.settings import Settings

_MOST_READ: Final = 1000
_MOST_BYTES: Final = 4 * 2**30
"""So many artefacts, or bytes of them, are read for one `apply`: what endpoints name first."""
_SHOWN: Final = 10


def is_by_digest(manifest: Manifest) -> bool:
    """Whether it is guidance that names an artefact of an earlier version of it, and no folder."""
    return isinstance(manifest, Guidance) and manifest.artefact.startswith("sha256:")


def misfits(sources: Sequence[Source], catalogue: Catalogue, settings: Settings | None = None) -> Iterator[Fault]:
    """Faults of guidance whose artefact does not fit its base model, as far as the model's shape is known.

    Folders are such as pass the checks that need no model. catalogue: as it is without these manifests. settings: where
    an artefact is that is named by its digest and comes to another model or form; None: these are not looked at.
    """
    here = {Identity.of(source.manifest) for source in sources}
    there = [manifest for _, manifest in catalogue if Identity.of(manifest) not in here]
    models = [one for one in (*(source.manifest for source in sources), *there) if isinstance(one, Model)]
    for source in sources:
        guidance = source.manifest
        if not isinstance(guidance, Guidance) or guidance.form == "text_prompt":
            continue
        known = (one for one in models if one.fingerprint == guidance.model_fingerprint and one.shape is not None)
        if (model := next(known, None)) is None or (files := _files(source, guidance, catalogue, settings)) is None:
            continue
        if (refusal := _misfit(files, guidance, model)) is not None:
            why = f"it does not fit the model of size {model.name}: {refusal.message}"
            yield source.fault(why, ("artefact",), refusal.code)


def misfits_there(sources: Sequence[Source], catalogue: Catalogue, settings: Settings) -> Iterator[str]:
    """Lines on guidance that was there before its base model, or before what is known of it, and does not fit.

    It is another team's, mostly, so it keeps nobody from applying the model. catalogue: as it is without these
    manifests, which have no faults beside it. What endpoints name is looked at, and the newest version of all others.
    """
    known = {(one.fingerprint, one.name): one.shape for _, one in catalogue if isinstance(one, Model)}
    models = {
        one.fingerprint: one
        for one in (source.manifest for source in sources)
        if isinstance(one, Model) and one.shape is not None and known.get((one.fingerprint, one.name)) != one.shape
    }
    if not models:
        return
    after = catalogue.after(catalogue_records(plan_changes(catalogue, [source.manifest for source in sources])))
    told, unread, read = list[str](), list[str](), 0
    for number, used in enumerate(_used(after, models)):
        model, guidance = models[used.guidance.model_fingerprint], used.guidance
        try:
            if number >= _MOST_READ or read >= _MOST_BYTES:
                raise OSError
            files = ArtefactStore(settings.store).of(guidance.namespace).contents(guidance.artefact)
            read += sum(map(len, files.values()))
        except (Refusal, OSError):
            unread.append(f"{used.name} (model size {model.name})")
            continue
        if (refusal := _misfit(files, guidance, model)) is not None:
            told.append(f"guidance {used.name} does not fit the model of size {model.name}{_by(used)}{refusal.message}")
    yield from told[:_SHOWN]
    if len(told) > _SHOWN:
        yield f"{len(told) - _SHOWN} more guidances do not fit these models"
    if unread:
        more = f" and {len(unread) - _SHOWN} more" if len(unread) > _SHOWN else ""
        yield (
            f"whether they fit their model is not looked at here, as their artefacts cannot be read or are too many: "
            f"guidance {', '.join(unread[:_SHOWN])}{more}; workers refuse what does not"
        )


class _Used(NamedTuple):
    name: str
    """NAMESPACE/NAME@VERSION"""
    guidance: Guidance
    by: list[str]
    """The addresses of the endpoints that name it, or let requests name it."""


def _by(used: _Used) -> str:
    if not used.by:
        return ": "
    more = f" and {len(used.by) - 1} more" if len(used.by) > 1 else ""
    return f", so that events of {used.by[0]}{more} that use it are refused: "


def _used(catalogue: Catalogue, models: dict[str | None, Model]) -> list[_Used]:
    """The guidance of these models that is stored already; what endpoints name comes first."""
    found: dict[str, _Used] = {}
    for _, endpoint in catalogue:
        if isinstance(endpoint, Endpoint):
            for name in [*endpoint.guidance, *endpoint.request_guidance]:
                # Of a namespace that is hidden here.
                with contextlib.suppress(Refusal):
                    ref, guidance = catalogue.guidance(name, for_namespace=endpoint.namespace)
                    one = f"{ref.namespace}/{ref.name}@{ref.version}"
                    found.setdefault(one, _Used(one, guidance, [])).by.append(endpoint.address)
    for version, manifest in catalogue:
        if isinstance(manifest, Guidance):
            one = f"{manifest.namespace}/{manifest.name}@{version}"
            found.setdefault(one, _Used(one, manifest, []))
    return [one for one in found.values() if is_by_digest(one.guidance) and one.guidance.model_fingerprint in models]


def _misfit(files: Contents, guidance: Guidance, model: Model) -> Refusal | None:
    assert guidance.form != "text_prompt"
    assert model.shape is not None
    try:
        adapter = parse_adapter(files)
        check_adapter(adapter, guidance.form)
        check_fits(adapter, guidance.form, model.shape)
    except Refusal as refusal:
        return refusal
    return None


def _files(source: Source, guidance: Guidance, catalogue: Catalogue, settings: Settings | None) -> Contents | None:
    """Those of its artefact; None where they need not be looked at, or cannot be."""
    if not is_by_digest(guidance):
        return read_folder(source.path.parent / guidance.artefact, PEFT_FILES)
    identity = Identity.of(guidance)
    versions = [catalogue.get(identity, version) for version in catalogue.versions(identity)]
    there = [(one.artefact, one.form, one.model_fingerprint) for one in versions if isinstance(one, Guidance)]
    is_new = (guidance.artefact, guidance.form, guidance.model_fingerprint) not in there
    if settings is None or not is_new or guidance.artefact not in {artefact for artefact, *_ in there}:
        return None
    with contextlib.suppress(Refusal):
        return ArtefactStore(settings.store).of(guidance.namespace).contents(guidance.artefact)
    return None
