"""A request's trained guidance, by name and version → checked artefacts on this machine's disk."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from guideway.catalogue.artefacts.cache import bytes_of
from guideway.catalogue.artefacts.contents import MAX_ARTEFACT_BYTES
from guideway.catalogue.together import check_number, check_together
from guideway.catalogue.topic import CatalogueFollower
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Guidance
from guideway.schemas.request import GuidanceRef
from guideway.workers.guidance.artefact_fetch import ArtefactFetch
from guideway.workers.messages.to_engine import Artefact


class GuidanceFetch:
    """Finds, checks and fetches guidance. It checks rights again, because the worker trusts no sender."""

    def __init__(
        self, reader: CatalogueFollower, artefacts: ArtefactFetch, fingerprint: str, former_fingerprint: str = ""
    ) -> None:
        """fingerprint: of the loaded model. former_fingerprint: the same, as it was computed before decision 15."""
        self._reader = reader
        self._artefacts = artefacts
        self._fingerprint = fingerprint
        self._former_fingerprint = former_fingerprint

    @contextlib.asynccontextmanager
    async def fetched(self, refs: Sequence[GuidanceRef], namespace: str) -> AsyncIterator[list[Artefact]]:
        """A context with the artefacts of a request's guidance, which stay on the disk until the context ends.

        Raises: Refusal `guidance_unknown`, `guidance_forbidden`, `guidance_wrong_model`, `guidance_missing` or
        `guidance_damaged`; `undecodable_request` if one is a text prompt.
        """
        if not refs:
            yield []
            return
        check_number(len(refs))
        found = [(ref, await self._found(ref, namespace)) for ref in refs]
        check_together(found)
        async with contextlib.AsyncExitStack() as held:
            artefacts: list[Artefact] = []
            size = 0
            for ref, guidance in found:
                artefacts.append(await self._fetch(ref, guidance, held))
                size += bytes_of(Path(artefacts[-1].folder))
                if size > MAX_ARTEFACT_BYTES:
                    raise Refusal(
                        FailureCode.GUIDANCE_FORBIDDEN,
                        f"the guidance of this request has more than {MAX_ARTEFACT_BYTES} bytes: leave some out",
                    )
            yield artefacts

    async def _found(self, ref: GuidanceRef, namespace: str) -> Guidance:
        _, guidance = await self._reader.eventually(
            lambda catalogue: catalogue.guidance(str(ref), for_namespace=namespace)
        )
        return guidance

    async def _fetch(self, ref: GuidanceRef, guidance: Guidance, held: contextlib.AsyncExitStack) -> Artefact:
        if guidance.form == "text_prompt":
            raise Refusal(
                FailureCode.UNDECODABLE_REQUEST, f"guidance {ref} is a text prompt: it belongs in the request's parts"
            )
        self._check_model(ref, guidance)
        folder = await held.enter_async_context(
            self._artefacts.held(ref.namespace, guidance.artefact, f"guidance {ref}")
        )
        return Artefact(
            name=str(ref),
            form=guidance.form,
            digest=guidance.artefact,
            folder=str(folder),
            by_content=True,
            scale=ref.scale,
        )

    def _check_model(self, ref: GuidanceRef, guidance: Guidance) -> None:
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


def _short(fingerprint: str | None) -> str:
    return (fingerprint or "none")[:19] + "…"
