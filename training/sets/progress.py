"""Vectors of an unfinished set, kept on disk, so that an interruption costs one batch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from guideway.training.runs import folder
from guideway.workers.retrieval.embedder import Vectors


class Unfinished:
    """Text → vector, kept in files `*.safetensors`: `keys` [texts, 32] are hashes of texts, `vectors` [texts, d]."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Read the vectors in `folder` that the embedding model with this fingerprint made."""
        self._folder = folder / fingerprint.removeprefix("sha256:")[:16]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._vectors: dict[bytes, Vectors] = {}
        for file in sorted(self._folder.glob("*.safetensors")):
            try:
                kept = load_file(file)
                pairs = zip(kept["keys"], kept["vectors"], strict=True)
                self._vectors.update({key.tobytes(): vector for key, vector in pairs})
            except (SafetensorError, KeyError, ValueError, OSError):
                # Half a file, or another program's: its texts are embedded again.
                file.unlink(missing_ok=True)

    def __contains__(self, text: str) -> bool:
        return _key(text) in self._vectors

    def __getitem__(self, text: str) -> Vectors:
        return self._vectors[_key(text)]

    def keep(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Write the vectors [texts, d] of these texts to disk."""
        keys = [_key(text) for text in texts]
        hashes = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 32)
        fresh = self._folder / f".{os.getpid()}"
        save_file({"keys": hashes.copy(), "vectors": vectors}, fresh)
        fresh.rename(self._folder / f"{hashlib.sha256(keys[0]).hexdigest()[:16]}-{len(keys)}.safetensors")
        self._vectors.update(zip(keys, vectors, strict=True))


@contextlib.contextmanager
def locked(work: Path) -> Iterator[None]:
    """A lock on making a set in this folder. Raises Refusal(invalid_setting) if another process holds it."""
    # Beside the folder, which is deleted when the set is published.
    lock = work.with_name(f"{work.name}.lock")
    with folder.locked(lock, f"another process makes the retrieval set {work.parent.name}/{work.name}"):
        yield


def discard(work: Path) -> None:
    """Delete the folder, when the set is published."""
    shutil.rmtree(work, ignore_errors=True)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
