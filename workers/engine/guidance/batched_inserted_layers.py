"""Inserted layers of all seated rows, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from guideway.workers.engine.guidance.inserted_layer import ACTIVATIONS, Block, InsertedLayer, rms
from guideway.workers.engine.guidance.target_modules import decoder_layers
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.layers.native_inserted import NativePlace
from guideway.workers.engine.kernels.slab import Seen, Slab


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
        self._seated: dict[int, _SeatedPlace | NativePlace] = {}
        self._kernels = native.kernels_for(model)
        self._seen: tuple[slice, Sequence[int] | None] | None = None

    def seat(self, slot: int, inserted: Sequence[InsertedLayer]) -> None:
        """Put the inserted layers of a new row, in the order in which they apply, into its slot, which is empty."""
        for k in sorted({k for layer in inserted for k in layer.blocks}):
            if k not in self._seated:
                layer = decoder_layers(self._model)[k]
                self._seated[k] = (
                    _SeatedPlace(layer, self._max_rows)
                    if self._kernels is None
                    else NativePlace(layer, self._max_rows, self._kernels)
                )
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

    def see(self, slots: slice, counts: Sequence[int] | None = None) -> None:
        """Let the next forward pass run these slots. counts: the tokens of each row where the pass is ragged."""
        if (slots, counts) != self._seen:
            for place in self._seated.values():
                place.see(slots, counts)
            self._seen = slots, counts

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

    def see(self, slots: slice, counts: Sequence[int] | None) -> None:
        assert counts is None, "ragged passes are made where the kernels in C are"
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
        self._blocks: Slab[Block] = Slab(max_rows)
        # What the next forward pass sees
        self._seen: list[_SeenBlocks] = []
        """Of rows of one token, and of rows of several"""

    @property
    def is_used(self) -> bool:
        return self._blocks.is_used

    def seat(self, slot: int, block: Block) -> None:
        self._blocks.put(slot, block, block.down, block.up)

    def leave(self, slot: int, last: int) -> None:
        self._blocks.leave(slot, last)

    def swap(self, one: int, other: int) -> None:
        self._blocks.swap(one, other)

    def see(self, slots: slice) -> bool:
        """Whether any of these slots has a block."""
        here = self._blocks.things(slots)
        self._seen = [_SeenBlocks(seen, here) for seen in self._blocks.grouped(slots) or ()]
        return bool(self._seen)

    def through(self, h: Tensor) -> Tensor:
        """h [rows, tokens, hidden] after these blocks."""
        return self._seen[h.shape[1] > 1].through(h)


class _SeenBlocks:
    """The blocks that a pass sees, for the groups of its rows."""

    def __init__(self, seen: Seen, here: Sequence[Block | None]) -> None:
        """here: the block of each row."""
        self._seen, device = seen, seen.groups.device
        # Where a group has no row, any block does.
        leaders = [here[row] for row in seen.groups.leaders]
        self._eps = torch.tensor([[[block.norm_eps if block else 1.0]] for block in leaders], device=device)
        kinds = [block.activation if block else None for block in leaders]
        there = [kind for kind in ACTIVATIONS if kind in kinds]
        self._masks = [
            (kind, torch.tensor([[[other == kind]] for other in kinds], device=device) if i else None)
            for i, kind in enumerate(there)
        ]

    def through(self, h: Tensor) -> Tensor:
        groups, (down, up) = self._seen.groups, self._seen.tensors
        inner = torch.bmm(rms(groups.gathered(h), self._eps), down.transpose(1, 2))
        active = inner
        for kind, mask in self._masks:
            active = ACTIVATIONS[kind](inner) if mask is None else torch.where(mask, ACTIVATIONS[kind](inner), active)
        return groups.add(h, torch.bmm(active, up).to(h.dtype))
