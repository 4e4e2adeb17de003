"""Decoder layers of Llama's kind, computed with fewer and larger operations than by their own `forward`.

Nothing depends on this: a layer of another kind, or one that turns out to compute something else, keeps its own
forward. On a CPU, and for few tokens a step, it saves the time around the products: q, k and v are one product,
gate and up are another, and kernels compute what stands between (`native_layer.py`), or the whole layer in one call
where the products are theirs as well (`native_decoder.py`). Without kernels, rotary positions are applied to q and k at
once, and one query a row attends by grouped products in float32.

Layers with kernels also run ragged passes: [1, all tokens, hidden], the tokens of one row behind those of the other.
Everything but attention and adapters treats each token by itself, and these two are told whose tokens they are
(`KvCache.see_ragged`). So a pass is one product for each linear however long the rows are, and nothing is padded.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralForCausalLM, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2ForCausalLM, Qwen2RMSNorm

from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.joined import JoinedLinear, product_at
from guideway.workers.engine.kernels.layers.native_decoder import NativeDecoder, NativePasses, Shape
from guideway.workers.engine.kernels.linears.floating_product import FloatingProduct
from guideway.workers.engine.kernels.linears.int8_linear import Int8Linear, Int8Product
from guideway.workers.engine.kernels.linears.packed import PackedLinear, can_pack
from guideway.workers.engine.kernels.native_backend import NotInOneCall, adapters_at
from guideway.workers.engine.kernels.native_layer import NativeLayer
from guideway.workers.engine.model.kv_cache import KvCache
from guideway.workers.engine.model.layer_trial import TOLERANCE, agrees

_LAYERS: Final = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer)
"""They differ in biases and sliding windows, and the engine keeps contexts within the window."""
_MODELS: Final = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM)
"""What these compute around their layers, they compute for each token by itself."""
_NORMS: Final = (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm)
_LINEARS: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                   "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
_MOST_KEYS: Final = 512
"""For more keys, keys and values in float32 cost more memory traffic than grouped products save."""


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
        fast = next((way for way in ways if agrees(layer, way)), None)
        if fast is None:
            return places
        if fast.compute_in_one_call():
            # Tried against torch's products, and only then put in their place.
            if agrees(layer, fast):
                fast.keep_products()
            else:
                fast.compute_in_steps()
        vars(layer)["forward"] = fast
        for joined, members in (
            (fast.qkv, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            (fast.gate_up, ("mlp.gate_proj", "mlp.up_proj")),
        ):
            places |= {f"{name}.{member}": JoinedPlace(joined, index) for index, member in enumerate(members)}
    return places


def runs_ragged(model: PreTrainedModel) -> bool:
    """Whether `model`, after `use_fast_layers`, runs ragged passes: [1, all tokens, …] after `KvCache.see_ragged`."""
    if type(model) not in _MODELS:
        return False
    forwards = [vars(layer).get("forward") for layer in cast(Any, model).model.layers]
    return all(isinstance(forward, FastLayer) and forward.is_ragged for forward in forwards)


class SharedStates:
    """Owner of what all layers of one forward pass derive from its positions and mask; derived once."""

    def __init__(self) -> None:
        self._of: tuple[Tensor, Tensor] | None = None
        self.cos = self.sin = self.mask = torch.empty(0)
        self.passes = NativePasses()

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
        self.dim: int = attention.head_dim
        self._kv_heads = attention.k_proj.out_features // self.dim
        self._heads = attention.q_proj.out_features // self.dim
        self._width: int = mlp.gate_proj.out_features
        self._shared = shared
        self._steps = steps
        self.is_ragged = steps is not None
        """Whether it runs ragged passes, once the cache knows the layer's shapes"""
        self._gates_natively = steps is not None and type(self._act) in {nn.SiLU, SiLUActivation}
        self._linears = (self.qkv, self._o, self.gate_up, self._down)
        self._products: list[FloatingProduct | Int8Product] = []
        self._decoder: NativeDecoder | None = None
        """For ragged passes in one call"""

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
        position_embeddings: cosine and sine, each [rows, tokens, head_dim]. With a `KvCache` the mask is causal; of a
        ragged pass it is not read."""
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
        if self._decoder is not None and isinstance(past_key_values, KvCache) and past_key_values.spans is not None:
            with contextlib.suppress(NotInOneCall):
                adapters = [adapters_at(linear) for linear in self._linears]
                turns, layer = (self._shared.cos, self._shared.sin), self._attention.layer_idx
                return self._decoder(h, *turns, past_key_values, layer, adapters)
        h, normalised = self._norm(h, 0)
        attended = self._o(self._attend(self.qkv(normalised), attention_mask, past_key_values))
        h, normalised = self._norm(h, 1, attended)
        result: Tensor = h + self._down(self._gate(self.gate_up(normalised)))
        return result

    def compute_in_one_call(self) -> bool:
        """Let ragged passes be computed in one call of the kernels, if they have all parts of the layer."""
        if self._steps is None or not self._gates_natively:
            return False
        found = [self.qkv.product, product_at(self._o), self.gate_up.product, product_at(self._down)]
        products = [product for product in found if product is not None]
        if len(products) < len(found):
            return False
        (before, eps), (between, other_eps) = self._norms
        shape = Shape(self._heads, self._kv_heads, self.dim, self._attention.scaling, (eps, other_eps))
        self._decoder = NativeDecoder(self._steps.kernels, shape, (before, between), products, self._shared.passes)
        self._products = products
        return True

    def keep_products(self) -> None:
        """Let the linears use the packed weights of the call, also in passes that are not ragged."""
        for linear, product in zip(self._linears, self._products, strict=True):
            if isinstance(product, FloatingProduct) and product.dtype == torch.bfloat16 and type(linear) is nn.Linear:
                vars(linear)["forward"] = product

    def compute_in_steps(self) -> None:
        """Let the products be called one by one in all passes."""
        self._decoder = None
        for linear in (self._o, self._down):
            if can_pack(linear):
                vars(linear)["forward"] = PackedLinear(linear)

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
        if self._steps is not None and isinstance(cache, KvCache) and cache.spans is not None:
            turns, scale = (self._shared.cos, self._shared.sin), self._attention.scaling
            return self._steps.attend(qkv, *turns, cache, layer, heads=self._heads, scale=scale)
        by_head = qkv.view(rows, tokens, -1, self.dim)
        turning = self._heads + self._kv_heads
        turned = by_head[:, :, :turning].float()
        turned = torch.addcmul(turned * self._shared.cos, turned.roll(self.dim // 2, -1), self._shared.sin)
        new_keys = turned[:, :, self._heads :].to(qkv.dtype).transpose(1, 2)
        keys, values = cache.update(new_keys, by_head[:, :, turning:].transpose(1, 2), layer)
        queries = turned[:, :, : self._heads]
        if tokens == 1 and keys.shape[2] <= _MOST_KEYS:
            return self._attend_one(queries, keys, values).to(qkv.dtype).view(rows, 1, -1)
        attend = ALL_ATTENTION_FUNCTIONS[self._attention.config._attn_implementation]
        queries = queries.to(qkv.dtype).transpose(1, 2)
        out: Tensor = attend(self._attention, queries, keys, values, mask, scaling=self._attention.scaling)[0]
        return out.reshape(rows, tokens, -1)

    def _attend_one(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """softmax(q Kᵀ scale + mask) V for one query a row, in float32; [rows · kv_heads, group, head_dim].

        queries [rows, 1, heads, head_dim]; keys and values [rows, kv_heads, keys, head_dim]. The heads of one group are
        the queries of one product, so that keys and values are read once for all of them.
        """
        grouped = queries.reshape(-1, self._heads // self._kv_heads, self.dim)
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
        all(type(linear) in {nn.Linear, Int8Linear} for linear in linears)
        and all(type(norm) in _NORMS for norm in norms)
        and all(parameter.device.type == "cpu" for parameter in layer.parameters())
        and len({parameter.dtype for parameter in layer.parameters()}) == 1
        and next(layer.parameters()).dtype in TOLERANCE
        and cast(Any, layer).self_attn.config._attn_implementation in ALL_ATTENTION_FUNCTIONS
    )
