"""How well a set's passages are found: recall@k and mean reciprocal rank on questions whose passage is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import RetrievalSet
from guideway.schemas.reply import Completed, Reply
from guideway.workers.retrieval import set_folder
from guideway.workers.retrieval.embedder import Embedder
from guideway.workers.retrieval.index import Hit, Index, Qdrant

_AT_ONCE = 256


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A question, and what answers it."""

    question: str
    id: str
    """Of a passage, or of a document: then any of its passages will do."""
    answer: str | None = None
    """Whole words that an endpoint's reply must hold to be right, whatever their case: `no` is not in `unknown`."""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """How well the passages of the questions were found."""

    questions: int
    k: int
    recall: float
    """Share of the questions whose passage is among the first k."""
    mean_reciprocal_rank: float
    """Mean of 1 / rank, 0 where it is not among the first k."""
    missed: list[str]
    """The questions whose passage is not among them."""


class AnswerScores(msgspec.Struct, frozen=True, kw_only=True):
    """How well an endpoint answered the questions that it answered from one set."""

    set: str
    """`NAMESPACE/NAME@VERSION` of the first passage that it cites; `nothing` where it cites none."""
    questions: int
    accuracy: float
    """Share of its replies that hold the pair's answer; one that failed holds none."""


class Searched(msgspec.Struct, frozen=True):
    """A set's version with its embedding model, ready to be asked."""

    embedder: Embedder
    index: Index

    @staticmethod
    def of(
        manifest: RetrievalSet,
        name: str,
        store: ArtefactStore,
        cache: ArtefactCache,
        embedder: Embedder,
        qdrant: Qdrant,
    ) -> Searched:
        """Raises Refusal(set_wrong_embedding | retrieval_failed | guidance_missing | guidance_damaged)."""
        if manifest.embedding.fingerprint != embedder.fingerprint:
            raise Refusal(
                FailureCode.SET_WRONG_EMBEDDING,
                f"retrieval set {name} was embedded with {manifest.embedding.source}, which is not what is used here "
                f"({embedder.source}): set GUIDEWAY_EMBEDDING, or create the set anew",
            )
        digest = manifest.artefact
        index = qdrant.open(digest, manifest.passages, lambda: set_folder.parsed(store.read(digest, cache)))
        return Searched(embedder, index)

    def search(self, queries: Sequence[str], limit: int, *, vectors: bool = False) -> list[list[Hit]]:
        """For each query its best passages, best first."""
        found: list[list[Hit]] = []
        for at in range(0, len(queries), _AT_ONCE):
            some = queries[at : at + _AT_ONCE]
            embedded = [*self.embedder.embed(some)]
            found += self.index.search(embedded, [[]] * len(some), [limit] * len(some), vectors=vectors)
        return found


def read_pairs(file: Path) -> list[Pair]:
    """Of a JSONL file; further fields are ignored. Raises Refusal(document_unreadable | document_empty)."""
    try:
        pairs = msgspec.json.Decoder(Pair).decode_lines(file.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise Refusal(
            FailureCode.DOCUMENT_UNREADABLE, f"{file}: write one object with `question` and `id` a line ({error})"
        ) from None
    if not pairs:
        raise Refusal(FailureCode.DOCUMENT_EMPTY, f"{file} holds no pair: write some")
    return pairs


def scores(searched: Searched, pairs: Sequence[Pair], k: int) -> Scores:
    """Exact matches by id."""
    found = searched.search([pair.question for pair in pairs], k)
    ranks = [
        next((rank for rank, hit in enumerate(hits, 1) if pair.id in {hit.id, hit.id.rpartition("#")[0]}), 0)
        for pair, hits in zip(pairs, found, strict=True)
    ]
    return Scores(
        questions=len(pairs),
        k=k,
        recall=sum(rank > 0 for rank in ranks) / len(ranks),
        mean_reciprocal_rank=sum(1 / rank for rank in ranks if rank) / len(ranks),
        missed=[pair.question for pair, rank in zip(pairs, ranks, strict=True) if not rank],
    )


def answer_scores(pairs: Sequence[Pair], replies: Sequence[Reply]) -> list[AnswerScores]:
    """By the set that was cited first, of the pairs that have an answer."""
    right: dict[str, list[bool]] = {}
    for pair, reply in zip(pairs, replies, strict=True):
        if pair.answer is not None:
            cited = (reply.citations or []) if isinstance(reply, Completed) else []
            name = f"{cited[0].set}@{cited[0].version}" if cited else "nothing"
            text = reply.samples[0].text if isinstance(reply, Completed) else ""
            right.setdefault(name, []).append(_holds(text, pair.answer))
    return [
        AnswerScores(set=name, questions=len(one), accuracy=sum(one) / len(one)) for name, one in sorted(right.items())
    ]


def _holds(text: str, words: str) -> bool:
    # Letters of other scripts are no part of a word: some of them are written without spaces.
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(words)}(?![A-Za-z0-9])", text, re.IGNORECASE) is not None
