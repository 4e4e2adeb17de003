"""A version of a retrieval set on disk: three files, and none of them can contain code.

`set.json` describes the set. `passages.jsonl` has one passage a line. `vectors.safetensors` has their vectors in the
same order: tensor `vectors` [passages, dimension], float16, rows of length 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from guideway.catalogue.artefacts.contents import Contents
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.retrieval_set import EmbeddingModel
from guideway.schemas.retrieval import Metadata
from guideway.workers.retrieval.embedder import Vectors

_INFO: Final = "set.json"
_PASSAGES: Final = "passages.jsonl"
_VECTORS: Final = "vectors.safetensors"


class Passage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A piece of a document. It is found, and put into a text, as a whole."""

    id: str
    """Unique in its set: the id of the document, then `#2` and so on if the document has several passages."""
    document: str
    text: str
    metadata: Metadata = {}


class SetInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `set.json`."""

    embedding: EmbeddingModel
    passages: int
    documents: int
    max_chars: int
    """Largest number of characters of a passage when the documents were split."""
    overlap_chars: int


class SetFolder(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a set in memory."""

    info: SetInfo
    passages: list[Passage]
    vectors: Vectors
    """[passages, dimension], float32."""


def write(folder: Path, info: SetInfo, passages: Sequence[Passage], vectors: Vectors) -> None:
    """Write the three files. The same content gives the same bytes. vectors: [passages, dimension], float32."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [msgspec.json.encode(passage, order="deterministic") for passage in passages]
    (folder / _PASSAGES).write_bytes(b"".join(line + b"\n" for line in lines))
    save_file({"vectors": np.ascontiguousarray(vectors, np.float16)}, folder / _VECTORS)
    (folder / _INFO).write_bytes(msgspec.json.format(msgspec.json.encode(info), indent=1) + b"\n")


def read(folder: Path) -> SetFolder:
    """Read a folder of our own. Raises: Refusal `guidance_damaged` if a file is not as `write` writes it."""
    try:
        return parsed({name: bytearray((folder / name).read_bytes()) for name in (_INFO, _PASSAGES, _VECTORS)})
    except OSError as error:
        raise _damaged(type(error).__name__) from None


def parsed(files: Contents) -> SetFolder:
    """Parse the bytes of the three files. Raises: Refusal `guidance_damaged` if a file is not as `write` writes it."""
    try:
        info = msgspec.json.decode(files[_INFO], type=SetInfo)
        passages = msgspec.json.Decoder(Passage).decode_lines(files[_PASSAGES])
        vectors = load(bytes(files[_VECTORS]))["vectors"]
    except (KeyError, ValueError, RecursionError, SafetensorError) as error:
        raise _damaged(type(error).__name__) from None
    if vectors.shape != (len(passages), info.embedding.dimension) or len(passages) != info.passages:
        raise _damaged("passages and vectors do not agree")
    vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise _damaged("its vectors are not finite")
    return SetFolder(info=info, passages=passages, vectors=vectors)


def _damaged(why: str) -> Refusal:
    return Refusal(FailureCode.GUIDANCE_DAMAGED, f"the retrieval set is damaged ({why}): create it again")
