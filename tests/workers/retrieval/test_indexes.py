"""The open indexes: one that cannot be opened, one that is no use any more. On an opener that is told what to do."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.retrieval import Retrieval, SetRef
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_retrieval import Found
from guideway.workers.messages.to_retrieval import Lookup, SetArtefact
from guideway.workers.retrieval.embedder import Vectors
from guideway.workers.retrieval.index import Hit
from guideway.workers.retrieval.indexes import Indexes
from guideway.workers.retrieval.lookups import Lookups
from guideway.workers.retrieval.set_folder import SetFolder


class OneIndex:
    bytes = 10
    lost = False

    def close(self) -> None:
        pass

    def search(self, queries: list[Any], *_: Any, **__: Any) -> list[list[Hit]]:
        if self.lost:
            raise Refusal(FailureCode.RETRIEVAL_FAILED, "there is no such collection")
        return [[Hit("p", "A fact.", 0.9, None)] for _ in queries]


class OneVector:
    """In the place of the embedding model."""

    fingerprint = "f"

    def embed(self, texts: list[str]) -> Vectors:
        return np.ones((len(texts), 1), np.float32)


class Opener:
    """In the place of Qdrant: opens what `away` does not say."""

    url = None

    def __init__(self) -> None:
        self.away: Exception | None = None
        self.opened: list[str] = []

    def open(self, digest: str, passages: int, read: Callable[[], SetFolder]) -> OneIndex:
        self.opened.append(digest)
        if self.away is not None:
            raise self.away
        self.made = OneIndex()
        return self.made


def artefact(name: str, digest: str = "sha256:a") -> SetArtefact:
    return SetArtefact(name=f"team/{name}@1", digest=digest, folder="", passages=1, fingerprint="f")


@pytest.fixture
def opener() -> Opener:
    return Opener()


@pytest.fixture
def done() -> queue.SimpleQueue[None]:
    return queue.SimpleQueue()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def indexes(opener: Opener, done: queue.SimpleQueue[None], clock: Clock) -> Indexes:
    return Indexes(opener, 5, lambda: done.put(None), clock=clock)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("away", "code", "said"),
    [
        (Refusal(FailureCode.GUIDANCE_DAMAGED, "damaged"), FailureCode.GUIDANCE_DAMAGED, "damaged"),
        (OSError("disk"), FailureCode.RETRIEVAL_FAILED, "OSError"),
    ],
)
def test_all_who_wait_are_told_of_one_attempt(
    indexes: Indexes,
    opener: Opener,
    done: queue.SimpleQueue[None],
    away: Exception,
    code: FailureCode,
    said: str,
    clock: Clock,
) -> None:
    opener.away = away
    assert indexes.get(artefact("facts")) is None
    done.get(timeout=10)
    for name in ("facts", "facts", "same-content"):
        with pytest.raises(Refusal, match=f"team/{name}@1.*{said}") as caught:
            indexes.get(artefact(name))
        assert caught.value.code is code
    assert len(opener.opened) == 1

    opener.away = None
    clock.now = 6.0
    assert indexes.get(artefact("facts")) is None, "it is tried again"
    done.get(timeout=10)
    assert indexes.get(artefact("facts")) is not None


def test_two_sets_each_over_the_budget_are_open_together(indexes: Indexes, done: queue.SimpleQueue[None]) -> None:
    lookups = Lookups(OneVector(), indexes, len, kept_bytes=0)  # type: ignore[arg-type]
    both = [artefact("one", "sha256:1"), artefact("two", "sha256:2")]
    sets = [SetRef(namespace="team", name=name, version=1) for name in ("one", "two")]
    lookups.add(Lookup(id="0", wanted=Retrieval(sets=sets, query="?"), artefacts=both))
    answers = lookups.answer()
    for _ in range(2):
        done.get(timeout=10)
        answers += lookups.answer()
    assert [type(one) for one in answers] == [Found]
    lookups.answer()
    assert [indexes.get(one) for one in both] == [None, None], "nobody waits any more"


def test_an_index_that_its_server_lost_is_opened_again(
    indexes: Indexes, opener: Opener, done: queue.SimpleQueue[None]
) -> None:
    lookups = Lookups(OneVector(), indexes, len, kept_bytes=0)  # type: ignore[arg-type]

    def ask(query: str) -> Found | Refused:
        wanted = Retrieval(sets=[SetRef(namespace="team", name="facts", version=1)], query=query)
        lookups.add(Lookup(id=query, wanted=wanted, artefacts=[artefact("facts")]))
        while not (answers := lookups.answer()):
            done.get(timeout=10)
        return answers[0]

    assert isinstance(ask("a"), Found)
    opener.made.lost = True
    refused = ask("b")
    assert isinstance(refused, Refused)
    assert refused.code is FailureCode.RETRIEVAL_FAILED
    assert isinstance(ask("b"), Found)
    assert len(opener.opened) == 2
