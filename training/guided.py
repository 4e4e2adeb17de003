"""A frozen model with guidance in place: runs rows of different lengths and picks labels the way serving does."""

from __future__ import annotations

import copy
import itertools
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

    def prefix(self, ids: Sequence[int]) -> Any:
        """Keys and values of the soft prompt and the tokens with which all rows begin, computed once."""
        embedded = self._embedded([ids])
        return self.model.get_decoder()(inputs_embeds=embedded, use_cache=True).past_key_values

    def logits(self, rows: Sequence[Sequence[int]], last: int, after: Any = None) -> Tensor:
        """[rows, last, vocabulary] in float32: what follows each of the last `last` tokens of every row.

        `after` is what `prefix` gave; the rows are then without the prefix. Rows are padded on the right, where causal
        attention hides the padding, so every row has the positions that it has alone.
        """
        past = copy.deepcopy(after)
        if past is not None:
            past.batch_repeat_interleave(len(rows))
        embedded = self._embedded(rows, soft=past is None)
        run = self.model.get_decoder()(inputs_embeds=embedded, past_key_values=past, use_cache=past is not None)
        virtual = embedded.shape[1] - max(map(len, rows))
        at = torch.tensor([[virtual + len(row) - last + i for i in range(last)] for row in rows])
        chosen = run.last_hidden_state[torch.arange(len(rows))[:, None], at]
        logits: Tensor = self.model.get_output_embeddings()(chosen).float()
        return logits

    def _embedded(self, rows: Sequence[Sequence[int]], *, soft: bool = True) -> Tensor:
        """[rows, virtual + longest, hidden]"""
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        if self.soft is not None and soft:
            embedded = torch.cat([self.soft.to(embedded.dtype).expand(len(rows), -1, -1), embedded], 1)
        return embedded


class LabelChoice:
    """Greedy decoding that can only spell one of the labels: at each step the tokens that continue one.

    As in serving, any tokens may spell it, single letters too. With `usual_tokens` only those may into which the
    tokenizer cuts the labels, which flatters a model that was not trained to answer with a bare label.
    """

    def __init__(self, base: BaseModel, labels: Sequence[str], *, usual_tokens: bool = False) -> None:
        self._labels = labels
        tokenizer = base.tokenizer
        added = tokenizer.added_tokens_decoder
        usual = {id_ for label in labels for id_ in tokenizer.encode(label, add_special_tokens=False)}
        texts = tokenizer.batch_decode([[id_] for id_ in range(len(tokenizer))])
        self._tokens = [
            (id_, text)
            for id_, text in enumerate(texts)
            if text
            and id_ not in added
            and any(text in label for label in labels)
            and (id_ in usual or not usual_tokens)
        ]

    def allowed(self, written: str) -> dict[int, str]:
        """Tokens, with their text, that may follow `written`; empty once that is a label."""
        rests = [label[len(written) :] for label in self._begun(written)]
        return {id_: text for id_, text in self._tokens if any(rest.startswith(text) for rest in rests)}

    @torch.inference_mode()
    def predict(self, guided: Guided, prompts: Sequence[Sequence[int]], rows_per_step: int = 16) -> list[str]:
        """The label chosen for each prompt. Labels must not begin with one another.

        A row ends as soon as what it has written begins one label only: the rest is forced, however it is spelt.
        """
        answers = [""] * len(prompts)
        # The last token stays with the row, so that no row is empty.
        columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda column: len({*column}) == 1, columns))
        after = guided.prefix(prompts[0][:shared])
        rows = [list(prompt[shared:]) for prompt in prompts]
        pending = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while pending:
            for start in range(0, len(pending), rows_per_step):
                batch = pending[start : start + rows_per_step]
                scores = guided.logits([rows[i] for i in batch], last=1, after=after)[:, 0]
                for i, score in zip(batch, scores, strict=True):
                    allowed = self.allowed(answers[i])
                    ids = list(allowed)
                    best = ids[int(score[ids].argmax())]
                    answers[i] += allowed[best]
                    rows[i].append(best)
            pending = [i for i in pending if len(self._begun(answers[i])) > 1]
        return [self._begun(answer)[0] for answer in answers]

    def _begun(self, written: str) -> list[str]:
        return [label for label in self._labels if label.startswith(written)]


def prompt_ids(layout: PromptLayout, instruction: str, text: str) -> list[int]:
    """What serving builds for an endpoint with this instruction and an event with this text."""
    return layout.encode(
        [Part(kind="instruction", source="endpoint", text=instruction), Part(kind="input", source="caller", text=text)]
    ).token_ids
