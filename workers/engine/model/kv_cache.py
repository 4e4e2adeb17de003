"""The KV cache: keys and values of the seated rows, in pages."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from guideway.workers.engine.kernels import large_pages
from guideway.workers.engine.kernels.layers.native_pages import move_states

PAGE_TOKENS: Final = 16
"""`PAGE` of `attention.c` is the same number."""
_SHAPES: Final[WeakKeyDictionary[PreTrainedModel, list[tuple[int, int, int]]]] = WeakKeyDictionary()

States = list[tuple[Tensor, Tensor]]
"""Keys and values of some tokens of one row, per layer, each [kv_heads, tokens, head_dim]."""


@dataclass(frozen=True, eq=False)
class Spans:
    """The tokens of one ragged pass: those of each slot stand behind those of the slot before. int64, on the CPU."""

    slots: slice
    first: Tensor
    """[rows + 1]: the first token of each row, and the number of tokens."""
    begins: Tensor
    """[rows]: the position of each row's first token."""
    counts: Sequence[int]
    """The tokens of each row, one at least."""
    tokens: int
    """Of all rows."""

    @property
    def rows(self) -> int:
        """How many rows the pass runs."""
        return len(self.counts)


def pages_for(tokens: int) -> int:
    """The pages that a row of so many tokens takes."""
    return -(-tokens // PAGE_TOKENS)


class KvCache(Cache):  # type: ignore[misc]
    """Owner of keys and values per layer, [pages, kv_heads, PAGE_TOKENS, head_dim], and of whose the pages are.

    A row holds as many pages as its tokens need, whatever others hold. Rows have slots 0..n-1; `table[slot]` lists the
    slot's pages. All pages take at most `max_bytes`. Their number doubles when needed. On a CPU, the system promises
    room for all of them before, so that nobody waits for a copy; elsewhere one layer is in memory twice meanwhile.

    A ragged pass reads and writes the pages where they are. Any other pass sees a copy of its rows' pages side by side,
    padded to the longest. A masked position still takes part in the product with the values there, and a NaN that a row
    left behind would make 0 · NaN = NaN. So where `clears` is set, a page that is given back becomes zero.
    """

    def __init__(self, *, max_rows: int, max_bytes: int) -> None:
        super().__init__(layers=[])
        self._max_bytes = max_bytes
        self._pages = 1
        self._free = [0]
        self._held: list[list[int]] = [[] for _ in range(max_rows)]
        """The pages of each slot, in the order of their tokens"""
        self.table = torch.zeros(max_rows, 8, dtype=torch.long)
        """The same as numbers, int64, on the CPU; a line is filled up with the slot's last page."""
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._rooms: dict[tuple[int, bool], Tensor] = {}
        """(layer, whether keys) → as many pages as there may ever be, of which the first are in use"""
        self.clears = True
        """Whether pages become zero when they are given back: not needed where all passes are ragged."""
        # What the next forward pass sees
        self.spans: Spans | None = None
        """The rows of a ragged pass; None where rows are padded."""
        self._at: tuple[Tensor, Tensor] = (self.table, self.table)
        self._seen: Tensor = self.table
        self._by_heads: dict[int, Tensor] = {}
        self._longest = 0

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in all layers; 0 before the first forward pass, which shows the layers' shapes."""
        return sum(kept.shape[1] * kept.shape[3] * kept.element_size() for kept in (*self._keys, *self._values))

    def knows(self, layer: int) -> bool:
        """Whether a forward pass has shown this layer's shapes."""
        return layer < len(self._keys)

    def kept(self, layer: int) -> tuple[Tensor, Tensor]:
        """All of a layer's keys and values, each [pages, kv_heads, PAGE_TOKENS, head_dim]."""
        return self._keys[layer], self._values[layer]

    @property
    def _all(self) -> list[Tensor]:
        """The keys and the values of each layer, one behind the other."""
        return [kept for pair in zip(self._keys, self._values, strict=True) for kept in pair]

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """For each known layer: heads, size of a key, size of a value."""
        return [(k.shape[1], k.shape[3], v.shape[3]) for k, v in zip(self._keys, self._values, strict=True)]

    @property
    def max_tokens(self) -> int:
        """The tokens of all pages that there is room for."""
        return self._max_bytes // (self.token_bytes * PAGE_TOKENS) * PAGE_TOKENS

    def reserve(self, slot: int, tokens: int) -> None:
        """Let `slot` hold pages for `tokens` at least. Where memory is out, all rows stay as they are.

        Raises: ValueError if that is more than `max_tokens` in all; RuntimeError where memory is out.
        """
        held = self._held[slot]
        more = pages_for(tokens) - len(held)
        if more <= 0:
            return
        if more > len(self._free):
            self._grow(self._pages + more - len(self._free))
        begin = len(held)
        held += [self._free.pop() for _ in range(more)]
        width = self.table.shape[1]
        if len(held) > width:
            self.table = torch.cat([self.table, self.table[:, -1:].expand(-1, max(width, len(held) - width))], dim=1)
        self.table[slot, begin : len(held)] = torch.tensor(held[begin:])
        self.table[slot, len(held) :] = held[-1]

    def keep_only(self, tokens: Sequence[int]) -> None:
        """Let the slots from 0 on hold pages for no more than so many tokens each, at least one."""
        for slot, most in enumerate(tokens):
            held = self._held[slot]
            if (kept := pages_for(most)) < len(held):
                self._free_pages(held[kept:])
                del held[kept:]
                self.table[slot, kept:] = held[-1]

    def _free_pages(self, pages: list[int]) -> None:
        if self.clears and pages:
            for kept in (*self._keys, *self._values):
                kept[pages] = 0
        self._free += reversed(pages)

    def _grow(self, pages: int) -> None:
        """Have `pages` at least."""
        most = self.max_tokens // PAGE_TOKENS if self._keys else pages
        if pages > most:
            raise ValueError(f"{pages} pages of {PAGE_TOKENS} tokens asked of a cache for {most}")
        pages = min(most, max(pages, 2 * self._pages))
        for tensors in (self._keys, self._values):
            for layer, old in enumerate(tensors):
                # If memory gave out midway before, some layers have more pages than others already.
                if len(old) < pages:
                    tensors[layer] = self._longer(old, pages, most, (layer, tensors is self._keys))
        self._free += range(pages - 1, self._pages - 1, -1)
        self._pages = pages

    def _longer(self, old: Tensor, pages: int, most: int, whose: tuple[int, bool]) -> Tensor:
        """`old` with `pages` pages, of at most `most`; new ones are zero."""
        if (room := self._rooms.get(whose)) is not None:
            return room[:pages]
        if old.device.type == "cpu":
            with contextlib.suppress(OSError):
                self._rooms[whose] = room = large_pages.zeros_to_be((most, *old.shape[1:]), old.dtype)
        longer = old.new_zeros(pages, *old.shape[1:]) if room is None else room[:pages]
        longer[: len(old)] = old
        return longer

    def put(self, slot: int, states: States) -> None:
        """Put the states of a new row's first tokens into its slot, which holds pages for them."""
        tokens = states[0][0].shape[1]
        both = [tensor for pair in states for tensor in pair]
        if move_states(self.table[slot, : pages_for(tokens)], self._all, both, into=True):
            return
        whole = tokens - tokens % PAGE_TOKENS
        pages, last = self._pages_of(slot, whole), self._held[slot][(tokens - 1) // PAGE_TOKENS]
        for layer, pair in enumerate(states):
            for kept, new in zip(self.kept(layer), pair, strict=True):
                if whole:
                    kept.index_copy_(
                        0, pages, new[:, :whole].reshape(len(new), -1, PAGE_TOKENS, new.shape[2]).transpose(0, 1)
                    )
                if whole < tokens:
                    kept[last, :, : tokens - whole] = new[:, whole:]

    def copy(self, slot: int, tokens: int) -> States:
        """A copy of the states of the first `tokens` of the row in `slot`."""
        shapes = [(kept.shape[1], tokens, kept.shape[3]) for kept in self._all]
        made = [kept.new_empty(shape) for kept, shape in zip(self._all, shapes, strict=True)]
        if move_states(self.table[slot, : pages_for(tokens)], self._all, made, into=False):
            return list(zip(made[::2], made[1::2], strict=True))
        pages = self._pages_of(slot, tokens)
        copies = [
            [kept[pages].transpose(0, 1).flatten(1, 2)[:, :tokens].contiguous() for kept in self.kept(layer)]
            for layer in range(len(self._keys))
        ]
        return [(keys, values) for keys, values in copies]

    def _pages_of(self, slot: int, tokens: int) -> Tensor:
        return self.table[slot, : pages_for(tokens)].to(self._keys[0].device)

    def see(self, slots: slice, positions: Tensor, longest: int) -> None:
        """Let the next forward pass run these slots, which hold pages for it, side by side.

        positions [rows, queries]: where the new keys and values go; longest: the tokens up to which the pass attends,
        more than any position.
        """
        self.spans, self._longest = None, longest
        # A shorter row sees its last page again, which is masked there; a page of another might hold a NaN.
        self._seen = self.table[slots, : pages_for(longest)].to(positions.device)
        self._at = self._seen.gather(1, positions // PAGE_TOKENS), positions % PAGE_TOKENS
        self._by_heads = {}

    def see_ragged(self, slots: slice, begins: Sequence[int], counts: Sequence[int]) -> Spans:
        """Let the next forward pass run these slots, which hold pages for it, one row's tokens behind the other's.

        begins: the position of each row's first token; counts: its tokens, one at least.
        """
        room = [len(held) * PAGE_TOKENS for held in self._held[slots]]
        if any(begin < 0 or begin + count > most for begin, count, most in zip(begins, counts, room, strict=True)):
            raise IndexError(f"tokens from {list(begins)} on, {list(counts)} of each row, in pages for {room}")
        first = torch.tensor(list(accumulate(counts, initial=0)))
        self.spans = Spans(slots, first, torch.tensor(begins), counts, sum(counts))
        self._longest = max(begin + count for begin, count in zip(begins, counts, strict=True))
        return self.spans

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep new states [rows, kv_heads, queries, head_dim]; returns all of the rows [rows, kv_heads, longest, …].

        Layers come in their order at the first pass, which shows their shapes.
        """
        if layer_idx == len(self._keys):
            for tensors, new in ((self._keys, key_states), (self._values, value_states)):
                tensors.append(new.new_zeros(self._pages, new.shape[1], PAGE_TOKENS, new.shape[3]))
        pages, places = self._at
        seen = []
        for kept, new in zip(self.kept(layer_idx), (key_states, value_states), strict=True):
            kept[pages, :, places] = new.transpose(1, 2)
            heads, dim = kept.shape[1], kept.shape[3]
            # One copy: a page of one head lies in one piece.
            found = kept.view(-1, PAGE_TOKENS * dim).index_select(0, self._pieces(heads))
            seen.append(found.view(len(new), heads, -1, dim)[:, :, : self._longest])
        return seen[0], seen[1]

    def _pieces(self, heads: int) -> Tensor:
        """The numbers of the pages seen, where each head's page counts; flat, of [rows, heads, pages]."""
        if heads not in self._by_heads:
            each = torch.arange(heads, device=self._seen.device)[:, None]
            self._by_heads[heads] = (self._seen[:, None] * heads + each).flatten()
        return self._by_heads[heads]

    def leave(self, slot: int, last: int) -> None:
        """Let the row in `slot` go, and the row in `last`, the last slot in use, take its place."""
        self._free_pages(self._held[slot])
        self._held[slot], self._held[last] = self._held[last], []
        self.table[slot] = self.table[last]

    def swap(self, one: int, other: int) -> None:
        """Let the rows in these two slots change places."""
        self._held[one], self._held[other] = self._held[other], self._held[one]
        self.table[[one, other]] = self.table[[other, one]]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row seen. The model is given positions and masks, and derives neither from this."""
        return self._longest

    @property
    def is_empty(self) -> bool:
        """Whether no slot holds a page, and no page anything of a row where `clears` is set."""
        left = self.clears and any(bool(kept.any()) for kept in (*self._keys, *self._values))
        return len(self._free) == self._pages and not any(self._held) and not left

    @property
    def nbytes(self) -> int:
        """Bytes of all pages."""
        return sum(kept.nbytes for kept in (*self._keys, *self._values))


@torch.inference_mode()
def kept_shapes(model: PreTrainedModel) -> list[tuple[int, int, int]]:
    """For each layer whose keys and values `model` keeps: heads, size of a key, size of a value.

    Configurations say it in many ways, so the first call runs one token to see it.
    """
    if model not in _SHAPES:
        cache = KvCache(max_rows=1, max_bytes=2**62)
        at = torch.zeros(1, 1, dtype=torch.long, device=model.get_input_embeddings().weight.device)
        cache.reserve(0, 1)
        cache.see(slice(0, 1), at, 1)
        model(input_ids=at, position_ids=at, past_key_values=cache, use_cache=True)
        _SHAPES[model] = cache.shapes
    return _SHAPES[model]
