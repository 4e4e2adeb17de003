"""Output rules for `generate`, written independently of the engine's grammars."""

from __future__ import annotations

import string
from collections.abc import Sequence

import regex  # type: ignore[import-untyped]
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase


class Labels(LogitsProcessor):  # type: ignore[misc]
    """Lets the next token of each label through that begins as the text does, in the tokenizer's own tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], skip: int) -> None:
        end = tokenizer.eos_token_id
        self._skip = skip
        self._labels = [[*tokenizer.encode(label, add_special_tokens=False), end] for label in labels]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written = input_ids[0, self._skip :].tolist()
        following = {label[len(written)] for label in self._labels if label[: len(written)] == written}
        forbidden = torch.full_like(scores, True, dtype=torch.bool)
        forbidden[:, sorted(following)] = False
        return scores.masked_fill(forbidden, -torch.inf)


class Form(LogitsProcessor):  # type: ignore[misc]
    """Lets a token through if the text with it can still become a match, and the end if it is one.

    Where only one text can follow, its usual tokens are taken, as llguidance does: `{"` and not `{` and `"`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pattern: str, skip: int) -> None:
        self._tokenizer = tokenizer
        self._pattern = regex.compile(pattern)
        self._skip = skip
        self._pieces = tokenizer.batch_decode([[id_] for id_ in range(len(tokenizer))])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        text = self._tokenizer.decode(input_ids[0, self._skip :])
        allowed = torch.tensor([bool(piece) and self._may_become(text + piece) for piece in self._pieces])
        forced = self._tokenizer.encode(self._forced(text))
        if len(forced) > 1:
            allowed &= torch.arange(len(allowed)) == forced[0]
        allowed[self._tokenizer.eos_token_id] = self._pattern.fullmatch(text) is not None
        return scores.masked_fill(~allowed, -torch.inf)

    def _may_become(self, text: str) -> bool:
        return self._pattern.fullmatch(text, partial=True) is not None

    def _forced(self, text: str) -> str:
        forced = ""
        while self._pattern.fullmatch(text + forced) is None:
            following = [char for char in string.printable if self._may_become(text + forced + char)]
            if len(following) != 1:
                break
            forced += following[0]
        return forced
