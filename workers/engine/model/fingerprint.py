"""The identity of a model: a hash of everything that decides the function that it computes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.model.former_fingerprint import former_fingerprint
from guideway.workers.engine.model.model_settings import essential_settings
from guideway.workers.engine.model.tokenizer_files import tokenizer_identity

_CHUNK_BYTES: Final = 1 << 20
_OUTPUT_HEADS: Final = frozenset({"lm_head.weight", "embed_out.weight"})

_SCHEME: Final = "guideway fingerprint 2"
"""Raise the number to change all fingerprints. All existing guidance is then refused."""

_INT8_SCHEME: Final = "guideway int8 1"
"""The same for models in int8. Raise it where their weights are rounded in another way."""


class Identity(NamedTuple):
    """The identity of the model in a folder."""

    fingerprint: str
    former: str
    """As it was computed before decision 15."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would load from `folder`; empty if there are none."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        return []
    return [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]


def fingerprint(folder: Path, *, dtype: str = "bfloat16") -> str:
    """The fingerprint of the model in `folder` as it is served in `dtype`; see `identify`. Raises as that does."""
    return in_dtype(identify(folder).fingerprint, dtype)


def in_dtype(fingerprint: str, dtype: str) -> str:
    """The fingerprint of a model as it is served in a manifest's `dtype`.

    In `int8` the weights are rounded to other numbers: it is another model. All other types are roundings of its
    arithmetic, and have one fingerprint.
    """
    if dtype != "int8":
        return fingerprint
    digest = hashlib.sha256(f"{_INT8_SCHEME} {fingerprint}".encode()).hexdigest()
    return f"sha256:{digest}"


def identify(folder: Path) -> Identity:
    """Hash what decides the function that the model of `folder` computes, from text to text.

    Covered: every tensor's name, stored dtype, shape and bytes, in the order of names, whatever the files they are
    spread over; all settings but harmless ones (`model_settings.py`); tokenizer and chat template
    (`tokenizer_files.py`). An output head that is stored as a copy of the embedding counts as absent. Not covered: how
    it was saved, by which version, and generation defaults.

    Raises: Refusal `unknown_model_size` if a file is missing or is not safetensors, or transformers knows no such
    model.
    """
    try:
        tensors = dict(sorted(_tensor_digests(folder)))
        config = json.loads((folder / "config.json").read_text("utf-8"))
        heads = {name: digest for name, digest in tensors.items() if name in _OUTPUT_HEADS}
        for name, digest in heads.items():
            if digest in [other for key, other in tensors.items() if key not in heads]:
                del tensors[name]
        text = {**config, **(config.get("text_config") or {})}
        tied = bool(text.get("tie_word_embeddings")) or not any(name in tensors for name in heads)
        parts = [_SCHEME, list(tensors.items()), essential_settings(config), tied, tokenizer_identity(folder)]
    except Exception as error:
        # transformers may raise any exception where it cannot read a configuration.
        raise Refusal(
            FailureCode.UNKNOWN_MODEL_SIZE,
            f"model folder {folder} cannot be read ({type(error).__name__}: {error}): remove it and prepare the model "
            "again",
        ) from error
    whole = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(whole.encode()).hexdigest()
    return Identity(f"sha256:{digest}", former_fingerprint(tensors, config, tied=tied))


def _tensor_digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of every tensor, read in blocks, so that a large model needs little memory.

    Raises: OSError or ValueError if a file cannot be read or is not whole.
    """
    files = weight_files(folder)
    if not files:
        raise ValueError("no model.safetensors")
    for file in files:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > os.path.getsize(file):
                raise ValueError(f"{file.name} is not a safetensors file")
            header = json.loads(stream.read(size))
            header.pop("__metadata__", None)
            for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                begin, end = tensor["data_offsets"]
                digest = hashlib.sha256(f"{tensor['dtype']}{tensor['shape']}".encode())
                stream.seek(8 + size + begin)
                for at in range(begin, end, _CHUNK_BYTES):
                    block = stream.read(min(_CHUNK_BYTES, end - at))
                    if not block:
                        raise ValueError(f"{file.name} is cut short")
                    digest.update(block)
                yield name, digest.hexdigest()
