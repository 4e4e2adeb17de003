"""What a filter finds, in Qdrant's memory: one value has several spellings in files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from guideway.schemas.kinds.retrieval_set import EmbeddingModel
from guideway.schemas.retrieval import Condition, Metadata, Scalar
from guideway.workers.retrieval.index import Qdrant
from guideway.workers.retrieval.set_folder import Passage, SetFolder, SetInfo

DIGEST = "sha256:" + "0" * 64
VALUES: list[Any] = [
    2024,
    "2024",
    2024.0,
    "2024.0",
    2024.5,
    "02024",
    ["a", 2024],
    1,
    1.0,
    True,
    "true",
    "TRUE",
    "yes",
    1e300,
]
WRITTEN: list[Metadata] = [{"of": one} for one in VALUES]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (2024, [2024, "2024", 2024.0, "2024.0", ["a", 2024]]),
        ("2024", [2024, "2024", 2024.0, ["a", 2024]]),
        ("2024.0", ["2024.0"]),
        ("a", [["a", 2024]]),
        (1, [1, 1.0]),
        (True, [True, "true", "TRUE"]),
        ("yes", ["yes"]),
    ],
)
def test_a_filter_finds_a_value_however_its_file_wrote_it(value: Scalar, found: list[object]) -> None:
    passages = [Passage(id=str(i), document="d", text=f"t{i}", metadata=one) for i, one in enumerate(WRITTEN)]
    ends = EmbeddingModel(source="m", fingerprint=DIGEST, dimension=3)
    info = SetInfo(embedding=ends, passages=len(passages), documents=1, max_chars=800, overlap_chars=0)
    vectors = np.ones((len(passages), 3), np.float32)
    index = Qdrant().open(DIGEST, len(passages), lambda: SetFolder(info=info, passages=passages, vectors=vectors))
    [hits] = index.search([vectors[0]], [[Condition(key="of", value=value)]], [50])
    index.close()
    assert [WRITTEN[int(one.id)]["of"] for one in sorted(hits, key=lambda hit: int(hit.id))] == found
