"""A frozen model with guidance in place: runs rows of different lengths and picks labels the way serving does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guideway.schemas.request import Part
from guideway.workers.engine.base_model import BaseModel
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

        Rows are padded on the right, where causal attention hides the padding, so no mask is needed and every row has
        the positions that it has alone.
        """
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        embedded = self.model.get_input_embeddings()(ids)
        if self.soft is not None:
            embedded = torch.cat([self.soft.to(embedded.dtype).expand(len(rows), -1, -1), embedded], 1)
        hidden = self.model.get_decoder()(inputs_embeds=embedded, use_cache=False).last_hidden_state
        virtual = embedded.shape[1] - longest
        at = torch.tensor([[virtual + len(row) - last + i for i in range(last)] for row in rows])
        chosen = hidden[torch.arange(len(rows))[:, None], at]
        logits: Tensor = self.model.get_output_embeddings()(chosen).float()
        return logits


class LabelChoice:
    """Greedy decoding that can only spell one of the labels: at each step the tokens that continue one."""

    def __init__(self, base: BaseModel, labels: Sequence[str]) -> None:
        self._labels = labels
        tokenizer = base.tokenizer
        added = tokenizer.added_tokens_decoder
        texts = tokenizer.batch_decode([[id_] for id_ in range(len(tokenizer))])
        self._tokens = [
            (id_, text)
            for id_, text in enumerate(texts)
            if text and id_ not in added and any(text in label for label in labels)
        ]

    def allowed(self, written: str) -> dict[int, str]:
        """Tokens, with their text, that may follow `written`; empty once that is a label."""
        rests = [label[len(written) :] for label in self._labels if label.startswith(written)]
        return {id_: text for id_, text in self._tokens if any(rest.startswith(text) for rest in rests)}

    @torch.inference_mode()
    def predict(self, guided: Guided, prompts: Sequence[Sequence[int]], rows_per_step: int = 16) -> list[str]:
        """The label chosen for each prompt. Labels must not begin with one another."""
        answers = [""] * len(prompts)
        rows = [list(prompt) for prompt in prompts]
        pending = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while pending:
            for start in range(0, len(pending), rows_per_step):
                batch = pending[start : start + rows_per_step]
                scores = guided.logits([rows[i] for i in batch], last=1)[:, 0]
                for i, score in zip(batch, scores, strict=True):
                    allowed = self.allowed(answers[i])
                    ids = list(allowed)
                    best = ids[int(score[ids].argmax())]
                    answers[i] += allowed[best]
                    rows[i].append(best)
            pending = [i for i in pending if self.allowed(answers[i])]
        return answers


def prompt_ids(layout: PromptLayout, instruction: str, text: str) -> list[int]:
    """What serving builds for an endpoint with this instruction and an event with this text."""
    return layout.encode(
        [Part(kind="instruction", source="endpoint", text=instruction), Part(kind="input", source="caller", text=text)]
    ).token_ids
