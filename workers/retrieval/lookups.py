"""Waiting lookups → passages: what waits is embedded in one batch and searched in one batch for each set."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

import msgspec
import structlog
from cachetools import LRUCache

from guideway.catalogue.artefacts.contents import Altered
from guideway.schemas.failures import FailureCode, Refusal, our_fault
from guideway.schemas.retrieval import Condition
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_retrieval import Found, FoundPassage
from guideway.workers.messages.to_retrieval import Lookup
from guideway.workers.retrieval.embedder import Embedder, Vectors
from guideway.workers.retrieval.index import Hit, Index
from guideway.workers.retrieval.indexes import Indexes
from guideway.workers.retrieval.selection import CANDIDATES, choose, why_none

A = TypeVar("A")
B = TypeVar("B")
log = structlog.get_logger()

_OBJECTS_BYTES: Final = 250
"""Of Python objects around a hit, or around a search, about."""


class _Search(msgspec.Struct, frozen=True):
    """One query in one set's version: the key under which its result is kept."""

    digest: str
    query: str
    filter: bytes
    """In JSON, in which 1 is not true."""
    limit: int
    vectors: bool


class _Kept(NamedTuple):
    hits: list[Hit]
    bytes: int
    """Of memory, with the search that it is kept under."""


class Lookups:
    """Owns what waits and the results it keeps. `tokens_of` says what a passage takes of a budget."""

    def __init__(
        self, embedder: Embedder, indexes: Indexes, tokens_of: Callable[[str], int], *, kept_bytes: int
    ) -> None:
        self._embedder = embedder
        self._indexes = indexes
        self._tokens_of = tokens_of
        self._waiting: list[Lookup] = []
        self._kept: LRUCache[_Search, _Kept] = LRUCache(kept_bytes, getsizeof=lambda kept: kept.bytes)

    def add(self, lookup: Lookup) -> None:
        self._waiting.append(lookup)

    def answer(self) -> list[Found | Refused]:
        """Answers for all whose indexes are open; the others wait on. One lookup's failure is no other's."""
        answers: list[Found | Refused] = []
        ready: list[Lookup] = []
        indexes: dict[str, Index] = {}
        for lookup in self._waiting:
            with self._refusing(lookup.id, answers):
                self._check(lookup)
                opened = {artefact.digest: self._indexes.get(artefact) for artefact in lookup.artefacts}
                if None not in opened.values():
                    ready.append(lookup)
                    indexes |= {digest: index for digest, index in opened.items() if index is not None}
        done = {lookup.id for lookup in ready} | {one.id for one in answers}
        self._waiting = [lookup for lookup in self._waiting if lookup.id not in done]
        results = self._search(ready, indexes)
        for lookup in ready:
            with self._refusing(lookup.id, answers):
                answers.append(self._chosen(lookup, results))
        # One that is open for a lookup which waits for another stays: two over the budget would never be open together.
        waited_for = {artefact.digest for lookup in self._waiting for artefact in lookup.artefacts}
        self._indexes.trim(indexes.keys() | waited_for)
        return answers

    def _check(self, lookup: Lookup) -> None:
        for artefact in lookup.artefacts:
            if artefact.fingerprint != self._embedder.fingerprint:
                raise Refusal(
                    FailureCode.SET_WRONG_EMBEDDING,
                    f"retrieval set {artefact.name} was embedded with model {artefact.fingerprint[:19]}…, this worker "
                    f"uses {self._embedder.fingerprint[:19]}…: create the set with this one, or set GUIDEWAY_EMBEDDING",
                )

    def _search(self, ready: Sequence[Lookup], indexes: dict[str, Index]) -> dict[_Search, list[Hit] | Refusal]:
        """What each search of the lookups finds, or why its set cannot be searched."""
        filters = {search: lookup.wanted.filter for lookup in ready for search in _searches(lookup)}
        # Apart from what is kept: more may wait than is kept.
        results: dict[_Search, list[Hit] | Refusal] = {
            search: self._kept[search].hits for search in filters if search in self._kept
        }
        missing = [search for search in filters if search not in results]
        if not missing:
            return results
        queries = list(dict.fromkeys(search.query for search in missing))
        embedded = dict(zip(queries, _each(queries, self._embedder.embed), strict=True))
        vectors = {query: one for query, one in embedded.items() if not isinstance(one, Refusal)}
        results |= {search: why for search in missing if isinstance(why := embedded[search.query], Refusal)}
        for digest, with_vectors in {(search.digest, search.vectors) for search in missing}:
            searches = [
                one for one in missing if (one.digest, one.vectors) == (digest, with_vectors) and one not in results
            ]
            find = partial(_find, indexes[digest], vectors, filters)
            for search, found in zip(searches, _each(searches, find), strict=True):
                results[search] = found
                if not isinstance(found, Refusal):
                    self._keep(search, found)
                elif found.code is FailureCode.RETRIEVAL_FAILED:
                    # Perhaps the server lost it.
                    self._indexes.drop(digest)
        return results

    def _keep(self, search: _Search, hits: list[Hit]) -> None:
        kept = _Kept(hits, _bytes_of(search, hits))
        if kept.bytes <= self._kept.maxsize:
            self._kept[search] = kept

    def _chosen(self, lookup: Lookup, results: dict[_Search, list[Hit] | Refusal]) -> Found:
        found: list[list[Hit]] = []
        for search in _searches(lookup):
            result = results[search]
            if isinstance(result, Refusal):
                raise result
            found.append(result)
        chosen = choose(lookup.wanted, found, self._tokens_of)
        if not chosen and lookup.wanted.if_none == "refuse":
            sets = ", ".join(map(str, lookup.wanted.sets))
            raise Refusal(FailureCode.NO_PASSAGE, f"no passage of {sets} {why_none(lookup.wanted, found)}")
        return Found(
            id=lookup.id,
            passages=[
                FoundPassage(set=one.set, id=one.hit.id, text=one.hit.text, score=round(one.hit.score, 4))
                for one in chosen
            ],
        )

    @contextlib.contextmanager
    def _refusing(self, id_: str, answers: list[Found | Refused]) -> Iterator[None]:
        try:
            yield
        except Refusal as refusal:
            altered = refusal.digest if isinstance(refusal, Altered) else ""
            answers.append(Refused(id=id_, code=refusal.code, message=refusal.message, altered=altered))
        except Exception as error:
            unexpected = _unexpected(error)
            answers.append(Refused(id=id_, code=unexpected.code, message=unexpected.message))


