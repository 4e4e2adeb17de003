"""One step of the seated rows on the frozen model. Tensors are here, decisions are not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from guideway.schemas.failures import Refusal
from guideway.workers.engine.faults import refusal_of
from guideway.workers.engine.guidance.batched_adapters import BatchedAdapters, fastest_backend
from guideway.workers.engine.guidance.batched_inserted_layers import BatchedInsertedLayers
from guideway.workers.engine.guidance.prefix_tuning import prefix_states
from guideway.workers.engine.guidance.resident import RowGuidance
from guideway.workers.engine.guidance.soft_prompt import batched_embeddings, virtual_between
from guideway.workers.engine.kernels.packed import pack_linears
from guideway.workers.engine.model.attention import causal_mask
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.model.fast_layers import use_fast_layers
from guideway.workers.engine.model.kv_cache import KvCache, States
from guideway.workers.engine.model.next_tokens import NextTokens
from guideway.workers.engine.model.trial import check_runs
from guideway.workers.engine.scheduling.chunks import StepPlan
from guideway.workers.engine.scheduling.row import Row, RowStatus


class Runner:
    """The micro-batch on the model; owner of the seats: `rows[i]` has slot i of the cache and of all batched guidance.

    Slots stay compact, so that a step sees views of them: where a row leaves, the last row takes its slot, and new rows
    come in at the end. Rows that run together must be neighbours. So before a step the rows are put in the order of its
    plan, those that decode first; rows move only while prompts are taken in over several steps.
    """

    def __init__(self, base: BaseModel, *, max_rows: int, max_tokens: int, kv_bytes: int) -> None:
        self.rows: list[Row] = []
        self._model = base.model
        self._embed: nn.Module = base.model.get_input_embeddings()
        self._device = self._embed.weight.device
        self._dtype = self._embed.weight.dtype
        self._kv = KvCache(max_rows=max_rows, max_tokens=max_tokens, max_bytes=kv_bytes)
        places = use_fast_layers(base.model)
        self._adapters = BatchedAdapters(
            base.model, max_rows=max_rows, new_backend=fastest_backend(base.model), places=places
        )
        self._inserted = BatchedInsertedLayers(base.model, max_rows=max_rows)
        self._last: Tensor | None = None
        self._max_rows = max_rows
        self._logits = torch.empty(0, 0)
        self._model.get_output_embeddings().register_forward_pre_hook(self._keep_last)
        self._next_tokens = NextTokens()
        pack_linears(base.model, but={member for place in places.values() for member in place.joined.members})
        check_runs(base)
        self._learn_shapes()

    @property
    def kv_tokens(self) -> int:
        """The room of the cache: the largest number of rows times the tokens of the longest of them."""
        return self._kv.max_tokens

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return self._kv.token_bytes

    @torch.inference_mode()
    def join(self, row: Row, known: States | None) -> None:
        """Seat a row that holds its guidance. known: keys and values of its first tokens, if they are cached."""
        assert row.status is RowStatus.RUNNING, "the scheduler admits rows before they are seated"
        slot, guidance = len(self.rows), _held(row)
        self.rows.append(row)
        self._reserve()
        if states := known or prefix_states(guidance.prefixes):
            self._kv.put(slot, states)
            row.cached_tokens = states[0][0].shape[1]
        self._adapters.seat(slot, guidance.adapters)
        self._inserted.seat(slot, guidance.inserted)

    @torch.inference_mode()
    def leave(self, rows: Iterable[Row]) -> None:
        """Free the seats of those of `rows` that have one, and forget their keys and values."""
        for row in [row for row in rows if row in self.rows]:
            slot, last = self.rows.index(row), len(self.rows) - 1
            self._kv.leave(slot, last)
            self._adapters.leave(slot, last)
            self._inserted.leave(slot, last)
            self.rows[slot] = self.rows[last]
            self.rows.pop()
            row.cached_tokens = 0

    @torch.inference_mode()
    def copy(self, row: Row, tokens: int) -> States:
        """A copy of the keys and values of the first `tokens` of a seated row, which it has taken in."""
        return self._kv.copy(self.rows.index(row), tokens)

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> dict[Row, int | Refusal]:
        """Run one step. Returns the next token of each row that has taken in all its tokens, or why it has none.

        A row with which the pass fails even alone gives up its seat. Raises: whatever the model raises without any row
        as well, which is no row's fault.
        """
        failed: dict[Row, Refusal] = {}
        try:
            self._reserve()
        except Exception as error:
            longest = max(self.rows, key=lambda row: row.total_tokens)
            failed[longest] = refusal_of(error, id=longest.id)
            return {**self._without(failed)}
        self._arrange([plan.decoding, *(chunk.rows for chunk in plan.chunks)])
        at = len(plan.decoding)
        found = self._pass(slice(0, at), self._decode, failed) if at else []
        for chunk in plan.chunks:
            slots = slice(at, at + len(chunk.rows))
            at = slots.stop
            found += self._pass(slots, functools.partial(self._take_in, most=chunk.tokens), failed)
        rows, logits = [], []
        for slots, some in found:
            done = [i for i, row in enumerate(self.rows[slots]) if not row.missing_tokens]
            if done:
                logits.append(some if len(done) == len(some) else some[done])
                rows += [self.rows[slots.start + i] for i in done]
        outcomes = self._next_tokens.choose(rows, self._side_by_side(logits)) if rows else {}
        return {**outcomes, **self._without(failed)}

    def _pass(
        self, slots: slice, forward: Callable[[slice], Tensor], failed: dict[Row, Refusal]
    ) -> list[tuple[slice, Tensor]]:
        """The logits of these rows. Where the pass fails, each half is tried; a row that fails alone goes to `failed`.

        A pass that failed can be made again: it wrote only at positions where no row has cached anything yet.
        """
        try:
            return [(slots, forward(slots))]
        except Exception as error:
            middle = (slots.start + slots.stop) // 2
            if middle == slots.start:
                row = self.rows[slots.start]
                failed[row] = refusal_of(error, id=row.id)
                return []
        halves = slice(slots.start, middle), slice(middle, slots.stop)
        return [each for half in halves for each in self._pass(half, forward, failed)]

    def _without(self, failed: dict[Row, Refusal]) -> dict[Row, Refusal]:
        """Unseat the `failed` rows and return them. Raises: what the model raises if it fails without them as well."""
        if failed:
            self.leave(failed)
            self._run_bare(len(self.rows))
        return failed

    def _side_by_side(self, found: Sequence[Tensor]) -> Tensor:
        """All logits, float32 [rows, vocabulary], in memory that is used again: new memory costs more than the copy."""
        rows, vocabulary = sum(map(len, found)), found[0].shape[1]
        if not len(self._logits):
            self._logits = torch.empty(self._max_rows, vocabulary, dtype=torch.float32, device=self._device)
        at = 0
        for some in found:
            self._logits[at : at + len(some)] = some
            at += len(some)
        return self._logits[:rows]

    def _decode(self, slots: slice) -> Tensor:
        """Logits [rows, vocabulary] after each row's last token."""
        rows = self.rows[slots]
        token_ids = self._column([row.last_id for row in rows])
        positions = self._column([row.cached_tokens for row in rows])
        longest = 1 + max(row.cached_tokens for row in rows)
        logits = self._forward(slots, positions, longest, input_ids=token_ids)
        for row in rows:
            row.cached_tokens += 1
        return logits

    def _take_in(self, slots: slice, most: int) -> Tensor:
        """Logits [rows, vocabulary] after the next `most` tokens of each row, or after its last if it misses fewer."""
        rows = self.rows[slots]
        spans = [(row.cached_tokens, row.cached_tokens + min(most, row.missing_tokens)) for row in rows]
        embeddings = self._embeddings(rows, spans)
        tokens = embeddings.shape[1]
        begins, ends = self._column([begin for begin, _ in spans]), self._column([end for _, end in spans])
        # A row's padding writes where its next token goes: begun far behind, it would run out of the cache.
        positions = (begins + torch.arange(tokens, device=self._device)).minimum(ends)
        longest = max(min(begin + tokens, end + 1) for begin, end in spans)
        self._last = ends - begins - 1
        try:
            logits = self._forward(slots, positions, longest, inputs_embeds=embeddings)
        finally:
            self._last = None
        for row, (_, end) in zip(rows, spans, strict=True):
            row.cached_tokens = end
        return logits

    def _embeddings(self, rows: Sequence[Row], spans: Sequence[tuple[int, int]]) -> Tensor:
        """Embeddings of virtual tokens and text in each row's span, [rows, longest span, hidden], padded with zeros."""
        pieces = []
        for row, (begin, end) in zip(rows, spans, strict=True):
            before = row.prefix_tokens
            virtual = virtual_between(_held(row).soft_prompts, begin - before, end - before)
            pieces.append((virtual, row.ids_between(begin, end)))
        return batched_embeddings(pieces, self._embed, self._device)

    def _forward(self, slots: slice, positions: Tensor, longest: int, **inputs: Tensor) -> Tensor:
        """Logits [rows, vocabulary] of the rows in `slots`, whose queries stand at `positions` [rows, queries]."""
        self._kv.see(slots, positions, longest)
        self._adapters.see(slots)
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

    def _arrange(self, groups: Sequence[Sequence[Row]]) -> None:
        """Put each group in neighbouring slots, one group after the other from slot 0 on; order within one is free."""
        begin = 0
        for group in groups:
            end, members = begin + len(group), set(group)
            strangers = [slot for slot in range(begin, end) if self.rows[slot] not in members]
            if strangers:
                outside = [slot for slot in range(end, len(self.rows)) if self.rows[slot] in members]
                for one, other in zip(strangers, outside, strict=True):
                    self._swap(one, other)
            begin = end

    def _swap(self, one: int, other: int) -> None:
        self._kv.swap(one, other)
        self._adapters.swap(one, other)
        self._inserted.swap(one, other)
        self.rows[one], self.rows[other] = self.rows[other], self.rows[one]

    def _reserve(self) -> None:
        """Make room for each seated row and one token more, where padding stands or the next token."""
        if self.rows:
            self._kv.reserve(len(self.rows), 1 + max(row.total_tokens for row in self.rows))

    @torch.inference_mode()
    def _learn_shapes(self) -> None:
        """Let the cache see from one token what the layers keep."""
        self._run_bare(0)

    def _run_bare(self, slot: int) -> None:
        """Run one token on the frozen model, in a free slot, which is left as it was."""
        at = torch.zeros(1, 1, dtype=torch.long, device=self._device)
        self._forward(slice(slot, slot + 1), at, 1, input_ids=at)
        self._kv.leave(slot, slot)

    def _column(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)[:, None]


def _held(row: Row) -> RowGuidance:
    assert row.guidance is not None, "the engine equips rows before they are seated"
    return row.guidance
