"""Keys and values of the rows that are seated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import Cache

_FIRST_CAPACITY_TOKENS: Final = 256


class KvCache(Cache):  # type: ignore[misc]
    """Keys and values per layer: [max_rows, kv_heads, capacity, head_dim], one slot a row, slots 0..n-1 in use.

    A forward pass sees a run of neighbouring slots, so what it attends to is a view and nothing is gathered. Capacity
    doubles when needed, up to `max_tokens`. What no seated row has written is zero: a masked position still takes
    part in the product with the values, and there 0 · NaN, left behind by a row that went wrong, would be NaN.
    """

    def __init__(self, *, max_rows: int, max_tokens: int) -> None:
        super().__init__(layers=[])
        self._max_tokens = max_tokens
        self._capacity = min(_FIRST_CAPACITY_TOKENS, max_tokens)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._written = [0] * max_rows
        """Positions of each slot that may differ from zero."""
        self._max_rows = max_rows
        # What the next forward pass sees
        self._slots = slice(0, 0)
        self._rows = self._positions = torch.empty(0, 0, dtype=torch.long)
        self._longest = 0

    def seat(self, slot: int, states: Sequence[Tensor]) -> None:
        """Put a new row's prefixes, one after the other, at the beginning of its slot, which is empty.

        states: each [layers, 2, kv_heads, tokens, head_dim].
        """
        if not states:
            return
        whole = torch.cat(list(states), dim=3)
        tokens = whole.shape[3]
        if tokens > self._capacity:
            self._grow(tokens)
        for layer, (keys, values) in enumerate(whole):
            self._layer(layer, keys[None])
            self._keys[layer][slot, :, :tokens], self._values[layer][slot, :, :tokens] = keys, values
        self._written[slot] = tokens

    def see(self, slots: slice, positions: Tensor, longest: int) -> None:
        """The next forward pass runs these slots.

        positions [rows, queries]: where the new keys and values go; longest: the tokens up to which the pass attends,
        more than any position.
        """
        self._slots, self._positions, self._longest = slots, positions, longest
        self._rows = torch.arange(slots.start, slots.stop, device=positions.device)[:, None]
        for slot in range(slots.start, slots.stop):
            self._written[slot] = max(self._written[slot], longest)
        if longest > self._capacity:
            self._grow(longest)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep the new states [rows, kv_heads, queries, head_dim]; returns all the rows' [rows, kv_heads, longest, …].

        Layers come in their order at the first pass: their shapes are learnt from what they bring.
        """
        self._layer(layer_idx, key_states, value_states)
        seen = []
        for kept, new in ((self._keys[layer_idx], key_states), (self._values[layer_idx], value_states)):
            kept[self._rows, :, self._positions] = new.transpose(1, 2)
            seen.append(kept[self._slots, :, : self._longest])
        return seen[0], seen[1]

    def leave(self, slot: int, last: int) -> None:
        """The row in `slot` goes, and the one in the `last` slot in use takes its place."""
        gone, moved = self._written[slot], self._written[last]
        for kept in (*self._keys, *self._values):
            if slot != last:
                kept[slot, :, :moved] = kept[last, :, :moved]
                kept[slot, :, moved:gone] = 0
            kept[last, :, :moved] = 0
        self._written[slot], self._written[last] = moved, 0
        if slot == last:
            self._written[slot] = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row seen; positions and masks are given to the model and not derived from this."""
        return self._longest

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in (*self._keys, *self._values))

    def _layer(self, index: int, keys: Tensor, values: Tensor | None = None) -> None:
        """Make room for a layer that was not there yet."""
        if index == len(self._keys):
            self._keys.append(self._room(keys))
            self._values.append(self._room(keys if values is None else values))

    def _room(self, states: Tensor) -> Tensor:
        _, heads, _, dim = states.shape
        return states.new_zeros(self._max_rows, heads, self._capacity, dim)

    def _grow(self, needed: int) -> None:
        if needed > self._max_tokens:
            raise ValueError(f"{needed} tokens asked of a cache for {self._max_tokens}")
        old, self._capacity = self._capacity, min(self._max_tokens, max(needed, 2 * self._capacity))
        for tensors in (self._keys, self._values):
            for i, kept in enumerate(tensors):
                tensors[i] = self._room(kept)
                tensors[i][:, :, :old] = kept
