"""Evaluates retrieval: recall@k and mean reciprocal rank on questions whose passage is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.retrieval_set import RetrievalSet
from guideway.schemas.reply import Completed, Reply
from guideway.workers.messages.to_retrieval import index_key
from guideway.workers.retrieval import set_folder
from guideway.workers.retrieval.embedder import Embedder
from guideway.workers.retrieval.index import Hit, Index, Qdrant

_AT_ONCE = 256


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A question and its passage."""

    question: str
    id: str
    """The id of a passage; or of a document, for any of its passages."""
    answer: str | None = None
    """Words that a right reply contains, in any case. Only whole words count: `no` is not in `unknown`."""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of retrieval on a list of questions."""

    questions: int
    k: int
    recall: float
    """The share of questions whose passage is among the first k."""
    mean_reciprocal_rank: float
    """The mean of 1 / rank; 0 for a passage that is not among the first k."""
    missed: list[str]
    """The questions whose passage is not among the first k."""


class AnswerScores(msgspec.Struct, frozen=True, kw_only=True):
    """The score of an endpoint on the questions that it answered from one set."""

    set: str
    """`NAMESPACE/NAME@VERSION` of the first passage that a reply cites; `nothing` without citations."""
    questions: int
    accuracy: float
    """The share of replies that contain the pair's answer; a failed reply does not."""


class Searched(msgspec.Struct, frozen=True):
    """A version of a set with its embedding model, ready for search."""

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
        """Open a set. Raises Refusal(set_wrong_embedding | retrieval_failed | guidance_missing | guidance_damaged)."""
        if manifest.embedding.fingerprint != embedder.fingerprint:
            raise Refusal(
                FailureCode.SET_WRONG_EMBEDDING,
                f"retrieval set {name} was embedded with {manifest.embedding.source}, and another model is used here "
                f"({embedder.source}): set GUIDEWAY_EMBEDDING, or create the set again",
            )
        digest = manifest.artefact
        owner = name.partition("/")[0]
        index = qdrant.open(
            index_key(owner, digest), manifest.passages, lambda: set_folder.parsed(store.of(owner).read(digest, cache))
        )
        return Searched(embedder, index)

    def search(self, queries: Sequence[str], limit: int, *, vectors: bool = False) -> list[list[Hit]]:
        """The best passages of each query, best first."""
        found: list[list[Hit]] = []
        for at in range(0, len(queries), _AT_ONCE):
            some = queries[at : at + _AT_ONCE]
            embedded = [*self.embedder.embed(some)]
            found += self.index.search(embedded, [[]] * len(some), [limit] * len(some), vectors=vectors)
        return found


def read_pairs(file: Path) -> list[Pair]:
    """The pairs of a JSONL file. Other fields are ignored. Raises Refusal(document_unreadable | document_empty)."""
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
    """The scores of a set on these pairs. A passage counts if its id is the pair's."""
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
    """The scores of replies to pairs with an answer, by the set that each reply cites first."""
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
    # Only Latin letters and digits continue a word: some other scripts are written without spaces.
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(words)}(?![A-Za-z0-9])", text, re.IGNORECASE) is not None
