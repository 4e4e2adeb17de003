"""Soft prompts: trained virtual tokens before the text.

Prompt tuning: https://arxiv.org/abs/2104.08691; P-tuning: https://arxiv.org/abs/2103.10385. Their encoders serve
in training only: PEFT saves the embeddings that they give in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from guideway.catalogue.adapters.fitting import check_soft_prompt
from guideway.workers.engine.guidance.model_shape import shape_of
from guideway.workers.engine.guidance.peft_folder import check_finite, read


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Virtual tokens of one artefact, in the model's dtype and on its device."""

    embeddings: Tensor
    """[virtual tokens, hidden]"""

    @classmethod
    def load(cls, folder: Path, model: PreTrainedModel, digest: str | None = None) -> SoftPrompt:
        """Read a folder that PEFT saved.

        Raises: Refusal `guidance_damaged` if it is no soft prompt or does not fit `model`.
        Altered if a `digest` is given and the folder's bytes are not what it says.
        """
        adapter, tensors = read(folder, "soft_prompt", digest)
        check_soft_prompt(adapter, shape_of(model))
        table = model.get_input_embeddings().weight
        embeddings = tensors["prompt_embeddings"].to(dtype=table.dtype, device=table.device)
        check_finite({"prompt_embeddings": embeddings})
        return cls(embeddings)

    @property
    def virtual_tokens(self) -> int:
        """How many positions it takes."""
        return len(self.embeddings)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.embeddings.nbytes


def embeddings_of(
    rows: Sequence[tuple[Sequence[Tensor], Sequence[int]]], embed: Callable[[Tensor], Tensor], device: torch.device
) -> list[Tensor]:
    """e[i] = [row i's virtual tokens; embed(row i's token ids)], each [some, hidden].

    rows: virtual tokens, each [some, hidden], and token ids of each row.
    """
    token_ids = [id_ for _, ids in rows for id_ in ids]
    embedded = embed(torch.tensor(token_ids, dtype=torch.long, device=device))
    texts = torch.split(embedded, [len(ids) for _, ids in rows])
    return [torch.cat([*virtual, text]) if virtual else text for (virtual, _), text in zip(rows, texts, strict=True)]


def virtual_between(prompts: Sequence[SoftPrompt], start: int, stop: int) -> list[Tensor]:
    """The virtual tokens `start` up to, not including, `stop` of `prompts` in their order; each [some, hidden]."""
    found = []
    for prompt in prompts:
        if start < prompt.virtual_tokens and stop > 0:
            found.append(prompt.embeddings[max(0, start) : stop])
        start, stop = start - prompt.virtual_tokens, stop - prompt.virtual_tokens
    return found
