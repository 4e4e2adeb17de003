"""A set is embedded once: resumed after an interruption, and with the vectors that its version before has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.runs.interruption import Interrupted
from guideway.training.sets import build as building
from guideway.training.sets.build import Splitting, build
from guideway.training.sets.progress import discard, locked
from guideway.training.sets.publish import publish_set
from guideway.workers.retrieval import set_folder
from guideway.workers.retrieval.embedder import Embedder, Vectors
from guideway.workers.retrieval.index import Qdrant
from guideway.workers.retrieval.set_folder import Passage


class CountingEmbedder:
    """Vectors that tell one text from another; no model."""

    source, dimension = "counting", 4

    def __init__(self, fingerprint: str = "sha256:" + "c" * 64) -> None:
        self.fingerprint = fingerprint
        self.embedded: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.embedded += texts
        made = np.array([[hash(text) % 97, len(text), 1, 2] for text in texts], np.float32)
        normal: Vectors = made / np.linalg.norm(made, axis=1, keepdims=True)
        return normal

    def batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """Two texts at a time, the last ones first."""
        for at in reversed(range(0, len(texts), 2)):
            places = [*range(at, min(at + 2, len(texts)))]
            yield places, self.embed([texts[place] for place in places])


def as_embedder(counting: CountingEmbedder) -> Embedder:
    return counting  # type: ignore[return-value]


PASSAGES = [Passage(id=f"p{n}", document=f"p{n}", text=f"Text of number {n}.") for n in range(10)]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_TEXTS_AT_ONCE", 4)


def interrupted_after(batches: int) -> Callable[[int, int], None]:
    calls = []

    def progress(done: int, of: int) -> None:
        calls.append(done)
        if len(calls) > batches:
            raise KeyboardInterrupt

    return progress


def test_what_was_embedded_before_an_interruption_is_not_embedded_again(tmp_path: Path) -> None:
    first, second = CountingEmbedder(), CountingEmbedder()
    with pytest.raises(KeyboardInterrupt):
        build(PASSAGES, as_embedder(first), Splitting(), tmp_path, progress=interrupted_after(2))
    assert not (tmp_path / "set").exists()
    # A file that was being written when the machine went down.
    (next((tmp_path / "vectors").iterdir()) / "half.safetensors").write_bytes(b"half")
    made = build(PASSAGES, as_embedder(second), Splitting(), tmp_path)
    assert (len(first.embedded), len(second.embedded)) == (8, 2)
    content = set_folder.read(made)
    assert content.passages == PASSAGES
    np.testing.assert_allclose(content.vectors, CountingEmbedder().embed([one.text for one in PASSAGES]), atol=1e-3)


@pytest.mark.parametrize("batches", [1, 2, 3, 4])
def test_whoever_asks_for_the_end_loses_nothing_that_is_embedded(tmp_path: Path, batches: int) -> None:
    first, second = CountingEmbedder(), CountingEmbedder()
    with pytest.raises(Interrupted):
        build(
            PASSAGES,
            as_embedder(first),
            Splitting(),
            tmp_path,
            should_end=lambda: len(first.embedded) >= 2 * batches,
        )
    made = build(PASSAGES, as_embedder(second), Splitting(), tmp_path)
    assert (len(first.embedded), len(second.embedded)) == (2 * batches, 10 - 2 * batches)
    found = set_folder.read(made).vectors
    np.testing.assert_allclose(found, CountingEmbedder().embed([one.text for one in PASSAGES]), atol=1e-3)


def test_vectors_of_another_model_are_not_taken(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(PASSAGES, as_embedder(CountingEmbedder()), Splitting(), tmp_path, progress=interrupted_after(1))
    other = CountingEmbedder("sha256:" + "d" * 64)
    build(PASSAGES, as_embedder(other), Splitting(), tmp_path)
    assert len(other.embedded) == 10


def test_the_version_before_gives_its_vectors(tmp_path: Path) -> None:
    known = set_folder.read(build(PASSAGES, as_embedder(CountingEmbedder()), Splitting(), tmp_path / "a"))
    more = [*PASSAGES[2:], Passage(id="new", document="new", text="Something new.")]
    counting, told = CountingEmbedder(), []
    made = build(
        more, as_embedder(counting), Splitting(), tmp_path / "b", known=known, progress=lambda *now: told.append(now)
    )
    assert counting.embedded == ["Something new."]
    assert told == [(8, 9), (9, 9)]
    assert set_folder.read(made).passages == more
    again = build(more, as_embedder(counting), Splitting(), tmp_path / "c", known=set_folder.read(made))
    assert (again / "vectors.safetensors").read_bytes() == (made / "vectors.safetensors").read_bytes()


def test_two_do_not_make_one_set_at_a_time(tmp_path: Path) -> None:
    work = tmp_path / "team" / "facts"
    with locked(work):
        with pytest.raises(Refusal, match="team/facts") as caught, locked(work):
            pass
        assert caught.value.code is FailureCode.INVALID_SETTING
        with locked(tmp_path / "team" / "other"):
            discard(work)
    with locked(work):
        pass


async def test_a_folder_that_is_not_whole_is_not_published(tmp_path: Path) -> None:
    folder = build(PASSAGES, as_embedder(CountingEmbedder()), Splitting(), tmp_path / "work")
    passages = folder / "passages.jsonl"
    passages.write_bytes(b"".join(passages.read_bytes().splitlines(keepends=True)[:5]))
    nowhere, store = Cluster("127.0.0.1:1"), ArtefactStore(str(tmp_path / "store"))
    with pytest.raises(Refusal) as caught:
        await publish_set(
            CatalogueFollower(nowhere),
            nowhere,
            store,
            Qdrant(),
            folder,
            namespace="team",
            name="facts",
            shared_with=[],
            stage=False,
        )
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED
    assert not (tmp_path / "store").exists()


def test_no_passage_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        build([], as_embedder(CountingEmbedder()), Splitting(), tmp_path)
    assert caught.value.code is FailureCode.DOCUMENT_EMPTY
