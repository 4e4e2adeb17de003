"""A request's trained guidance, by name and version → artefacts on this machine's disk, checked in every respect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guideway.catalogue.topic import CatalogueReader
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Guidance
from guideway.schemas.request import GuidanceRef
from guideway.workers.artefact_fetch import ArtefactFetch
from guideway.workers.messages import Artefact


class GuidanceFetch:
    """Rights are checked here again: the worker trusts no sender."""

    def __init__(
        self, reader: CatalogueReader, artefacts: ArtefactFetch, fingerprint: str, former_fingerprint: str = ""
    ) -> None:
        """fingerprint: of the model that is loaded; former_fingerprint: as it was computed before decision 15."""
        self._reader = reader
        self._artefacts = artefacts
        self._fingerprint = fingerprint
        self._former_fingerprint = former_fingerprint

    async def fetch(self, refs: Sequence[GuidanceRef], namespace: str) -> list[Artefact]:
        """Raises Refusal(guidance_unknown | _forbidden | _wrong_model | _missing | _damaged)."""
        return [await self._fetch_one(ref, namespace) for ref in refs]

    async def _fetch_one(self, ref: GuidanceRef, namespace: str) -> Artefact:
        _, guidance = await self._reader.eventually(
            lambda catalogue: catalogue.guidance(str(ref), for_namespace=namespace)
        )
        if guidance.form == "text_prompt":
            raise Refusal(
                FailureCode.UNDECODABLE_REQUEST, f"guidance {ref} is a text prompt: it belongs in the request's parts"
            )
        return Artefact(
            name=str(ref),
            form=guidance.form,
            digest=guidance.artefact,
            folder=str(await self._folder(ref, guidance)),
            scale=ref.scale,
        )

    async def _folder(self, ref: GuidanceRef, guidance: Guidance) -> Path:
        if guidance.model_fingerprint == self._former_fingerprint:
            raise Refusal(
                FailureCode.GUIDANCE_WRONG_MODEL,
                f"guidance {ref} names its base model by the former way of computing fingerprints, which did not see "
                f"all that makes a model: if it was trained on the model that this size runs, apply it again with "
                f"model_fingerprint {self._fingerprint}",
            )
        if guidance.model_fingerprint != self._fingerprint:
            raise Refusal(
                FailureCode.GUIDANCE_WRONG_MODEL,
                f"guidance {ref} was trained on base model {_short(guidance.model_fingerprint)}, this size runs "
                f"{_short(self._fingerprint)}: train it on this model, or use the size that has its model",
            )
        return await self._artefacts.folder(guidance.artefact, f"guidance {ref}")


def _short(fingerprint: str | None) -> str:
    return (fingerprint or "none")[:19] + "…"
