"""A layer in one call of the kernels against the same layer in steps, with adapters and without."""

from __future__ import annotations

import ctypes
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from tests.workers.engine.families import LLAMA_LIKE, tiny
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from guideway.workers.engine.guidance.batched_adapters import Adapter, BatchedAdapters, fastest_backend
from guideway.workers.engine.guidance.ia3 import Ia3, Scales
from guideway.workers.engine.guidance.lora import Factors, Lora
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.layers.native_decoder import NativeDecoder
from guideway.workers.engine.kernels.linears import floating_product
from guideway.workers.engine.kernels.linears.int8_linear import keep_linears_in_int8
from guideway.workers.engine.model.fast_layers import FastLayer, use_fast_layers
from guideway.workers.engine.model.kv_cache import KvCache

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
ROWS = 5
PASSES = [[7, 3, 40, 1, 5], [1, 1, 1, 1, 1], [1, 4, 1, 1, 30]]
"""The tokens of each row"""
PLACES = ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")
NARROW = {"head_dim": 10, "hidden_size": 68, "intermediate_size": 50}
"""Sizes that no register divides"""


@pytest.fixture
def make(
    kernels: ctypes.CDLL, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., PreTrainedModel]:
    # Also where torch's products are the faster ones.
    monkeypatch.setattr(floating_product, "is_faster", lambda kernels, dtype: True)

    def made(dtype: torch.dtype, family: str = "llama", int8: bool = False, **settings: int | bool) -> PreTrainedModel:
        model = tiny(family, tokenizer, **{**LLAMA_LIKE, **settings}).to(dtype)
        if int8:
            keep_linears_in_int8(model)
        return model

    return made


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    usual = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(usual)


@torch.inference_mode()
def logits(model: PreTrainedModel, adapters: BatchedAdapters | None = None) -> list[Tensor]:
    """Of ragged passes, one after the other."""
    cache, at = KvCache(max_rows=ROWS, max_bytes=2**26), torch.zeros(1, 1, dtype=torch.long)
    mask = torch.zeros(1, 1, 1, 1, dtype=model.dtype)
    cache.reserve(0, 1)
    cache.see(slice(0, 1), at, 1)
    if adapters is not None:
        adapters.see(slice(0, 1))
    model(at, attention_mask=mask, position_ids=at, past_key_values=cache)
    cache.leave(0, 0)
    begins, found, chance = [0] * ROWS, [], torch.Generator().manual_seed(1)
    for counts in PASSES:
        for slot in range(ROWS):
            cache.reserve(slot, begins[slot] + counts[slot])
        cache.see_ragged(slice(0, ROWS), begins, counts)
        if adapters is not None:
            adapters.see(slice(0, ROWS), counts)
        each = [range(begin, begin + count) for begin, count in zip(begins, counts, strict=True)]
        ids = torch.randint(0, 200, (1, sum(counts)), generator=chance)
        positions = torch.tensor([[*itertools.chain(*each)]])
        given = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache, "use_cache": True}
        found.append(model(ids, **given).logits.clone())
        begins = [begin + count for begin, count in zip(begins, counts, strict=True)]
    return found


def layers(model: PreTrainedModel) -> list[FastLayer]:
    return [layer for module in model.modules() if isinstance(layer := vars(module).get("forward"), FastLayer)]


def in_steps(model: PreTrainedModel) -> None:
    for layer in layers(model):
        layer.compute_in_steps()


