"""The KV cache: keys and values of the seated rows."""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

_SHAPES: Final[WeakKeyDictionary[PreTrainedModel, list[tuple[int, int, int]]]] = WeakKeyDictionary()
_FIRST_CAPACITY_TOKENS: Final = 256

States = list[tuple[Tensor, Tensor]]
"""Keys and values of some tokens of one row, per layer, each [kv_heads, tokens, head_dim]."""


class KvCache(Cache):  # type: ignore[misc]
    """Owner of keys and values per layer: [slots, kv_heads, capacity, head_dim], one slot a row, slots 0..n-1 in use.

    A forward pass sees neighbouring slots, so it attends to a view and nothing is gathered. Slots times capacity times
    `token_bytes` never exceeds `max_bytes`: where rows get longer, there is room for fewer. Capacity doubles when
    needed, up to `max_tokens`; while it changes, one layer is in memory twice.

    What no seated row has written is zero. A masked position still takes part in the product with the values, and a NaN
    that a row left behind would make 0 · NaN = NaN there.
    """

    def __init__(self, *, max_rows: int, max_tokens: int, max_bytes: int) -> None:
        super().__init__(layers=[])
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._max_bytes = max_bytes
        self._slots_kept = self._capacity = 1
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._written = [0] * max_rows
        """Positions of each slot that may differ from zero."""
        # What the next forward pass sees
        self._slots = slice(0, 0)
        self._rows = self._positions = torch.empty(0, 0, dtype=torch.long)
        self._longest = 0

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in all layers; 0 before the first forward pass, which shows the layers' shapes."""
        return sum(kept.shape[1] * kept.shape[3] * kept.element_size() for kept in (*self._keys, *self._values))

    @property
    def slots(self) -> slice:
        """The slots of the next forward pass."""
        return self._slots

    @property
    def positions(self) -> Tensor:
        """The positions of the next forward pass, where new keys and values go; int64 [rows, queries]."""
        return self._positions

    def knows(self, layer: int) -> bool:
        """Whether a forward pass has shown this layer's shapes."""
        return layer < len(self._keys)

    def kept(self, layer: int) -> tuple[Tensor, Tensor]:
        """All of a layer's keys and values, each [slots, kv_heads, capacity, head_dim]."""
        return self._keys[layer], self._values[layer]

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """For each known layer: heads, size of a key, size of a value."""
        return [(k.shape[1], k.shape[3], v.shape[3]) for k, v in zip(self._keys, self._values, strict=True)]

    @property
    def max_tokens(self) -> int:
        """The largest slots times capacity that there is room for."""
        return self._max_bytes // self.token_bytes

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for `rows` of up to `tokens` each. Where memory is out, the seated rows stay as they are.

        Raises: ValueError if `rows` times `tokens` is more than `max_tokens`; RuntimeError where memory is out.
        """
        if rows <= self._slots_kept and tokens <= self._capacity:
            return
        if rows * tokens > self.max_tokens:
            raise ValueError(f"{rows} rows of {tokens} tokens asked of a cache for {self.max_tokens} in all")
        capacity = self._capacity
        if tokens > capacity:
            capacity = min(self._max_tokens, max(tokens, 2 * capacity, _FIRST_CAPACITY_TOKENS))
        capacity = max(tokens, min(capacity, self.max_tokens // rows))
        slots = max(rows, min(self._max_rows, self.max_tokens // capacity))
        # Nothing of a seated row is lost, because no row has more than `tokens`.
        same = min(self._slots_kept, slots), min(self._capacity, capacity)
        # If memory gives out midway, some layers have the old size and some the new one: all have at least this.
        self._slots_kept, self._capacity = same
        for layer, kept in enumerate(zip(self._keys, self._values, strict=True)):
            new = [old.new_zeros(slots, old.shape[1], capacity, old.shape[3]) for old in kept]
            for old, larger in zip(kept, new, strict=True):
                larger[: same[0], :, : same[1]] = old[: same[0], :, : same[1]]
            self._keys[layer], self._values[layer] = new
        self._slots_kept, self._capacity = slots, capacity
        self._written = [min(written, capacity) for written in self._written]

    def put(self, slot: int, states: States) -> None:
        """Put the states of a new row's first tokens into its slot, which is empty."""
        tokens = states[0][0].shape[1]
        self._written[slot] = tokens
        for layer, (keys, values) in enumerate(states):
            self._keys[layer][slot, :, :tokens], self._values[layer][slot, :, :tokens] = keys, values

    def copy(self, slot: int, tokens: int) -> States:
        """A copy of the states of the first `tokens` of the row in `slot`."""
        return [
            (keys[slot, :, :tokens].clone(), values[slot, :, :tokens].clone())
            for keys, values in zip(self._keys, self._values, strict=True)
        ]

    def see(self, slots: slice, positions: Tensor, longest: int) -> None:
        """Let the next forward pass run these slots, for which there is room.

        positions [rows, queries]: where the new keys and values go; longest: the tokens up to which the pass attends,
        more than any position.
        """
        self._slots, self._positions, self._longest = slots, positions, longest
        self._rows = torch.arange(slots.start, slots.stop, device=positions.device)[:, None]
        for slot in range(slots.start, slots.stop):
            self._written[slot] = max(self._written[slot], longest)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep new states [rows, kv_heads, queries, head_dim]; returns all of the rows [rows, kv_heads, longest, …].

        Layers come in their order at the first pass, which shows their shapes.
        """
        if layer_idx == len(self._keys):
            for tensors, new in ((self._keys, key_states), (self._values, value_states)):
                tensors.append(new.new_zeros(self._slots_kept, new.shape[1], self._capacity, new.shape[3]))
        seen = []
        for kept, new in ((self._keys[layer_idx], key_states), (self._values[layer_idx], value_states)):
            kept[self._rows, :, self._positions] = new.transpose(1, 2)
            seen.append(kept[self._slots, :, : self._longest])
        return seen[0], seen[1]

    def leave(self, slot: int, last: int) -> None:
        """Let the row in `slot` go, and the row in `last`, the last slot in use, take its place."""
        gone, moved = self._written[slot], self._written[last]
        for kept in (*self._keys, *self._values):
            if slot != last:
                kept[slot, :, :moved] = kept[last, :, :moved]
                kept[slot, :, moved:gone] = 0
            kept[last, :, :moved] = 0
        self._written[slot], self._written[last] = moved, 0
        if slot == last:
            self._written[slot] = 0

    def swap(self, one: int, other: int) -> None:
        """Let the rows in these two slots change places."""
        written = max(self._written[one], self._written[other])
        for kept in (*self._keys, *self._values):
            kept[[one, other], :, :written] = kept[[other, one], :, :written]
        self._written[one], self._written[other] = self._written[other], self._written[one]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row seen. The model is given positions and masks, and derives neither from this."""
        return self._longest

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(kept.nbytes for kept in (*self._keys, *self._values))


@torch.inference_mode()
def kept_shapes(model: PreTrainedModel) -> list[tuple[int, int, int]]:
    """For each layer whose keys and values `model` keeps: heads, size of a key, size of a value.

    Configurations say it in many ways, so the first call runs one token to see it.
    """
    if model not in _SHAPES:
        cache = KvCache(max_rows=1, max_tokens=1, max_bytes=2**62)
        at = torch.zeros(1, 1, dtype=torch.long, device=model.get_input_embeddings().weight.device)
        cache.see(slice(0, 1), at, 1)
        model(input_ids=at, position_ids=at, past_key_values=cache, use_cache=True)
        _SHAPES[model] = cache.shapes
    return _SHAPES[model]
