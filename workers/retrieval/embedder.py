"""Texts → vectors of length 1, by a sentence-transformers model: a transformer, then pooling."""

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
"""Padded tokens in one pass: enough to keep a core busy, and few enough for its caches."""

_LOOK_CHARS: Final = 16
"""Characters to tokenize for each token that the model takes; in most texts they are more than two tokens."""

Vectors = npt.NDArray[np.float32]


class Embedder:
    """Returns the same as sentence-transformers' `encode(..., normalize_embeddings=True)`, without that package.

    Poolings: mean and first token. The folder's `1_Pooling/config.json` says which; without that file it is the mean.
    """

    def __init__(self, source: str, cache: Path, *, threads: int = 0) -> None:
        """source: as of a model. cache: folder for converted models. threads: of torch; 0: torch's choice.

        Raises: Refusal `set_wrong_embedding` if the model cannot be loaded.
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
            # Any error: if it ended the process, the next process would end in the same way.
            raise _unusable(f"it does not load ({type(error).__name__})") from None
        self._model = model.eval().requires_grad_(False)
        self._first_token = settings.first_token
        self._lower = settings.lower
        self.source = source
        self.fingerprint = settings.fingerprint()
        """`sha256:` over weights, configuration, tokenizer and pooling. The same fingerprint means the same vectors."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The vectors [texts, dimension], float32, rows of length 1. A text is cut at the model's largest length."""
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for places, some in self.batches(texts):
            vectors[places] = some
        return vectors

    def batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        """The same in batches of about a second: (indices of texts, their vectors [indices, dimension])."""
        given = [self._beginning(text) for text in ([text.lower() for text in texts] if self._lower else texts)]
        ids: list[list[int]] = (
            self._tokenizer(given, truncation=True, max_length=self._max_tokens, padding=False)["input_ids"]
            if given
            else []
        )
        # Texts of similar length go together, because computing padding is waste.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for batch in _batches(order, [len(one) for one in ids]):
            yield batch, self._pooled([ids[i] for i in batch])

    def _beginning(self, text: str) -> str:
        """The beginning of a text that the model can see, because tokenizing all of a long text takes seconds.

        A cut may change the tokens before it; so the beginning has twice as many tokens as the model takes.
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
    """The fingerprint of an Embedder of this source, without loading it. Raises: Refusal `set_wrong_embedding`."""
    return _Settings.of(source, cache).fingerprint()


class _Settings:
    """The settings that sentence-transformers keeps beside a model."""

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
    """`order` in batches. Each has at most `_BATCH_TOKENS` tokens when padded to its longest text, or is one text."""
    batches: list[list[int]] = []
    for i in order:
        # The order is by length, so this text is the longest of the batch.
        if batches and lengths[i] * (len(batches[-1]) + 1) <= _BATCH_TOKENS:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