def alike(model: PreTrainedModel, adapters: BatchedAdapters | None, tolerance: float) -> None:
    """Both ways give the same, whose kernels differ in nothing but the products of floating numbers."""
    ours = logits(model, adapters)
    in_steps(model)
    for one, other in zip(ours, logits(model, adapters), strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers that are computed in one call."""
    calls: list[int] = []
    call = NativeDecoder.__call__

    def counted(decoder: NativeDecoder, *given: object) -> Tensor:
        out = call(decoder, *given)  # type: ignore[arg-type]
        calls.append(1)
        return out

    monkeypatch.setattr(NativeDecoder, "__call__", counted)
    return calls


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "settings",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"family": "qwen2"},
        NARROW,
        {"num_key_value_heads": 4},
        {"int8": True},
    ],
    ids=str,
)
def test_one_call_equals_steps(
    make: Callable[..., PreTrainedModel],
    threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, int | bool],
    dtype: torch.dtype,
    count: int,
) -> None:
    threads(count)
    model = make(dtype, **settings)
    use_fast_layers(model)
    calls = counting(monkeypatch)
    alike(model, None, TOLERANCE[dtype])
    assert len(calls) == 2 * len(PASSES)


def adapters_of(model: PreTrainedModel, places: Sequence[str], chance: random.Random) -> list[Adapter]:
    """LoRAs and IA3 at some linears of both layers."""
    found: list[Adapter] = []
    for name, module in model.named_modules():
        place = name.rpartition(".")[2]
        if place not in places or not isinstance(module, nn.Linear):
            continue
        into, out = module.in_features, module.out_features
        rank = chance.choice([1, 3, 8])
        dora = torch.rand(out) + 0.5 if chance.random() < 0.3 else None
        found.append(Lora({name: Factors(torch.randn(rank, into) * 0.1, torch.randn(rank, out) * 0.1, dora)}))
        if place in {"o_proj", "down_proj"}:
            found.append(Ia3({name: Scales(into=torch.rand(into) + 0.5)}))
        elif chance.random() < 0.5:
            found.append(Ia3({name: Scales(out=torch.rand(out) + 0.5)}))
    return found


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("int8", [False, True])
def test_adapters_act_in_one_call_as_in_steps(
    make: Callable[..., PreTrainedModel],
    threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    int8: bool,
    dtype: torch.dtype,
    count: int,
) -> None:
    threads(count)
    torch.manual_seed(3)
    model, chance = make(dtype, int8=int8), random.Random(4)
    places = use_fast_layers(model)
    batched = BatchedAdapters(model, max_rows=ROWS, new_backend=fastest_backend(model), places=places)
    bare = logits(model)
    for slot in range(ROWS):
        batched.seat(slot, adapters_of(model, chance.sample(PLACES, slot), chance))
    calls = counting(monkeypatch)
    assert not torch.allclose(logits(model, batched)[0], bare[0], rtol=0.1)
    assert len(calls) == 2 * len(PASSES)
    # Numbers next to another of the 255 of 8 bits are rounded there where sums differ in their last bits.
    alike(model, batched, 0.1 if int8 else 3 * TOLERANCE[dtype])


def test_what_one_call_does_not_know_is_called_in_steps(
    make: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales of what goes into one of several joined linears, and hooks of others."""
    model = make(torch.float32)
    places = use_fast_layers(model)
    batched = BatchedAdapters(model, max_rows=ROWS, new_backend=fastest_backend(model), places=places)
    name = "model.layers.0.mlp.up_proj"
    batched.seat(0, [Ia3({name: Scales(into=torch.rand(model.get_submodule(name).in_features) + 0.5)})])
    for slot in range(1, ROWS):
        batched.seat(slot, [])
    calls = counting(monkeypatch)
    ours = logits(model, batched)
    assert len(calls) == len(PASSES)
    seen: list[int] = []
    hook = model.get_submodule("model.layers.1.mlp.down_proj").register_forward_hook(lambda *_: seen.append(1))
    again = logits(model, batched)
    hook.remove()
    assert len(calls) == len(PASSES)
    assert len(seen) == len(PASSES) + 1
    for one, other in zip(ours, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_row_computes_the_same_numbers_alone_and_beside_others(make: Callable[..., PreTrainedModel]) -> None:
    """Bit for bit in bfloat16 too, as long as it has the same tokens in a pass."""
    model = make(torch.bfloat16)
    use_fast_layers(model)
    decoder = layers(model)[0]
    hidden = model.config.hidden_size
    h, angles = torch.randn(1, 9, hidden).bfloat16(), torch.rand(1, 9, 8).repeat(1, 1, 2) * 6

    def run(rows: Sequence[int]) -> Tensor:
        cache = KvCache(max_rows=9, max_bytes=2**24)
        first = torch.zeros(1, 2, 1, 16).bfloat16()
        cache.reserve(0, 1)
        cache.see(slice(0, 1), torch.zeros(1, 1, dtype=torch.long), 1)
        cache.update(first, first, 0)
        cache.leave(0, 0)
        for slot in range(len(rows)):
            cache.reserve(slot, 1)
        cache.see_ragged(slice(0, len(rows)), [0] * len(rows), [1] * len(rows))
        turns = angles[:, rows].cos().bfloat16(), angles[:, rows].sin().bfloat16()
        mask = torch.zeros(1, 1, 1, 1).bfloat16()
        with torch.inference_mode():
            return decoder(h[:, rows], attention_mask=mask, position_embeddings=turns, past_key_values=cache)

    together = run(range(9))
    for rows in ([4], [8, 0], [1, 2, 3, 5, 6, 7]):
        assert torch.equal(run(rows), together[:, rows])


def test_kernels_that_are_given_too_few_tokens_are_not_called(make: Callable[..., PreTrainedModel]) -> None:
    model = make(torch.float32)
    use_fast_layers(model)
    logits(model)
    cache = KvCache(max_rows=2, max_bytes=2**24)
    first = torch.zeros(1, 2, 1, 16)
    cache.reserve(0, 1)
    cache.see(slice(0, 1), torch.zeros(1, 1, dtype=torch.long), 1)
    cache.update(first, first, 0)
    cache.see_ragged(slice(0, 1), [0], [1])
    turns = torch.zeros(1, 2, 16), torch.zeros(1, 2, 16)
    decoder = layers(model)[0]
    mask = torch.zeros(1, 1, 1, 1)
    for tokens, hidden in ((2, 64), (1, 32)):
        with torch.inference_mode(), pytest.raises((ValueError, RuntimeError)):
            decoder(
                torch.zeros(1, tokens, hidden),
                attention_mask=mask,
                position_embeddings=(turns[0][:, :1], turns[1][:, :1]),
                past_key_values=cache,
            )
    assert native.kernels() is not None
