"""Inserted layers of all seated rows, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from guideway.catalogue.adapters.forms import Activation
from guideway.workers.engine.guidance.inserted_layer import ACTIVATIONS, Block, InsertedLayer, decoder_layers, rms
from guideway.workers.engine.kernels.slab import Slab


class BatchedInsertedLayers:
    """The inserted layers of all seated rows; owner of the hooks through which they act.

    After every decoder layer k that has a block of a seated row after it, for all rows at once, however many artefacts
    there are:
    h[j] ← h[j] + act[j](rms(h[j]) D[j]ᵀ) U[j]
    with h [rows, tokens, hidden], D and U [rows, r, hidden]. r is the largest among the rows seen; where a row has less
    or nothing, U is zero. Several blocks of a row at one place follow one another in the order of its guidance: the
    pass is repeated as often as the row with the most blocks there needs. Slots are those of the KV cache.
    """

    def __init__(self, model: PreTrainedModel, *, max_rows: int) -> None:
        self._model = model
        self._max_rows = max_rows
        self._seated: dict[int, _SeatedPlace] = {}
        self._seen: slice | None = None

    def seat(self, slot: int, inserted: Sequence[InsertedLayer]) -> None:
        """Put the inserted layers of a new row, in the order in which they apply, into its slot, which is empty."""
        for k in sorted({k for layer in inserted for k in layer.blocks}):
            if k not in self._seated:
                self._seated[k] = _SeatedPlace(decoder_layers(self._model)[k], self._max_rows)
            self._seated[k].seat(slot, [layer.blocks[k] for layer in inserted if k in layer.blocks])
        self._seen = None

    def leave(self, slot: int, last: int) -> None:
        """Let the row in `slot` go, and the row in `last`, the last slot in use, take its place."""
        for k, place in list(self._seated.items()):
            place.leave(slot, last)
            if not place.is_used:
                place.unhook()
                del self._seated[k]
        self._seen = None

    def swap(self, one: int, other: int) -> None:
        """Let the rows in these two slots change places."""
        for place in self._seated.values():
            place.swap(one, other)
        self._seen = None

    def see(self, slots: slice) -> None:
        """Let the next forward pass run these slots."""
        if slots != self._seen:
            for place in self._seated.values():
                place.see(slots)
            self._seen = slots

    @property
    def places(self) -> list[int]:
        """The decoder layers that carry a hook."""
        return sorted(self._seated)


class _SeatedPlace:
    """The blocks of all seated rows after one decoder layer: the rows' first blocks, their second ones, and so on."""

    def __init__(self, layer: nn.Module, max_rows: int) -> None:
        self._max_rows = max_rows
        self._passes: list[_Pass] = []
        self._seen: list[_Pass] = []
        self._hook = layer.register_forward_hook(self._insert)

    @property
    def is_used(self) -> bool:
        return bool(self._passes)

    def seat(self, slot: int, blocks: Sequence[Block]) -> None:
        while len(self._passes) < len(blocks):
            self._passes.append(_Pass(self._max_rows))
        for one, block in zip(self._passes, blocks, strict=False):
            one.seat(slot, block)

    def leave(self, slot: int, last: int) -> None:
        for one in self._passes:
            one.leave(slot, last)
        self._passes = [one for one in self._passes if one.is_used]

    def swap(self, one: int, other: int) -> None:
        for each in self._passes:
            each.swap(one, other)

    def unhook(self) -> None:
        self._hook.remove()

    def see(self, slots: slice) -> None:
        self._seen = [one for one in self._passes if one.see(slots)]

    def _insert(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self._seen:
            return None
        h = output[0] if isinstance(output, tuple) else output
        for one in self._seen:
            h = one.through(h)
        return (h, *output[1:]) if isinstance(output, tuple) else h


class _Pass:
    """The n-th block of each row that has n blocks or more at one place."""

    def __init__(self, max_rows: int) -> None:
        self._down, self._up = Slab(max_rows), Slab(max_rows)
        self._eps = Slab(max_rows, fill=1.0)
        self._activations: list[Activation | None] = [None] * max_rows
        # What the next forward pass sees
        self._factors: tuple[Tensor, Tensor, Tensor] | None = None
        self._masks: list[tuple[Activation, Tensor | None]] = []

    @property
    def is_used(self) -> bool:
        return self._down.is_used

    def seat(self, slot: int, block: Block) -> None:
        self._down.put(slot, block.down)
        self._up.put(slot, block.up)
        self._eps.put(slot, block.down.new_full((1, 1), block.norm_eps))
        self._activations[slot] = block.activation

    def leave(self, slot: int, last: int) -> None:
        for slab in (self._down, self._up, self._eps):
            slab.leave(slot, last)
        self._activations[slot] = self._activations[last]
        self._activations[last] = None

    def swap(self, one: int, other: int) -> None:
        for slab in (self._down, self._up, self._eps):
            slab.swap(one, other)
        kinds = self._activations
        kinds[one], kinds[other] = kinds[other], kinds[one]

    def see(self, slots: slice) -> bool:
        """Whether any of these slots has a block."""
        down, up, eps = self._down.view(slots), self._up.view(slots), self._eps.view(slots)
        if down is None or up is None or eps is None:
            return False
        self._factors = down.transpose(1, 2), up, eps
        here = self._activations[slots]
        kinds = [kind for kind in ACTIVATIONS if kind in here]
        # Where a row has no block, any activation does: U is zero there.
        self._masks = [
            (kind, torch.tensor([[[other == kind]] for other in here], device=down.device) if i else None)
            for i, kind in enumerate(kinds)
        ]
        return True

    def through(self, h: Tensor) -> Tensor:
        """h [rows, tokens, hidden] after these blocks."""
        assert self._factors is not None
        down, up, eps = self._factors
        inner = torch.bmm(rms(h, eps), down)
        active = inner
        for kind, rows in self._masks:
            active = ACTIVATIONS[kind](inner) if rows is None else torch.where(rows, ACTIVATIONS[kind](inner), active)
        return h + torch.bmm(active, up).to(h.dtype)
