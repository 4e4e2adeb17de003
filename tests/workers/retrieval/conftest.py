"""The real embedding model, and sets made with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guideway.schemas.kinds.retrieval_set import EmbeddingModel
from guideway.workers.messages.to_retrieval import SetArtefact
from guideway.workers.retrieval import set_folder
from guideway.workers.retrieval.embedder import Embedder
from guideway.workers.retrieval.set_folder import Passage, SetFolder, SetInfo
from guideway.workers.retrieval.settings import DEFAULT_EMBEDDING

MakeSet = Callable[[str, dict[str, str]], SetArtefact]


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return Embedder(DEFAULT_EMBEDDING, tmp_path_factory.mktemp("models"))


@pytest.fixture
def make_set(embedder: Embedder, tmp_path: Path) -> MakeSet:
    """A set of texts by id, as an artefact on disk; a passage's metadata `length` is that of its text."""

    def make(name: str, texts: dict[str, str]) -> SetArtefact:
        content = a_set(embedder, texts)
        set_folder.write(tmp_path / name, content.info, content.passages, content.vectors)
        return SetArtefact(
            name=f"team/{name}@1",
            digest=f"sha256:{name}",
            folder=str(tmp_path / name),
            passages=len(texts),
            fingerprint=embedder.fingerprint,
        )

    return make


def a_set(embedder: Embedder, texts: dict[str, str]) -> SetFolder:
    model = EmbeddingModel(source=embedder.source, fingerprint=embedder.fingerprint, dimension=embedder.dimension)
    return SetFolder(
        info=SetInfo(embedding=model, passages=len(texts), documents=len(texts), max_chars=800, overlap_chars=0),
        passages=[
            Passage(id=id_, document=id_, text=text, metadata={"length": len(text), "long": len(text) > 30})
            for id_, text in texts.items()
        ],
        vectors=embedder.embed(list(texts.values())),
    )
