"""Texts → vectors, by a sentence-transformers model: transformer, pooling, length one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.model.base_model import prepare
from guideway.workers.engine.model.fingerprint import fingerprint

_BATCH_TOKENS: Final = 4096
"""Padded tokens in one pass: enough to keep a core busy, little enough to stay in its caches."""

_LOOK_CHARS: Final = 16
"""For each token that the model takes: more than two have in most texts."""

Vectors = npt.NDArray[np.float32]


class Embedder:
    """Gives what sentence-transformers' `encode(..., normalize_embeddings=True)` gives, without that package.

    Poolings: mean and first token, read from the folder's `1_Pooling/config.json`; mean where there is none.
    """

    def __init__(self, source: str, cache: Path, *, threads: int = 0) -> None:
        """`source` as a model's; `cache` for converted models; `threads` of torch, 0: torch's choice.

        Raises Refusal(set_wrong_embedding) if nothing loadable is there.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        if threads:
            torch.set_num_threads(threads)
        settings = _Settings.of(source, cache)
        folder = settings.folder
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model: Any = AutoModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
            self._max_tokens = min(settings.max_tokens, int(model.config.max_position_embeddings))
            self.dimension = int(model.config.hidden_size)
        except MemoryError:
            raise
        except Exception as error:
            # Whatever it is: started again, the process would end the same way, and again.
            raise _unusable(f"it does not load ({type(error).__name__})") from None
        self._model = model.eval().requires_grad_(False)
        self._first_token = settings.first_token
        self._lower = settings.lower
        self.source = source
        self.fingerprint = settings.fingerprint()
        """`sha256:` over weights, configuration, tokenizer and pooling: the same one gives the same vectors."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """[texts, dimension], float32, rows of length 1. A text is cut after the model's longest."""
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for places, some in self.batches(texts):
            vectors[places] = some
        return vectors

    def batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """The same bit by bit, each in a second or so: places of texts, and their vectors."""
        given = [self._beginning(text) for text in ([text.lower() for text in texts] if self._lower else texts)]
        ids: list[list[int]] = (
            self._tokenizer(given, truncation=True, max_length=self._max_tokens, padding=False)["input_ids"]
            if given
            else []
        )
        # Texts of about one length together: what is padded is computed for nothing.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for batch in _batches(order, [len(one) for one in ids]):
            yield batch, self._pooled([ids[i] for i in batch])

    def _beginning(self, text: str) -> str:
        """As much of a text as the model sees of it, for to look at all of a long one takes seconds.

        Where a text is cut, the tokens before the cut may be others than those of the whole: there are twice as many as
        are wanted.
        """
        look = _LOOK_CHARS * self._max_tokens
        while look < len(text):
            found = self._tokenizer(text[:look], truncation=True, max_length=2 * self._max_tokens)["input_ids"]
            if len(found) >= 2 * self._max_tokens:
                return text[:look]
            look *= 4
        return text

    def _pooled(self, ids: Sequence[Sequence[int]]) -> Vectors:
        import torch

        longest = max(len(one) for one in ids)
        tokens = torch.full((len(ids), longest), self._tokenizer.pad_token_id or 0)  # [texts, tokens]
        mask = torch.zeros((len(ids), longest), dtype=torch.long)
        for row, one in enumerate(ids):
            tokens[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        with torch.inference_mode():
            hidden = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state  # [texts, tokens, dimension]
            if self._first_token:
                pooled = hidden[:, 0]
            else:
                weights = mask.unsqueeze(-1).to(hidden.dtype)
                pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            found: Vectors = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        return found


def fingerprint_of(source: str, cache: Path) -> str:
    """The fingerprint that an Embedder of this source has, without loading it. Raises Refusal(set_wrong_embedding)."""
    return _Settings.of(source, cache).fingerprint()


class _Settings:
    """What sentence-transformers keeps beside a model."""

    def __init__(self, folder: Path) -> None:
        bert = _read(folder / "sentence_bert_config.json")
        pooling = _read(folder / "1_Pooling" / "config.json")
        self.folder = folder
        self.max_tokens = int(bert.get("max_seq_length") or 512)
        self.lower = bool(bert.get("do_lower_case"))
        self.first_token = bool(pooling.get("pooling_mode_cls_token"))
        wanted = {name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True}
        if not wanted <= {"pooling_mode_cls_token", "pooling_mode_mean_tokens"} or len(wanted) > 1:
            raise ValueError("it pools by something else than the mean or the first token: choose another model")

    @staticmethod
    def of(source: str, cache: Path) -> _Settings:
        try:
            folder = prepare(source, cache)
        except Refusal as refusal:
            raise _unusable(refusal.message) from None
        except (OSError, ValueError) as error:
            raise _unusable(f"it cannot be had ({type(error).__name__})") from None
        try:
            return _Settings(folder)
        except OSError as error:
            raise _unusable(f"its settings cannot be read ({type(error).__name__})") from None
        except ValueError as error:
            raise _unusable(str(error)) from None

    def fingerprint(self) -> str:
        own = f"{fingerprint(self.folder)} {self.max_tokens} {self.lower} {self.first_token}"
        return f"sha256:{hashlib.sha256(own.encode()).hexdigest()}"


def _unusable(why: str) -> Refusal:
    return Refusal(
        FailureCode.SET_WRONG_EMBEDDING, f"the embedding model cannot be used: {why}; set GUIDEWAY_EMBEDDING to another"
    )


def _read(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} is no object")
    return found


def _batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """`order`, cut so that each batch padded to its longest text has at most `_BATCH_TOKENS`."""
    batches: list[list[int]] = []
    for i in order:
        # The order is by length: the one that comes is the longest.
        if batches and lengths[i] * (len(batches[-1]) + 1) <= _BATCH_TOKENS:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
