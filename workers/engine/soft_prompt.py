"""Soft prompts: trained virtual tokens before the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from guideway.workers.engine.peft_folder import damaged, read

_PEFT_TYPES: Final = frozenset({"PROMPT_TUNING", "P_TUNING"})
"""P-tuning's encoder is for training only: PEFT saves the embeddings that it came to."""


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Virtual tokens of one artefact, in the model's dtype and on its device."""

    embeddings: Tensor
    """[virtual tokens, hidden]"""

    @classmethod
    def load(cls, folder: Path, model: PreTrainedModel) -> SoftPrompt:
        """From a folder that PEFT saved.

        Raises: Refusal `guidance_damaged` if it is no soft prompt or does not fit `model`.
        """
        config, tensors = read(folder)
        if config.get("peft_type") not in _PEFT_TYPES:
            raise damaged(f"its peft_type is {config.get('peft_type')!r}, and a soft prompt has {sorted(_PEFT_TYPES)}")
        embeddings = tensors.get("prompt_embeddings")
        if embeddings is None or len(tensors) != 1:
            raise damaged(f"it holds the tensors {sorted(tensors)}, and a soft prompt has `prompt_embeddings` alone")
        table = model.get_input_embeddings().weight
        if embeddings.ndim != 2 or len(embeddings) == 0 or embeddings.shape[1] != table.shape[1]:
            raise damaged(
                f"its embeddings are {list(embeddings.shape)}, and the model needs [virtual tokens, {table.shape[1]}]: "
                "train it for this model"
            )
        return cls(embeddings.to(dtype=table.dtype, device=table.device))

    @property
    def virtual_tokens(self) -> int:
        return len(self.embeddings)

    @property
    def nbytes(self) -> int:
        return self.embeddings.nbytes


def batched_embeddings(
    rows: Sequence[tuple[Sequence[SoftPrompt], Sequence[int]]], embed: Callable[[Tensor], Tensor], device: torch.device
) -> Tensor:
    """e[i] = [P of row i's soft prompts in their order; embed(row i's tokens); 0 …], all rows padded to the longest.

    rows: soft prompts and token ids of each row. Result [rows, longest, hidden].
    """
    token_ids = [id_ for _, ids in rows for id_ in ids]
    embedded = embed(torch.tensor(token_ids, dtype=torch.long, device=device))
    texts = torch.split(embedded, [len(ids) for _, ids in rows])
    whole = [
        torch.cat([*(prompt.embeddings for prompt in prompts), text])
        for (prompts, _), text in zip(rows, texts, strict=True)
    ]
    return pad_sequence(whole, batch_first=True)
