"""One step of the seated rows on the frozen model. Tensors are here, decisions are not."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from guideway.schemas.failures import Refusal
from guideway.workers.engine.faults import refusal_of
from guideway.workers.engine.guidance.batched_adapters import BatchedAdapters, fastest_backend
from guideway.workers.engine.guidance.batched_inserted_layers import BatchedInsertedLayers
from guideway.workers.engine.guidance.prefix_tuning import prefix_states
from guideway.workers.engine.kernels.linears.packed import pack_linears
from guideway.workers.engine.model.attention import causal_mask
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.model.fast_layers import runs_ragged, use_fast_layers
from guideway.workers.engine.model.kv_cache import KvCache, States
from guideway.workers.engine.model.next_tokens import NextTokens
from guideway.workers.engine.model.step_inputs import held, step_inputs
from guideway.workers.engine.model.trial import check_runs
from guideway.workers.engine.scheduling.chunks import StepPlan, padded_groups
from guideway.workers.engine.scheduling.row import Row, RowStatus


class Runner:
    """The micro-batch on the model; owner of the seats: `rows[i]` has slot i of the cache and of all batched guidance.

    Slots stay compact, so that a step sees views of them: where a row leaves, the last row takes its slot, and new rows
    come in at the end. Rows that run together must be neighbours. So before a step the rows are put in the order of its
    plan, those that decode first; rows move only while prompts are taken in over several steps.

    A step is one ragged pass where the model's layers run such passes (`fast_layers.py`): the tokens of all its rows in
    one line, so that each linear is one product and nothing is padded. Other models, other devices and machines without
    the kernels run rows side by side, padded to the longest, in as many passes as keep the padding small.

    In a ragged pass a row takes in its draft with its last missing token. So it gets the token after each of them at
    once, and keeps those up to the first one that its draft has not foreseen: those of one step after the other.
    """

    def __init__(self, base: BaseModel, *, max_rows: int, kv_bytes: int) -> None:
        self.rows: list[Row] = []
        self._model = base.model
        self._embed: nn.Module = base.model.get_input_embeddings()
        self._device, self._dtype = self._embed.weight.device, self._embed.weight.dtype
        self._kv = KvCache(max_rows=max_rows, max_bytes=kv_bytes)
        places = use_fast_layers(base.model)
        self._is_ragged = runs_ragged(base.model)
        self._no_mask = torch.zeros(1, 1, 1, 1, dtype=self._dtype)
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
        self._kv.clears = not self._is_ragged

    @property
    def kv_tokens(self) -> int:
        """The room of the cache: the tokens of all its pages."""
        return self._kv.max_tokens

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return self._kv.token_bytes

    @torch.inference_mode()
    def join(self, row: Row, known: States | None) -> None:
        """Seat a row that holds its guidance. known: keys and values of its first tokens, if they are cached."""
        assert row.status is RowStatus.RUNNING, "the scheduler admits rows before they are seated"
        slot, guidance = len(self.rows), held(row)
        self._kv.keep_only([other.room_tokens for other in self.rows])
        self.rows.append(row)
        self._kv.reserve(slot, row.room_tokens)
        if states := known or prefix_states(guidance.prefixes):
            self._kv.put(slot, states)
            row.cached_tokens = states[0][0].shape[1]
        row.seated_tokens = row.cached_tokens
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
    def run(self, plan: StepPlan) -> dict[Row, list[int] | Refusal]:
        """Run one step. Returns the next tokens of each row that has taken in all its tokens, or why it has none. There
        is more than one where a draft has come true.

        A row with which the pass fails even alone gives up its seat. Raises: whatever the model raises without any row
        as well, which is no row's fault.
        """
        failed: dict[Row, Refusal] = {}
        self._kv.keep_only([row.room_tokens for row in self.rows])
        for slot, row in enumerate(self.rows):
            try:
                self._kv.reserve(slot, row.room_tokens)
            except Exception as error:
                longest = max(self.rows, key=lambda row: row.total_tokens)
                failed[longest] = refusal_of(error, id=longest.id)
                return {**self._without(failed)}
        decoding = [(row, 1) for row in plan.decoding]
        if self._is_ragged:
            groups = [[*map(_with_draft, [*decoding, *plan.pieces.items()])]]
        else:
            groups = [*padded_groups(decoding), *padded_groups([*plan.pieces.items()])]
        self._arrange([[row for row, _ in group] for group in groups])
        rows: list[Row] = []
        logits: list[Tensor] = []
        at = 0
        for group in groups:
            slots, counts = slice(at, at + len(group)), dict(group)
            at = slots.stop
            for done, some in self._pass(slots, [counts[row] for row in self.rows[slots]], failed):
                rows += done
                logits.append(some)
        outcomes = self._next_tokens.choose(rows, self._side_by_side(logits)) if rows else {}
        for row, outcome in outcomes.items():
            # What is in the cache of a draft that did not come true is written over.
            row.cached_tokens = row.total_tokens + (0 if isinstance(outcome, Refusal) else len(outcome) - 1)
        return {**outcomes, **self._without(failed)}

    def _pass(self, slots: slice, counts: list[int], failed: dict[Row, Refusal]) -> list[tuple[list[Row], Tensor]]:
        """Take in so many tokens of each of these rows. Returns those that then have all of theirs, and their logits. A
        row that took in its draft is there once for its last token, and once for each token of the draft.

        Where the pass fails, each half is tried; a row that fails alone goes to `failed`. A pass that failed can be
        made again: it wrote only at positions where no row has cached anything yet.
        """
        if not counts:
            return []
        rows = self.rows[slots]
        more = [count - row.missing_tokens for row, count in zip(rows, counts, strict=True)]
        done = {i: 1 + drafted for i, drafted in enumerate(more) if drafted >= 0}
        try:
            logits = (self._ragged if self._is_ragged else self._padded)(slots, counts, done)
        except Exception as error:
            middle = len(counts) // 2
            if not middle:
                failed[rows[0]] = refusal_of(error, id=rows[0].id)
                return []
            both = slots.start + middle
            return [
                *self._pass(slice(slots.start, both), counts[:middle], failed),
                *self._pass(slice(both, slots.stop), counts[middle:], failed),
            ]
        for row, count in zip(rows, counts, strict=True):
            row.cached_tokens += count
        return [([rows[i] for i, heard in done.items() for _ in range(heard)], logits)] if done else []

    def _without(self, failed: dict[Row, Refusal]) -> dict[Row, Refusal]:
        """Unseat the `failed` rows and return them. Raises: what the model raises if it fails without them as well."""
        if failed:
            self.leave(failed)
            self._run_bare(len(self.rows))
        return failed

    def _side_by_side(self, found: Sequence[Tensor]) -> Tensor:
        """All logits, float32 [rows, vocabulary], in memory that is used again: new memory costs more than the copy."""
        rows, vocabulary = sum(map(len, found)), found[0].shape[1]
        if len(self._logits) < rows:
            most = max(rows, self._max_rows)
            self._logits = torch.empty(most, vocabulary, dtype=torch.float32, device=self._device)
        at = 0
        for some in found:
            self._logits[at : at + len(some)] = some
            at += len(some)
        return self._logits[:rows]

    def _ragged(self, slots: slice, counts: list[int], done: Mapping[int, int]) -> Tensor:
        """Logits [all of done, vocabulary] after so many last tokens of the rows with these numbers; all tokens in one
        line."""
        rows = self.rows[slots]
        begins = [row.cached_tokens for row in rows]
        spans = self._kv.see_ragged(slots, begins, counts)
        each = [range(begin, begin + count) for begin, count in zip(begins, counts, strict=True)]
        positions = torch.tensor([[*itertools.chain(*each)]])
        # Somebody has to have logits.
        heard = done or {0: 1}
        if sum(heard.values()) < spans.tokens:
            ends = [*itertools.accumulate(counts)]
            self._last = torch.tensor([[at for i, last in heard.items() for at in range(ends[i] - last, ends[i])]])
        self._see(slots, counts, [heard.get(row, 0) for row in range(len(rows))])
        return self._forward(self._no_mask, positions, self._inputs(rows, counts))[0]

    def _padded(self, slots: slice, counts: list[int], done: Mapping[int, int]) -> Tensor:
        """Logits [done, vocabulary] after the last tokens of the rows with these numbers, the rows side by side."""
        rows = self.rows[slots]
        begins = [row.cached_tokens for row in rows]
        ends = [begin + count for begin, count in zip(begins, counts, strict=True)]
        tokens = max(counts)
        # A row's padding writes where its next token goes: begun far behind, it would run out of its pages.
        steps = torch.arange(tokens, device=self._device)
        positions = (self._column(begins) + steps).minimum(self._column(ends))
        longest = max(min(begin + tokens, end + 1) for begin, end in zip(begins, ends, strict=True))
        self._kv.see(slots, positions, longest)
        if tokens > 1:
            self._last = self._column(counts) - 1
        mask = causal_mask(positions, longest, self._dtype)
        self._see(slots)
        logits = self._forward(mask, positions, self._inputs(rows, counts))[:, -1]
        return logits if len(done) == len(rows) else logits[list(done)]

    def _inputs(self, rows: Sequence[Row], counts: Sequence[int]) -> dict[str, Tensor]:
        return step_inputs(rows, counts, self._embed, self._device, ragged=self._is_ragged)

    def _see(self, slots: slice, counts: list[int] | None = None, at_head: list[int] | None = None) -> None:
        self._adapters.see(slots, counts, at_head)
        self._inserted.see(slots, counts)

    def _forward(self, mask: Tensor, positions: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Logits of tokens at these positions; the cache, the adapters and the layers have been told of the pass."""
        try:
            logits: Tensor = self._model(
                **inputs, attention_mask=mask, position_ids=positions, past_key_values=self._kv, use_cache=True
            ).logits
        finally:
            self._last = None
        return logits

    def _keep_last(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Let the output head see the last positions only: hidden [rows, tokens, hidden] -> [rows, 1, hidden].

        Rows end at different places, and `logits_to_keep` takes the same of every row. Of a ragged pass, [1, tokens,
        hidden] becomes [1, rows, hidden].
        """
        if self._last is None:
            return None
        hidden = args[0]
        return (hidden.gather(1, self._last[:, :, None].expand(-1, -1, hidden.shape[-1])), *args[1:])

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

    @torch.inference_mode()
    def _learn_shapes(self) -> None:
        """Let the cache see from one token what the layers keep."""
        self._run_bare(0)

    def _run_bare(self, slot: int) -> None:
        """Run one token on the frozen model, in a free slot, which is left as it was."""
        at, slots = torch.zeros(1, 1, dtype=torch.long, device=self._device), slice(slot, slot + 1)
        self._kv.reserve(slot, 1)
        if self._is_ragged and self._kv.token_bytes:
            self._kv.see_ragged(slots, [0], [1])
            self._see(slots, [1])
            self._forward(self._no_mask, at, {"input_ids": at})
        else:
            self._kv.see(slots, at, 1)
            self._see(slots)
            self._forward(causal_mask(at, 1, self._dtype), at, {"input_ids": at})
        self._kv.leave(slot, slot)

    def _column(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)[:, None]


def _with_draft(piece: tuple[Row, int]) -> tuple[Row, int]:
    """The piece with the row's draft, if it is the row's last."""
    row, tokens = piece
    return (row, tokens + len(row.draft)) if tokens == row.missing_tokens else piece
