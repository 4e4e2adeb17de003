"""The open indexes: one that cannot be opened, one that is no use any more. On an opener that is told what to do."""

from __future__ import annotations

import queue
from collections.abc import Callable

import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.retrieval.indexes import Indexes
from guideway.workers.retrieval.messages import SetArtefact
from guideway.workers.retrieval.set_folder import SetFolder


class OneIndex:
    bytes = 10

    def close(self) -> None:
        pass


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
        return OneIndex()


def artefact(name: str, digest: str = "sha256:a") -> SetArtefact:
    return SetArtefact(name=f"team/{name}@1", digest=digest, folder="", passages=1, fingerprint="f")


@pytest.fixture
def opener() -> Opener:
    return Opener()


@pytest.fixture
def done() -> queue.SimpleQueue[str]:
    return queue.SimpleQueue()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def indexes(opener: Opener, done: queue.SimpleQueue[str], clock: Clock) -> Indexes:
    return Indexes(opener, 15, done.put, clock=clock)  # type: ignore[arg-type]


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
    done: queue.SimpleQueue[str],
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
