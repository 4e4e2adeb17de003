"""A request's trained guidance, by name and version → artefacts on this machine's disk, checked in every respect."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from guideway.catalogue.artefacts import ArtefactStore
from guideway.catalogue.topic import CatalogueReader
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Guidance
from guideway.schemas.request import GuidanceRef
from guideway.workers.messages import Artefact


class GuidanceFetch:
    """Rights are checked here again: the worker trusts no sender. Each artefact is fetched once, however many ask."""

    def __init__(self, reader: CatalogueReader, store: ArtefactStore, cache: Path, fingerprint: str) -> None:
        self._reader = reader
        self._store = store
        self._cache = cache
        self._fingerprint = fingerprint
        self._fetching: dict[str, asyncio.Task[Path]] = {}

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
        if guidance.model_fingerprint != self._fingerprint:
            raise Refusal(
                FailureCode.GUIDANCE_WRONG_MODEL,
                f"guidance {ref} was trained on base model {_short(guidance.model_fingerprint)}, this size runs "
                f"{_short(self._fingerprint)}: train it on this model, or use the size that has its model",
            )
        digest = guidance.artefact
        task = self._fetching.get(digest)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._store.fetch, digest, self._cache))
            self._fetching[digest] = task
            task.add_done_callback(lambda _: self._fetching.pop(digest, None))
        try:
            # Shielded: one waiting request that is cancelled must not end the fetch for the others.
            return await asyncio.shield(task)
        except Refusal as refusal:
            raise Refusal(refusal.code, f"guidance {ref}: {refusal.message}") from None
        except OSError as error:
            raise Refusal(
                FailureCode.GUIDANCE_MISSING,
                f"guidance {ref}: the artefact store {self._store.address} cannot be read ({type(error).__name__})",
            ) from None


def _short(fingerprint: str | None) -> str:
    return (fingerprint or "none")[:19] + "…"
