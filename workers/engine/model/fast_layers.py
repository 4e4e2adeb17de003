"""Decoder layers of Llama's kind, computed with fewer and larger operations than by their own `forward`.

Nothing depends on this: a layer of another kind, or one that turns out to compute something else, keeps its own
forward. On a CPU, and for few tokens a step, it saves the time around the products: q, k and v are one product,
gate and up are another, and kernels compute what stands between (`native_layer.py`). Without kernels, rotary positions
are applied to q and k at once, and one query a row attends by grouped products in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm

from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.joined import JoinedLinear
from guideway.workers.engine.kernels.native_layer import NativeLayer
from guideway.workers.engine.model.attention import causal_mask
from guideway.workers.engine.model.kv_cache import KvCache

_LAYERS: Final = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer)
"""They differ in biases and sliding windows, and the engine keeps contexts within the window."""
_NORMS: Final = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm)
_LINEARS: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                   "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
_MOST_KEYS: Final = 512
"""For more keys, keys and values in float32 cost more memory traffic than grouped products save; and a kernel leaves
threads idle where these are more than the heads of keys."""
_TRIAL_TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class JoinedPlace:
    """The place where adapters of a joined linear module act: it is member `index` of `joined`."""

    joined: JoinedLinear
    index: int


def use_fast_layers(model: PreTrainedModel) -> dict[str, JoinedPlace]:
    """Let the decoder layers of `model` compute the fast way, where they can.

    Returns the places of their joined linears, by the linears' names.
    """
    places: dict[str, JoinedPlace] = {}
    shared = SharedStates()
    kernels = native.kernels_for(model)
    steps = None if kernels is None else NativeLayer(kernels)
    for name, layer in model.named_modules():
        if not _is_known(layer):
            continue
        ways = (FastLayer(layer, shared, by) for by in ((None,) if steps is None else (steps, None)))
        fast = next((way for way in ways if _agrees(layer, way)), None)
        if fast is None:
            return places
        vars(layer)["forward"] = fast
        for joined, members in (
            (fast.qkv, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            (fast.gate_up, ("mlp.gate_proj", "mlp.up_proj")),
        ):
            places |= {f"{name}.{member}": JoinedPlace(joined, index) for index, member in enumerate(members)}
    return places


class SharedStates:
    """Owner of what all layers of one forward pass derive from its positions and mask; derived once."""

    def __init__(self) -> None:
        self._of: tuple[Tensor, Tensor] | None = None
        self.cos = self.sin = self.mask = torch.empty(0)

    def see(self, cos: Tensor, sin: Tensor, mask: Tensor, kv_heads: int) -> None:
        """cos and sin [rows, tokens, head_dim]; mask [rows, 1, tokens, keys], added to the scores.

        `sin` becomes such that rotating is x ⊙ cos + roll(x, head_dim / 2) ⊙ sin, and both get a dimension for heads.
        """
        if self._of is not None and self._of[0] is cos and self._of[1] is mask:
            return
        self._of = cos, mask
        half = sin.shape[-1] // 2
        self.cos = cos.float().contiguous()[:, :, None]
        self.sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1).float()[:, :, None]
        if mask.shape[2] == 1:
            # [rows · kv_heads, 1, keys]
            self.mask = mask.float().expand(-1, kv_heads, -1, -1).flatten(0, 1)


class FastLayer:
    """h ← h + O attend(q, k, v); h ← h + D (act(gate) ⊙ up), each part from a normalised h; stands in for `forward`.

    Holds no weights but packed copies. Adapters act at `qkv` and `gate_up` and, by hooks, at o and down.
    """

    def __init__(self, layer: nn.Module, shared: SharedStates, steps: NativeLayer | None) -> None:
        """layer: one that `_is_known`. steps: the kernels for what stands between the products, if there are any."""
        attention, mlp = cast(Any, layer).self_attn, cast(Any, layer).mlp
        self.qkv = JoinedLinear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.gate_up = JoinedLinear([mlp.gate_proj, mlp.up_proj])
        self._layer = layer
        self._attention = attention
        self._o, self._down, self._act = attention.o_proj, mlp.down_proj, mlp.act_fn
        self._norms = [(cast(Any, n).weight, cast(Any, n).variance_epsilon) for n in
                       (cast(Any, layer).input_layernorm, cast(Any, layer).post_attention_layernorm)]  # fmt: skip
        self._dim: int = attention.head_dim
        self._kv_heads = attention.k_proj.out_features // self._dim
        self._heads = attention.q_proj.out_features // self._dim
        self._width: int = mlp.gate_proj.out_features
        self._shared = shared
        self._steps = steps
        self._gates_natively = steps is not None and type(self._act) in {nn.SiLU, SiLUActivation}

    def __call__(
        self,
        hidden_states: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Cache | None = None,
        **others: Any,
    ) -> Tensor:
        """hidden_states [rows, tokens, hidden]; attention_mask [rows, 1, tokens, keys], added to the scores;
        position_embeddings: cosine and sine, each [rows, tokens, head_dim]. With a `KvCache` the mask is causal."""
        h = hidden_states
        if (
            attention_mask is None
            or not attention_mask.is_floating_point()
            or past_key_values is None
            or torch.is_grad_enabled()
        ):
            # It is not the engine that runs the model here.
            own: Tensor = type(self._layer).forward(
                self._layer,
                h,
                attention_mask=attention_mask,
                position_embeddings=position_embeddings,
                past_key_values=past_key_values,
                **others,
            )
            return own
        self._shared.see(*position_embeddings, attention_mask, self._kv_heads)
        h, normalised = self._norm(h, 0)
        attended = self._o(self._attend(self.qkv(normalised), attention_mask, past_key_values))
        h, normalised = self._norm(h, 1, attended)
        result: Tensor = h + self._down(self._gate(self.gate_up(normalised)))
        return result

    def _norm(self, h: Tensor, which: int, delta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """h + delta, or h without one, and w ⊙ that / √(mean(that²) + eps)"""
        weight, eps = self._norms[which]
        if self._steps is not None:
            return self._steps.norm(h, weight, eps, delta)
        total = h if delta is None else h + delta
        return total, functional.rms_norm(total, weight.shape, weight, eps)

    def _gate(self, both: Tensor) -> Tensor:
        """act(g) ⊙ u of both = [g, u] side by side"""
        if self._steps is not None and self._gates_natively:
            return self._steps.gate(both)
        gated: Tensor = self._act(both[..., : self._width]) * both[..., self._width :]
        return gated

    def _attend(self, qkv: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """softmax(scale q Kᵀ + mask) V [rows, tokens, heads · head_dim]; qkv [rows, tokens, (heads + 2 kv) · dim]."""
        rows, tokens, _ = qkv.shape
        layer: int = self._attention.layer_idx
        if tokens == 1 and self._steps is not None and isinstance(cache, KvCache) and self._suits(cache, layer, mask):
            turns, scale = (self._shared.cos, self._shared.sin), self._attention.scaling
            return self._steps.attend_one(qkv, *turns, cache, layer, heads=self._heads, scale=scale)
        by_head = qkv.view(rows, tokens, -1, self._dim)
        turning = self._heads + self._kv_heads
        turned = by_head[:, :, :turning].float()
        turned = torch.addcmul(turned * self._shared.cos, turned.roll(self._dim // 2, -1), self._shared.sin)
        new_keys = turned[:, :, self._heads :].to(qkv.dtype).transpose(1, 2)
        keys, values = cache.update(new_keys, by_head[:, :, turning:].transpose(1, 2), layer)
        queries = turned[:, :, : self._heads]
        if tokens == 1 and keys.shape[2] <= _MOST_KEYS:
            return self._attend_one(queries, keys, values).to(qkv.dtype).view(rows, 1, -1)
        attend = ALL_ATTENTION_FUNCTIONS[self._attention.config._attn_implementation]
        queries = queries.to(qkv.dtype).transpose(1, 2)
        out: Tensor = attend(self._attention, queries, keys, values, mask, scaling=self._attention.scaling)[0]
        return out.reshape(rows, tokens, -1)

    def _suits(self, cache: KvCache, layer: int, mask: Tensor) -> bool:
        """Whether the kernel for one query a row can be used, and keeps all threads busy where there are many keys."""
        rows, keys = mask.shape[0], mask.shape[-1]
        busy = rows * self._kv_heads >= torch.get_num_threads()
        return cache.knows(layer) and (busy or keys <= _MOST_KEYS)

    def _attend_one(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """softmax(q Kᵀ scale + mask) V for one query a row, in float32; [rows · kv_heads, group, head_dim].

        queries [rows, 1, heads, head_dim]; keys and values [rows, kv_heads, keys, head_dim]. The heads of one group are
        the queries of one product, so that keys and values are read once for all of them.
        """
        grouped = queries.reshape(-1, self._heads // self._kv_heads, self._dim)
        k, v = keys.float().flatten(0, 1), values.float().flatten(0, 1)
        scores = torch.baddbmm(self._shared.mask, grouped, k.transpose(1, 2), alpha=self._attention.scaling)
        return torch.bmm(scores.softmax(-1), v)


def _is_known(layer: nn.Module) -> bool:
    """Whether `layer` is of Llama's kind in all its parts, and on a CPU, where the fast way is the faster one."""
    if type(layer) not in _LAYERS:
        return False
    linears = [layer.get_submodule(name) for name in _LINEARS]
    norms = [layer.get_submodule(name) for name in ("input_layernorm", "post_attention_layernorm")]
    return (
        all(type(linear) is nn.Linear for linear in linears)
        and all(type(norm) in _NORMS for norm in norms)
        and all(parameter.device.type == "cpu" for parameter in layer.parameters())
        and len({parameter.dtype for parameter in layer.parameters()}) == 1
        and next(layer.parameters()).dtype in _TRIAL_TOLERANCE
        and cast(Any, layer).self_attn.config._attn_implementation in ALL_ATTENTION_FUNCTIONS
    )