def _searches(lookup: Lookup) -> list[_Search]:
    wanted = lookup.wanted
    filter_ = msgspec.json.encode(wanted.filter)
    return [
        _Search(artefact.digest, wanted.query, filter_, wanted.passages * CANDIDATES, wanted.diversity > 0)
        for artefact in lookup.artefacts
    ]


def _bytes_of(search: _Search, hits: Sequence[Hit]) -> int:
    vectors = sum(hit.vector.nbytes for hit in hits if hit.vector is not None)
    texts = [search.query, *(hit.text for hit in hits), *(hit.id for hit in hits)]
    return _OBJECTS_BYTES * (1 + len(hits)) + len(search.filter) + vectors + sum(sys.getsizeof(text) for text in texts)


def _find(
    index: Index,
    vectors: Mapping[str, Vectors],
    filters: Mapping[_Search, Sequence[Condition]],
    searches: Sequence[_Search],
) -> list[list[Hit]]:
    return index.search(
        [vectors[search.query] for search in searches],
        [filters[search] for search in searches],
        # Each its own: what it finds is kept, and must not depend on who happened to wait beside it.
        [search.limit for search in searches],
        vectors=searches[0].vectors,
    )


def _each(items: Sequence[A], do: Callable[[Sequence[A]], Iterable[B]]) -> list[B | Refusal]:
    """All in one batch. Where that fails unexpectedly, one by one, so that those alone are refused that it is due to.

    A Refusal is of the set or its server, and so of all.
    """
    if not items:
        return []
    try:
        return [*do(items)]
    except Refusal as refusal:
        return [refusal] * len(items)
    except Exception as error:
        unexpected = _unexpected(error)
    return [unexpected] if len(items) == 1 else [one for item in items for one in _each([item], do)]


def _unexpected(error: Exception) -> Refusal:
    # Where it happened, and not the message, which may quote the text.
    log.error("lookup failed", error=type(error).__name__, at=traceback.format_tb(error.__traceback__))
    return our_fault(error, "the retrieval process")
