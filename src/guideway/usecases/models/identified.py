"""Models before they are applied: with the fingerprint and the shape that they really have."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

import guideway.catalogue
from guideway.catalogue.documents.document import parse_documents
from guideway.catalogue.documents.faults import Fault, Faulty
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import Refusal
from guideway.schemas.kinds.model_shape import ModelShape
from guideway.schemas.manifests import Manifest, Model
from guideway.settings import Settings
from guideway.usecases.extras import importing

SHAPES: Final = Path(guideway.catalogue.__file__).parent / "packaged" / "shapes.yaml"
"""Fingerprint → shape of the model that comes with guideway's packages, whoever writes its manifest."""

Told = Callable[[str], None]
_BELIEVED: Final = "the model cannot be read on this machine, and `apply` refuses guidance by what stands there"


def is_read(manifest: Manifest, catalogue: Catalogue) -> bool:
    """Whether it is a model that is read before it is applied, if it is on this machine: for its fingerprint or its
    shape, or because somebody has written a shape that is new."""
    if not isinstance(manifest, Model):
        return False
    return manifest.fingerprint is None or manifest.shape is None or not _is_known(manifest, catalogue)


def _is_known(model: Model, catalogue: Catalogue) -> bool:
    """Whether it has the shape that was applied for its fingerprint before, or that the packages carry."""
    there = [one for _, one in catalogue if isinstance(one, Model) and one.fingerprint == model.fingerprint]
    return model.shape in [_packaged().get(model.fingerprint or ""), *(one.shape for one in there)]


def wrong_shapes(sources: Sequence[Source]) -> Iterator[Fault]:
    """Faults of models with the fingerprint of the packaged one, and with another shape."""
    for source in sources:
        model = source.manifest
        if isinstance(model, Model) and model.shape and (real := _packaged().get(model.fingerprint or "")):
            yield from _wrong_shape(source, model.shape, real)


def _wrong_shape(source: Source, written: ModelShape, real: ModelShape) -> Iterator[Fault]:
    """The fault of a written shape that is not the `real` one. What that does not say, nobody can tell."""
    for name in written.__struct_fields__:
        have, want = getattr(written, name), getattr(real, name)
        if have != want and not (name == "kept" and not want):
            unlike = "not what the model has" if isinstance(want, list) else f"{have!r}, and the model has {want!r}"
            why = f"shape.{name} is {unlike}: leave `shape` out, and `apply` finds it out"
            yield source.fault(why, ("shape",))
            return


def with_shapes(sources: Sequence[Source], catalogue: Catalogue) -> list[Source]:
    """The same manifests; a model without a shape has what is known of its fingerprint already.

    So a manifest that names the fingerprint alone makes no new version of its model.
    """
    models = [manifest for _, manifest in catalogue if isinstance(manifest, Model)]
    known = {one.fingerprint: one.shape for one in models if one.fingerprint and one.shape} | _packaged()
    return [
        _changed(source, shape=known.get(source.manifest.fingerprint or ""))
        if isinstance(source.manifest, Model) and source.manifest.shape is None
        else source
        for source in sources
    ]


@functools.cache
def _packaged() -> dict[str, ModelShape]:
    [document], _ = parse_documents(SHAPES)
    return msgspec.convert(document.value, dict[str, ModelShape])


def identified(
    settings: Settings, sources: Sequence[Source], told: Told, catalogue: Catalogue | None = None
) -> list[Source]:
    """The same manifests; a model without a fingerprint has that of its source, which is read on this machine.

    A hub name is fetched for it. It takes as long as to read the weights. A model with a fingerprint and no shape has
    that of its source, if this is on this machine. A shape that somebody has written is compared with it, and believed
    where the model is not there. told: gets a sentence before each long step. catalogue: as it is.
    Raises Faulty for a model without a fingerprint whose source cannot be read here, and for one with a wrong shape.
    """

    def whole(source: Source) -> Source:
        model = source.manifest
        if not isinstance(model, Model) or not is_read(model, catalogue or Catalogue()):
            return source
        if model.fingerprint is None:
            return _identified(settings, source, model, told)
        real = _shape_at_hand(settings, model, told)
        if model.shape is None:
            return _changed(source, shape=real)
        if real is None:
            told(f"model size {model.name}: its `shape` is believed as it is written: {_BELIEVED}")
        elif found := [*_wrong_shape(source, model.shape, real)]:
            raise Faulty(found)
        return source

    return [whole(source) for source in sources]


def _changed(source: Source, **fields: object) -> Source:
    return replace(source, manifest=msgspec.structs.replace(source.manifest, **fields))


def _identified(settings: Settings, source: Source, model: Model, told: Told) -> Source:
    try:
        with importing("worker"):
            from guideway.workers.engine.guidance.model_shape import shape_in
            from guideway.workers.engine.model.base_model import fingerprint, prepare
            from guideway.workers.engine.model.model_kind import check_source

            folder = prepare(model.source, settings.model_cache, told)
            check_source(str(folder), model.dtype)
            told(f"computing the fingerprint of model size {model.name}: all of its weights are read")
            found = fingerprint(folder, dtype=model.dtype)
            shape = shape_in(folder) or model.shape
    except Refusal as refusal:
        why = (
            "a model needs the fingerprint of its weights, and it cannot be computed on this machine "
            f"({refusal.message}): write `fingerprint: sha256:…`; `guideway apply` prints it where the model is"
        )
        raise Faulty([source.fault(why, ("fingerprint",), refusal.code)]) from None
    if model.shape and shape and (wrong := [*_wrong_shape(source, model.shape, shape)]):
        raise Faulty(wrong)
    if shape is None:
        told(_unknown(model, "its configuration alone does not show what guidance has to fit"))
    told(f"fingerprint: {found}  # write it into the manifest of model size {model.name}")
    return _changed(source, fingerprint=found, shape=shape)


def _shape_at_hand(settings: Settings, model: Model, told: Told) -> ModelShape | None:
    """The shape of a model whose fingerprint is declared; None where the model is not on this machine as declared."""
    try:
        with importing("worker"):
            from guideway.workers.engine.model.base_model import at_hand, fingerprint

            folder = at_hand(model.source, settings.model_cache)
            if folder is None:
                return None
            from guideway.workers.engine.guidance.model_shape import shape_in

            shape = shape_in(folder)
            if shape is None or shape == model.shape:
                return shape
            told(f"reading the weights of model size {model.name} once, to find out what guidance has to fit")
            found = fingerprint(folder, dtype=model.dtype)
    except Refusal:
        return None
    if found != model.fingerprint:
        why = f"{model.source!r} on this machine has fingerprint {found}, and another one is declared"
        told(_unknown(model, why) if model.shape is None else f"model size {model.name}: {why}")
        return None
    return shape


def _unknown(model: Model, why: str) -> str:
    return f"model size {model.name}: {why}: whether guidance fits it is said by its workers, and not by `apply`"
