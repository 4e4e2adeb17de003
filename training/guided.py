"""A frozen model with guidance in place, for training: runs rows of different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guideway.schemas.request import Part
from guideway.workers.engine.prompt import PromptLayout


@dataclass(frozen=True)
class Guided:
    """One model; `soft` is put before the text, LoRAs are already inside the model."""

    model: Any
    """A transformers causal LM, its linears perhaps wrapped by PEFT."""
    soft: Tensor | None = None
    """[virtual tokens, hidden]"""

    def logits(self, rows: Sequence[Sequence[int]], last: int) -> Tensor:
        """[rows, last, vocabulary] in float32: what follows each of the last `last` tokens of every row.

        Rows are padded on the right, where causal attention hides the padding, so every row has the positions that it
        has alone.
        """
        embedded = self._embedded(rows)
        hidden = self.model.get_decoder()(inputs_embeds=embedded, use_cache=False).last_hidden_state
        virtual = embedded.shape[1] - max(map(len, rows))
        at = torch.tensor([[virtual + len(row) - last + i for i in range(last)] for row in rows])
        logits: Tensor = self.model.get_output_embeddings()(hidden[torch.arange(len(rows))[:, None], at]).float()
        return logits

    def _embedded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """[rows, virtual + longest, hidden]"""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        if self.soft is not None:
            embedded = torch.cat([self.soft.to(embedded.dtype).expand(len(rows), -1, -1), embedded], 1)
        return embedded


def prompt_ids(layout: PromptLayout, instruction: str, text: str) -> list[int]:
    """What serving builds for an endpoint with this instruction and an event with this text."""
    return layout.encode(
        [Part(kind="instruction", source="endpoint", text=instruction), Part(kind="input", source="caller", text=text)]
    ).token_ids
