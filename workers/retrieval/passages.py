"""A request's retrieval sets, by name and version → the request with passages, and their citations."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from guideway.catalogue.topic import CatalogueFollower
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.router import Router
from guideway.schemas.manifests import Endpoint, Manifest
from guideway.schemas.request import Part, Request
from guideway.schemas.retrieval import Citation, Retrieval, SetRef
from guideway.workers.guidance.artefact_fetch import ArtefactFetch
from guideway.workers.messages.from_retrieval import FoundPassage
from guideway.workers.messages.to_retrieval import SetArtefact
from guideway.workers.retrieval.retrieval_client import RetrievalClient

NOTHING_FOUND = "Nothing was found on this."
"""The text gets this instead of passages, if none was found and the endpoint's rule is `say_so`."""


class Passages:
    """Puts passages into requests. It checks rights again, because the worker trusts no sender."""

    def __init__(self, reader: CatalogueFollower, artefacts: ArtefactFetch, link: RetrievalClient) -> None:
        self._reader = reader
        self._artefacts = artefacts
        self._link = link

    async def put_in(self, request: Request) -> tuple[Request, list[Citation] | None]:
        """The request with its passages as `context` parts, and their citations; None if it asks for no set.

        Raises: Refusal `guidance_unknown`, `guidance_forbidden`, `guidance_missing`, `guidance_damaged`,
        `set_wrong_embedding`, `retrieval_failed` or `no_passage`.
        """
        wanted = request.retrieval
        if wanted is None:
            return request, None
        async with contextlib.AsyncExitStack() as held:
            artefacts = await asyncio.gather(*(self._artefact(ref, request.namespace, held) for ref in wanted.sets))
            found = await self._artefacts.with_good_copies(lambda: self._link.look_up(wanted, artefacts))
        told = msgspec.structs.replace(request, parts=with_context(request.parts, wanted, found), retrieval=None)
        return told, _citations(wanted.sets, found)

    async def _artefact(self, ref: SetRef, namespace: str, held: contextlib.AsyncExitStack) -> SetArtefact:
        _, manifest = await self._reader.eventually(
            lambda catalogue: catalogue.retrieval_set(str(ref), for_namespace=namespace)
        )
        folder = await held.enter_async_context(
            self._artefacts.held(ref.namespace, manifest.artefact, f"retrieval set {ref}")
        )
        return SetArtefact(
            name=str(ref),
            digest=manifest.artefact,
            folder=str(folder),
            by_content=True,
            passages=manifest.passages,
            fingerprint=manifest.embedding.fingerprint,
        )


def with_context(parts: Sequence[Part], wanted: Retrieval, found: Sequence[FoundPassage]) -> list[Part]:
    """A request's parts, with the passages before its input. Raises: Refusal `no_passage` if its rule is `refuse`."""
    context = [Part(kind="context", source=f"{wanted.sets[one.set]}#{one.id}", text=one.text) for one in found]
    own = [part for part in parts if part.kind != "input"]
    given = [part for part in parts if part.kind == "input"]
    return [*own, *(context or _instead(wanted)), *given]


def _instead(wanted: Retrieval) -> list[Part]:
    match wanted.if_none:
        case "answer_without":
            return []
        case "say_so":
            return [Part(kind="context", source="endpoint", text=NOTHING_FOUND)]
        case "refuse":
            raise Refusal(
                FailureCode.NO_PASSAGE,
                f"no passage of {', '.join(map(str, wanted.sets))} {_reason(wanted)}",
            )


def _reason(wanted: Retrieval) -> str:
    """Why no passage may have been taken, and what to change."""
    if not wanted.filter:
        return (
            "is to the point and fits: ask otherwise; the endpoint's owner may lower retrieval.min_score or raise "
            "retrieval.max_tokens"
        )
    names = ", ".join(f"metadata {one.key!r}" for one in wanted.filter)
    return (
        f"that passes the filter ({names}) is to the point and fits: give the filter's fields values that passages "
        "have, or leave them out; `guideway sets show` lists the set's metadata"
    )


def _citations(sets: Sequence[SetRef], found: Sequence[FoundPassage]) -> list[Citation]:
    return [
        Citation(
            id=one.id,
            set=f"{sets[one.set].namespace}/{sets[one.set].name}",
            version=sets[one.set].version,
            score=one.score,
        )
        for one in found
    ]


def needs_retrieval(manifest: Manifest, size: str) -> bool:
    """Whether a manifest of this model size needs the retrieval process: for retrieval sets, or a router's examples."""
    if isinstance(manifest, Router):
        return manifest.model_size == size and manifest.examples is not None
    return isinstance(manifest, Endpoint) and manifest.model_size == size and manifest.retrieval is not None
