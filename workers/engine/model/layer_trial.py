"""Whether a fast way to compute a decoder layer gives what the layer itself gives: tried when a model is loaded."""

from __future__ import annotations

from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import Cache

from guideway.workers.engine.kernels.linears.int8_linear import Int8Linear
from guideway.workers.engine.model.attention import causal_mask
from guideway.workers.engine.model.kv_cache import KvCache

TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Of what a layer adds to its input, by its dtype"""
_INT8_TOLERANCE: Final = 0.15
"""Inputs that differ by a rounding may be next to another of the 255 numbers of 8 bits. SmolLM2 comes to 0.08."""


class FastWay(Protocol):
    """A stand-in for a layer's forward."""

    is_ragged: bool
    dim: int

    def __call__(
        self,
        hidden_states: Tensor,
        *,
        attention_mask: Tensor | None,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Cache | None,
    ) -> Tensor:
        """As the layer is called by its model."""


class _OneLayer(KvCache):
    """A cache for a trial of one layer, whatever its number."""

    def knows(self, layer: int) -> bool:
        return super().knows(0)

    def kept(self, layer: int) -> tuple[Tensor, Tensor]:
        return super().kept(0)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        return super().update(key_states, value_states, 0)


@torch.inference_mode()
def agrees(layer: nn.Module, fast: FastWay) -> bool:
    """Whether both compute the same from random states, with a cache as the engine has it.

    A version of transformers may change what a layer does, and a compiler may translate a kernel wrongly.
    """
    random = torch.Generator().manual_seed(0)
    weight = cast(Any, layer).input_layernorm.weight
    in_int8 = any(isinstance(module, Int8Linear) for module in layer.modules())
    tolerance = _INT8_TOLERANCE if in_int8 else TOLERANCE[weight.dtype]
    own_way, our_way = (_OneLayer(max_rows=2, max_bytes=2**24) for _ in range(2))
    for cache in (own_way, our_way):
        cache.reserve(0, 1)
    # The first pass tells the caches the layer's shapes; then some tokens; then one a row, the rows at other positions.
    for positions in (torch.tensor([[0]]), torch.tensor([[0, 1, 2]] * 2), torch.tensor([[3], [1]])):
        rows, tokens = positions.shape
        keys = int(positions.max()) + 1
        h = torch.randn(rows, tokens, len(weight), generator=random).to(weight.dtype)
        angles = torch.rand(rows, tokens, fast.dim // 2, generator=random).repeat(1, 1, 2) * 6
        cos, sin = angles.cos().to(weight.dtype), angles.sin().to(weight.dtype)
        mask = causal_mask(positions, keys, weight.dtype)
        for slot in range(rows):
            own_way.reserve(slot, 4)
            our_way.reserve(slot, 4)
        own_way.see(slice(0, rows), positions, keys)
        own = type(layer).forward(
            layer, h, past_key_values=own_way, attention_mask=mask, position_embeddings=(cos, sin)
        )
        ragged = fast.is_ragged and our_way.knows(0)
        flat = (1, -1) if ragged else (rows, tokens)
        if ragged:
            our_way.see_ragged(slice(0, rows), positions[:, 0].tolist(), [tokens] * rows)
        else:
            our_way.see(slice(0, rows), positions, keys)
        states, *turns = (x.reshape(*flat, x.shape[-1]) for x in (h, cos, sin))
        try:
            ours = fast(states, past_key_values=our_way, attention_mask=mask, position_embeddings=(turns[0], turns[1]))
        except ValueError:
            # The kernels are not made for heads of this size.
            return False
        # Not a number is no agreement either.
        if not (own - ours.view_as(own)).norm() <= tolerance * (own - h).norm():
            return False
    return True
