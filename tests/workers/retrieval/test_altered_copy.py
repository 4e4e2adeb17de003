"""A set's copy that changed on disk is told by its digest, never searched, and opened once it is whole."""

from __future__ import annotations

import queue
from pathlib import Path

import numpy as np
import pytest

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.contents import SET_FILES, Altered, read_folder
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.retrieval_set import EmbeddingModel
from guideway.schemas.retrieval import Retrieval, SetRef
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_retrieval import Found
from guideway.workers.messages.to_retrieval import Lookup, SetArtefact
from guideway.workers.retrieval import set_folder
from guideway.workers.retrieval.embedder import Vectors
from guideway.workers.retrieval.index import Qdrant
from guideway.workers.retrieval.indexes import Indexes
from guideway.workers.retrieval.lookups import Lookups
from guideway.workers.retrieval.set_folder import Passage, SetInfo

FINGERPRINT = "sha256:" + "1" * 64


class OneVector:
    fingerprint = FINGERPRINT

    def embed(self, texts: list[str]) -> Vectors:
        return np.ones((len(texts), 1), np.float32)


def written(folder: Path, vectors: Vectors) -> None:
    model = EmbeddingModel(source="s", fingerprint=FINGERPRINT, dimension=1)
    info = SetInfo(embedding=model, passages=1, documents=1, max_chars=800, overlap_chars=0)
    set_folder.write(folder, info, [Passage(id="a", document="a", text="The mayor is Kari.")], vectors)


def test_a_copy_that_changed_is_told_and_opened_once_it_is_whole(tmp_path: Path) -> None:
    written(tmp_path / "made", np.ones((1, 1), np.float32))
    store, cache = ArtefactStore(str(tmp_path / "store")), ArtefactCache(tmp_path / "cache")
    digest = store.put_folder(tmp_path / "made", SET_FILES)
    folder = store.fetch(digest, cache)
    opened: queue.SimpleQueue[None] = queue.SimpleQueue()
    indexes = Indexes(Qdrant(), 2**20, lambda: opened.put(None))
    lookups = Lookups(OneVector(), indexes, len, kept_bytes=0)  # type: ignore[arg-type]
    artefact = SetArtefact(
        name="t/s@1", digest=digest, folder=str(folder), by_content=True, passages=1, fingerprint=FINGERPRINT
    )

    def ask(id_: str) -> Found | Refused:
        sets = [SetRef(namespace="t", name="s", version=1)]
        lookups.add(Lookup(id=id_, wanted=Retrieval(sets=sets, query="mayor?"), artefacts=[artefact]))
        while not (answers := lookups.answer()):
            opened.get(timeout=10)
        return answers[0]

    passages = folder / "passages.jsonl"
    passages.write_bytes(passages.read_bytes().replace(b"Kari", b"Ola!"))
    for id_ in ("first", "second"):
        refused = ask(id_)
        assert isinstance(refused, Refused)
        assert (refused.altered, refused.code) == (digest, FailureCode.GUIDANCE_MISSING)
    store.renew(digest, cache)
    found = ask("third")
    assert isinstance(found, Found)
    assert found.passages[0].text == "The mayor is Kari."


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_damaged(tmp_path: Path, value: float) -> None:
    written(tmp_path, np.full((1, 1), value, np.float32))
    with pytest.raises(Refusal) as caught:
        set_folder.parsed(read_folder(tmp_path, SET_FILES))
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED


@pytest.mark.parametrize("name", ["set.json", "passages.jsonl", "vectors.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b"\xff" * 9, b'{"a":1}', (2**63).to_bytes(8, "little") + b"{}"]
)
def test_a_file_that_is_none_is_damaged(tmp_path: Path, name: str, content: bytes) -> None:
    written(tmp_path, np.ones((1, 1), np.float32))
    files = read_folder(tmp_path, SET_FILES)
    set_folder.parsed(files)
    files[name] = bytearray(content)
    with pytest.raises(Refusal) as caught:
        set_folder.parsed(files)
    assert not isinstance(caught.value, Altered)
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED
