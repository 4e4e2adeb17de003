"""Tensors: prefill and decode of the seated rows on the frozen model. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.adaptors import BatchedAdaptors
from guideway.workers.engine.attention import causal_mask
from guideway.workers.engine.base_model import BaseModel
from guideway.workers.engine.fast_layers import use_fast_layers
from guideway.workers.engine.grammars import BatchedGrammar
from guideway.workers.engine.guidance import RowGuidance
from guideway.workers.engine.inserted_rows import BatchedInsertedLayers
from guideway.workers.engine.kv import KvCache
from guideway.workers.engine.packed import pack_linears
from guideway.workers.engine.row import Row
from guideway.workers.engine.sampling import BatchedSampler
from guideway.workers.engine.soft_prompt import batched_embeddings


class Runner:
    """The micro-batch on the model; owner of the seats: `rows[i]` has slot i of the cache and of all batched guidance.

    Slots stay compact, so that a step sees views of them: where a row leaves, the last one takes its slot. New rows
    come in at the end, are prefilled there together, and decode with the others from the next step on.
    """

    def __init__(self, base: BaseModel, *, max_rows: int, max_tokens: int) -> None:
        self.rows: list[Row] = []
        self._model = base.model
        self._embed: nn.Module = base.model.get_input_embeddings()
        self._device = self._embed.weight.device
        self._dtype = self._embed.weight.dtype
        self._kv = KvCache(max_rows=max_rows, max_tokens=max_tokens)
        places = use_fast_layers(base.model)
        self._adaptors = BatchedAdaptors(base.model, max_rows=max_rows, places=places)
        self._inserted = BatchedInsertedLayers(base.model, max_rows=max_rows)
        self._last: Tensor | None = None
        self._model.get_output_embeddings().register_forward_pre_hook(self._keep_last)
        pack_linears(base.model, but={member for place in places.values() for member in place.joined.members})
        self._reseated()

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Seat `rows`, whose guidance is held."""
        for row in rows:
            slot, guidance = len(self.rows), _held(row)
            self._kv.seat(slot, [prefix.states for prefix in guidance.prefixes])
            row.cached_tokens = row.prefix_tokens
            self._adaptors.seat(slot, guidance.adaptors)
            self._inserted.seat(slot, guidance.inserted)
            self.rows.append(row)
        if rows:
            self._reseated()

    @torch.inference_mode()
    def leave(self, rows: Sequence[Row]) -> None:
        """Free the seats of those of `rows` that have one."""
        for row in [row for row in rows if row in self.rows]:
            slot, last = self.rows.index(row), len(self.rows) - 1
            self._kv.leave(slot, last)
            self._adaptors.leave(slot, last)
            self._inserted.leave(slot, last)
            self.rows[slot] = self.rows[last]
            self.rows.pop()
        if rows:
            self._reseated()

    @torch.inference_mode()
    def run(self) -> list[int | Refusal]:
        """One step: the next token of every seated row, in the order of `rows`, or why there is none."""
        running = sum(row.is_prefilled for row in self.rows)
        logits = torch.cat([*self._decode(slice(0, running)), *self._prefill(slice(running, len(self.rows)))])
        logits = logits.to(torch.float32)
        failed = self._grammars.mask_(logits)
        tokens = self._sampler.choose(logits)
        return [failed.get(i, _not_finite()) if token is None else token for i, token in enumerate(tokens)]

    def _reseated(self) -> None:
        self._grammars = BatchedGrammar([row.grammar for row in self.rows])
        self._sampler = BatchedSampler([row.sampler for row in self.rows])

    def _decode(self, slots: slice) -> list[Tensor]:
        """Logits [rows, vocabulary] after each row's last token; no tensor if there are no rows."""
        rows = self.rows[slots]
        if not rows:
            return []
        token_ids = self._column([row.token_ids[-1] for row in rows])
        positions = self._column([row.cached_tokens for row in rows])
        longest = 1 + max(row.cached_tokens for row in rows)
        logits = self._forward(slots, positions, longest, input_ids=token_ids)
        for row in rows:
            row.cached_tokens += 1
        return [logits]

    def _prefill(self, slots: slice) -> list[Tensor]:
        """Logits [rows, vocabulary] after each row's prompt; no tensor if there are no rows."""
        rows = self.rows[slots]
        if not rows:
            return []
        embeddings = batched_embeddings(
            [(_held(r).soft_prompts, r.prompt_ids) for r in rows], self._embed, self._device
        )
        tokens = embeddings.shape[1]
        begins, ends = self._column([r.cached_tokens for r in rows]), self._column([r.prompt_tokens for r in rows])
        # A row's padding writes where its next token goes: begun behind a prefix, it would run out of the cache.
        positions = (begins + torch.arange(tokens, device=self._device)).minimum(ends)
        longest = max(min(row.cached_tokens + tokens, row.prompt_tokens + 1) for row in rows)
        self._last = ends - begins - 1
        logits = self._forward(slots, positions, longest, inputs_embeds=embeddings)
        self._last = None
        for row in rows:
            row.cached_tokens = row.prompt_tokens
        return [logits]

    def _forward(self, slots: slice, positions: Tensor, longest: int, **inputs: Tensor) -> Tensor:
        """Logits [rows, vocabulary] of the rows in `slots`, whose queries stand at `positions` [rows, queries]."""
        self._kv.see(slots, positions, longest)
        self._adaptors.see(slots)
        self._inserted.see(slots)
        logits: Tensor = self._model(
            **inputs,
            attention_mask=causal_mask(positions, longest, self._dtype),
            position_ids=positions,
            past_key_values=self._kv,
            use_cache=True,
        ).logits
        return logits[:, -1]

    def _keep_last(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Let the output head see each row's last position only: hidden [rows, tokens, hidden] -> [rows, 1, hidden].

        Rows are padded on the right, so the last positions differ; `logits_to_keep` takes the same of every row.
        """
        if self._last is None:
            return None
        hidden = args[0]
        return (hidden.gather(1, self._last[:, :, None].expand(-1, 1, hidden.shape[-1])), *args[1:])

    def _column(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)[:, None]


def _held(row: Row) -> RowGuidance:
    assert row.guidance is not None, "the engine equips rows before they are seated"
    return row.guidance


def _not_finite() -> Refusal:
    return Refusal(
        FailureCode.ENGINE_FAILED,
        "the model's output under this guidance is not a finite number: train the guidance again, with smaller steps",
    )