class _OneLayer(KvCache):
    """A cache for a trial of one layer, whatever its number."""

    def knows(self, layer: int) -> bool:
        return super().knows(0)

    def kept(self, layer: int) -> tuple[Tensor, Tensor]:
        return super().kept(0)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        return super().update(key_states, value_states, 0)


@torch.inference_mode()
def _agrees(layer: nn.Module, fast: FastLayer) -> bool:
    """Whether both compute the same from random states, with a cache as the engine has it.

    A version of transformers may change what a layer does, and a compiler may translate a kernel wrongly.
    """
    random = torch.Generator().manual_seed(0)
    weight = cast(Any, layer).input_layernorm.weight
    own_way, our_way = (_OneLayer(max_rows=2, max_tokens=8, max_bytes=2**24) for _ in range(2))
    # The first pass tells the caches the layer's shapes; then some tokens; then one a row, the rows at other positions.
    for positions in (torch.tensor([[0]]), torch.tensor([[0, 1, 2]] * 2), torch.tensor([[3], [1]])):
        rows, tokens = positions.shape
        keys = int(positions.max()) + 1
        h = torch.randn(rows, tokens, len(weight), generator=random).to(weight.dtype)
        angles = torch.rand(rows, tokens, fast._dim // 2, generator=random).repeat(1, 1, 2) * 6
        given: dict[str, Any] = {
            "attention_mask": causal_mask(positions, keys, weight.dtype),
            "position_embeddings": (angles.cos().to(weight.dtype), angles.sin().to(weight.dtype)),
        }
        found = []
        for forward, cache in ((partial(type(layer).forward, layer), own_way), (fast, our_way)):
            if rows == 2:
                cache.reserve(2, 8)
            cache.see(slice(0, rows), positions, keys)
            found.append(forward(h, past_key_values=cache, **given))
        own, ours = found
        # Not a number is no agreement either.
        if not (own - ours).norm() <= _TRIAL_TOLERANCE[weight.dtype] * (own - h).norm():
            return False
    return True
