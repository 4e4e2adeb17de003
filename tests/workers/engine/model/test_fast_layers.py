"""Fast layers compute what the layers' own forward computes, and only where the layer is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.workers.engine.families import FAMILIES, LLAMA_LIKE, tiny
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

from guideway.workers.engine.kernels import native, native_layer
from guideway.workers.engine.kernels.layers.native_decoder import NativeDecoder
from guideway.workers.engine.kernels.linears import floating_product
from guideway.workers.engine.kernels.native_layer import NativeLayer
from guideway.workers.engine.model.attention import causal_mask
from guideway.workers.engine.model.fast_layers import FastLayer, runs_ragged, use_fast_layers
from guideway.workers.engine.model.kv_cache import KvCache

KNOWN: dict[str, dict[str, Any]] = {
    "llama": {**LLAMA_LIKE, "attention_bias": True},
    "mistral": {**LLAMA_LIKE, "sliding_window": None},
    "qwen2": LLAMA_LIKE,
}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def logits(model: PreTrainedModel, *, ragged: bool = False) -> list[Tensor]:
    """Of a prefill of rows with other lengths, and of two steps after it; [rows, tokens, vocabulary]."""
    cache = KvCache(max_rows=3, max_bytes=2**24)
    # One token of one row tells the cache the layers' shapes.
    first = torch.zeros(1, 1, dtype=torch.long)
    cache.reserve(0, 1)
    cache.see(slice(0, 1), first, 1)
    model(first, attention_mask=causal_mask(first, 1, model.dtype), position_ids=first, past_key_values=cache)
    cache.leave(0, 0)
    for slot in range(3):
        cache.reserve(slot, 64)
    random = torch.Generator().manual_seed(1)
    steps = [torch.arange(7).expand(3, -1), torch.tensor([[7], [3], [5]]), torch.tensor([[8], [4], [6]])]
    found = []
    for positions in steps:
        longest = int(positions.max()) + 1
        ids = torch.randint(0, 200, positions.shape, generator=random)
        mask = causal_mask(positions, longest, model.dtype)
        if ragged:
            cache.see_ragged(slice(0, 3), positions[:, 0].tolist(), [positions.shape[1]] * 3)
            ids, at = ids.view(1, -1), positions.reshape(1, -1)
        else:
            cache.see(slice(0, 3), positions, longest)
            at = positions
        some = model(ids, attention_mask=mask, position_ids=at, past_key_values=cache).logits
        found.append(some.reshape(*positions.shape, -1).clone())
    return found


def fast(model: PreTrainedModel) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(vars(module).get("forward"), FastLayer)]


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "kernels_for", lambda model: None)


@pytest.mark.parametrize("by_kernels", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("family", KNOWN)
@torch.inference_mode()
def test_fast_layers_equal_their_own_forward(
    family: str,
    dtype: torch.dtype,
    by_kernels: bool,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if by_kernels:
        request.getfixturevalue("kernels")
    else:
        without_kernels(monkeypatch)
    model = tiny(family, tokenizer, **KNOWN[family]).to(dtype)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    own = logits(model)
    places = use_fast_layers(model)
    assert fast(model) == ["model.layers.0", "model.layers.1"]
    assert {name.rpartition(".")[2] for name in places} == {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}
    for ragged in {False, by_kernels}:
        for ours, theirs in zip(logits(model, ragged=ragged), own, strict=True):
            assert (ours - theirs).norm() < TOLERANCE[dtype] * theirs.norm()
    assert runs_ragged(model) is by_kernels
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


@torch.inference_mode()
def test_many_keys_are_attended_by_the_models_own_attention(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama", tokenizer)
    own = logits(model)
    without_kernels(monkeypatch)
    use_fast_layers(model)
    monkeypatch.setattr("guideway.workers.engine.model.fast_layers._MOST_KEYS", 8)
    for ours, theirs in zip(logits(model), own, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - KNOWN.keys()))
def test_other_layers_keep_their_forward(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny(family, tokenizer)
    assert use_fast_layers(model) == {}
    assert fast(model) == []


def test_a_layer_that_computes_something_else_keeps_its_forward(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would be if transformers changed what the layer does."""
    model = tiny("llama", tokenizer)
    own = type(model.model.layers[0]).forward
    monkeypatch.setattr(type(model.model.layers[0]), "forward", lambda *args, **given: own(*args, **given) * 1.01)
    assert use_fast_layers(model) == {}
    assert fast(model) == []


def test_a_kernel_that_computes_something_else_is_not_used(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a compiler might make it; the layers are fast all the same, by operations of torch."""
    kernel = NativeLayer.attend
    monkeypatch.setattr(NativeLayer, "attend", lambda *args, **given: kernel(*args, **given) * 1.1)
    model = tiny("llama", tokenizer)
    with torch.inference_mode():
        own = logits(model)
        use_fast_layers(model)
        assert fast(model) == ["model.layers.0", "model.layers.1"]
        assert not runs_ragged(model)
        for ours, theirs in zip(logits(model), own, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("kernels")
def test_a_call_that_computes_something_else_is_made_in_steps(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_one_call = NativeDecoder.__call__
    monkeypatch.setattr(NativeDecoder, "__call__", lambda *args: in_one_call(*args) * 1.1)
    model = tiny("llama", tokenizer)
    with torch.inference_mode():
        own = logits(model)
        use_fast_layers(model)
        assert runs_ragged(model)
        for ours, theirs in zip(logits(model, ragged=True), own, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("kernels")
def test_a_product_that_computes_something_else_is_not_used(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried against torch's: a layer that uses it already would agree with itself."""
    model = tiny("llama", tokenizer).to(torch.bfloat16)
    packs, out = floating_product._packed, model.config.hidden_size
    monkeypatch.setattr(floating_product, "is_faster", lambda *_: True)
    monkeypatch.setattr(floating_product, "_packed", lambda w: packs(w) * 3 if len(w) == out else packs(w))
    with torch.inference_mode():
        own = logits(model)
        use_fast_layers(model)
        assert fast(model) == ["model.layers.0", "model.layers.1"]
        for ragged in {False, runs_ragged(model)}:
            for ours, theirs in zip(logits(model, ragged=ragged), own, strict=True):
                assert (ours - theirs).norm() < TOLERANCE[torch.bfloat16] * theirs.norm()


def test_heads_that_the_kernels_are_not_made_for_are_attended_by_torch(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_layer, "_MOST_DIM", 8)
    model = tiny("llama", tokenizer)
    use_fast_layers(model)
    assert fast(model) == ["model.layers.0", "model.layers.1"]
    assert not runs_ragged(model)


def test_gradients_go_through_a_layers_own_forward(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny("llama", tokenizer)
    use_fast_layers(model)
    embeddings = torch.randn(1, 4, model.config.hidden_size)
    model.model.layers[0].self_attn.k_proj.weight.requires_grad_()
    positions = torch.arange(4)[None]
    mask = causal_mask(positions, 4, model.dtype)
    given = {"attention_mask": mask, "position_ids": positions, "past_key_values": DynamicCache()}
    model(inputs_embeds=embeddings, **given).logits.sum().backward()
    found = model.model.layers[0].self_attn.k_proj.weight.grad
    assert found is not None
    assert found.abs().sum() > 0


@torch.inference_mode()
def test_others_may_use_the_model_as_before(tokenizer: PreTrainedTokenizerFast) -> None:
    """Without the engine's mask and cache, layers run their own forward."""
    model = tiny("llama", tokenizer)
    ids = torch.arange(12).view(2, 6)
    own = model(ids).logits
    use_fast_layers(model)
    assert torch.equal(model(ids).logits, own)
