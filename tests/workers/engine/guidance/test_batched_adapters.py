"""Batched adapters against a plain loop over the rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from guideway.workers.engine.guidance.batched_adapters import Adapter, BatchedAdapters, NewBackend
from guideway.workers.engine.guidance.ia3 import Ia3, Scales
from guideway.workers.engine.guidance.lora import Factors, Lora
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.joined import JoinedLinear
from guideway.workers.engine.kernels.native_backend import NativeBackend
from guideway.workers.engine.kernels.torch_backend import TorchBackend
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.model.fast_layers import JoinedPlace

MODULE = "model.layers.1.self_attn.q_proj"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
POPULARITY: dict[str, Callable[[int], list[int | None]]] = {
    "distinct": lambda rows: list(range(rows)),
    "uniform": lambda rows: [i % 3 for i in range(rows)],
    "zipf": lambda rows: random.Random(0).choices(range(rows), [1 / (i + 1) ** 1.5 for i in range(rows)], k=rows),
    "identical": lambda rows: [0] * rows,
    "skewed": lambda rows: [0] * (rows - 2) + [1, None],
}
OF_KIND: dict[str, Callable[[int], list[str]]] = {
    "lora": lambda i: ["lora"],
    "dora": lambda i: ["dora"],
    "ia3, in": lambda i: ["into"],
    "ia3, out": lambda i: ["out"],
    "any": lambda i: random.Random(i).choices(["lora", "dora", "into", "out"], k=1 + i % 4),
}


@pytest.fixture(scope="module", params=["torch", "C"])
def new_backend(request: pytest.FixtureRequest) -> NewBackend:
    if request.param == "torch":
        return TorchBackend
    library = native.kernels()
    if library is None:
        pytest.skip("no C compiler")
    return lambda module, max_rows: NativeBackend(module, max_rows, library)


def reference(module: nn.Module, x: Tensor, rows: Sequence[Sequence[Adapter]]) -> Tensor:
    """One row after the other, one adapter after the other, in float64; x [rows, tokens, in]."""
    weight = module.weight.double() if isinstance(module, nn.Linear) else module.weight.double().T
    bias = torch.zeros(len(weight), dtype=torch.float64) if module.bias is None else module.bias.double()
    result = []
    for adapters, one in zip(rows, x.double(), strict=True):
        scales = [adapter.scales[MODULE] for adapter in adapters if isinstance(adapter, Ia3)]
        for s in scales:
            one = one if s.into is None else one * s.into.double()  # noqa: PLW2901
        y = one @ weight.T + bias
        for f in [adapter.factors[MODULE] for adapter in adapters if isinstance(adapter, Lora)]:
            y = y if f.dora_scale is None else (y - bias) * f.dora_scale.double() + bias
            y = y + one @ f.a.double().T @ f.b.double()
        for s in scales:
            y = y if s.out is None else y * s.out.double()
        result.append(y)
    return torch.stack(result)


def adapter(kind: str, rank: int, size: tuple[int, int]) -> Adapter:
    into, out = size
    if kind in {"lora", "dora"}:
        scale = torch.rand(out) + 0.5 if kind == "dora" else None
        return Lora({MODULE: Factors(torch.randn(rank, into) * 0.1, torch.randn(rank, out) * 0.1, scale)})
    return Ia3({MODULE: Scales(into=torch.rand(into) + 0.5) if kind == "into" else Scales(out=torch.rand(out) + 0.5)})


def seated(model: PreTrainedModel, rows: Sequence[Sequence[Adapter]], new_backend: NewBackend) -> BatchedAdapters:
    batched = BatchedAdapters(model, max_rows=9, new_backend=new_backend)
    for slot, adapters in enumerate(rows):
        batched.seat(slot, adapters)
    return batched


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("kind", OF_KIND)
@pytest.mark.parametrize("popularity", POPULARITY)
@torch.inference_mode()
def test_batched_adapters_equal_a_loop(
    base: BaseModel, new_backend: NewBackend, popularity: str, kind: str, tokens: int, dtype: torch.dtype
) -> None:
    model = base.model.to(dtype)
    module = model.get_submodule(MODULE)
    module.bias = nn.Parameter(torch.randn(module.out_features, dtype=dtype), requires_grad=False)
    size = module.in_features, module.out_features
    shelf = [[adapter(k, 1 + 5 * i % 13, size) for k in OF_KIND[kind](i)] for i in range(9)]
    rows = [[] if i is None else shelf[i] for i in POPULARITY[popularity](9)]
    seated(model, rows, new_backend).see(slice(0, 9))
    x = torch.randn(9, tokens, module.in_features).to(dtype)
    given = x.clone()
    expected = reference(module, x, rows)
    torch.testing.assert_close(module(x).double(), expected, rtol=TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])
    assert torch.equal(x, given)


@torch.inference_mode()
def test_rows_leave_and_come_and_only_the_slots_seen_matter(base: BaseModel, new_backend: NewBackend) -> None:
    module = base.model.get_submodule(MODULE)
    size = module.in_features, module.out_features
    rows = [
        [adapter("lora", 2, size), adapter("into", 1, size)],
        [adapter("dora", 12, size)],
        [],
        [adapter("lora", 2, size), adapter("lora", 5, size)],
        [adapter("out", 1, size)],
    ]
    batched = seated(base.model, rows, new_backend)
    chance = random.Random(1)
    x = torch.randn(9, 3, module.in_features)
    for _ in range(60):
        first, stop = sorted(chance.sample(range(len(rows) + 1), 2)) if rows else (0, 0)
        batched.see(slice(first, stop))
        if stop > first:
            expected = reference(module, x[: stop - first], rows[first:stop])
            torch.testing.assert_close(module(x[: stop - first]).double(), expected, rtol=1e-5, atol=1e-5)
        if len(rows) < 9 and chance.random() < 0.5:
            rows.append([adapter(k, chance.randint(1, 20), size) for k in OF_KIND["any"](chance.randint(0, 99))])
            batched.seat(len(rows) - 1, rows[-1])
        elif len(rows) > 1 and chance.random() < 0.5:
            one, other = chance.sample(range(len(rows)), 2)
            batched.swap(one, other)
            rows[one], rows[other] = rows[other], rows[one]
        elif rows:
            slot = chance.randrange(len(rows))
            batched.leave(slot, len(rows) - 1)
            rows[slot] = rows[-1]
            rows.pop()


def test_a_module_carries_hooks_only_while_a_row_uses_them(base: BaseModel, new_backend: NewBackend) -> None:
    module = base.model.get_submodule(MODULE)
    size = module.in_features, module.out_features
    batched = seated(base.model, [[adapter("lora", 2, size)], [adapter("into", 1, size)], []], new_backend)
    assert batched.modules == [MODULE]
    batched.leave(0, 2)
    assert (len(module._forward_hooks), len(module._forward_pre_hooks)) == (1, 1)
    batched.leave(1, 1)
    assert batched.modules == []
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


@torch.inference_mode()
def test_many_rows_with_the_same_adapters_hold_one_copy(base: BaseModel) -> None:
    module = base.model.get_submodule(MODULE)
    size = module.in_features, module.out_features
    lora, ia3 = adapter("lora", 8, size), adapter("out", 0, size)
    assert isinstance(lora, Lora)
    rows: list[list[Adapter]] = [[lora], [lora.scaled(0.5), ia3]]
    batched = BatchedAdapters(base.model, max_rows=64, new_backend=TorchBackend)
    for slot in range(64):
        # A row asks for its scale when it comes.
        batched.seat(slot, [lora.scaled(0.5), ia3] if slot % 2 else [lora])
    (backend,) = batched._seated.values()
    assert isinstance(backend, TorchBackend)
    factors = lora.factors[MODULE]
    copies = [2 * (factors.a.nbytes + factors.b.nbytes), 0, 2 * size[1] * 4, 0]
    assert [slab.nbytes for slab in backend._members[0].slabs] == copies
    x = torch.randn(64, 1, size[0])
    for slots in (slice(0, 64), slice(3, 17)):
        batched.see(slots)
        expected = reference(module, x[slots], [rows[slot % 2] for slot in range(64)][slots])
        torch.testing.assert_close(module(x[slots]).double(), expected, rtol=1e-5, atol=3e-5)
    for slot in reversed(range(64)):
        batched.leave(0, slot)
    assert not batched._combined


@torch.inference_mode()
def test_flattened_tokens_and_transposed_weights(base: BaseModel, new_backend: NewBackend) -> None:
    """Some models flatten rows and tokens before a linear module, and GPT-2 keeps its weights the other way around."""
    module = Conv1D(24, 16)
    nn.init.normal_(module.bias)
    base.model.model.layers[1].self_attn.q_proj = module
    rows = [[adapter(kind, 3, (16, 24)) for kind in OF_KIND["any"](i)] for i in range(4)]
    seated(base.model, rows, new_backend).see(slice(0, 4))
    x = torch.randn(4, 5, 16)
    expected = reference(module, x, rows)
    torch.testing.assert_close(module(x).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module(x.flatten(0, 1)).double(), expected.flatten(0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [1, 6, 37])
@torch.inference_mode()
def test_wide_modules_and_long_rows(base: BaseModel, new_backend: NewBackend, tokens: int, dtype: torch.dtype) -> None:
    """More outputs and tokens than the kernel takes at a time, and some that are left over."""
    module = nn.Linear(70, 600)
    base.model.model.layers[1].self_attn.q_proj = module
    base.model.to(dtype)
    rows = [[adapter(kind, 3 + i, (70, 600)) for kind in OF_KIND["any"](i)] for i in range(3)]
    seated(base.model, rows, new_backend).see(slice(0, 3))
    x = torch.randn(3, tokens, 70).to(dtype)
    expected = reference(module, x, rows)
    torch.testing.assert_close(module(x).double(), expected, rtol=TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])


@torch.inference_mode()
def test_a_module_that_gives_another_shape_is_not_written_beyond(base: BaseModel, new_backend: NewBackend) -> None:
    class Grouped(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            y = super().forward(input)
            return y.view(*y.shape[:-1], 4, -1)

    module = Grouped(16, 24)
    base.model.model.layers[1].self_attn.q_proj = module
    seated(base.model, [[adapter("lora", 3, (16, 24))]] * 2, new_backend).see(slice(0, 2))
    with pytest.raises((ValueError, RuntimeError)):
        module(torch.randn(2, 5, 16))


JOINED = ("q_proj", "k_proj", "v_proj")


def at(name: str, one: Adapter) -> Adapter:
    """`one`, which acts at MODULE, acting at the module `name`."""
    if isinstance(one, Lora):
        return Lora({name: one.factors[MODULE]})
    return Ia3({name: one.scales[MODULE]})


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("kind", OF_KIND)
@torch.inference_mode()
def test_joined_linears_equal_a_loop(
    base: BaseModel, new_backend: NewBackend, kind: str, tokens: int, dtype: torch.dtype
) -> None:
    """Each row has adapters at some of three joined linears, of which one is wider than the others."""
    attention = base.model.to(dtype).model.layers[1].self_attn
    linears = [getattr(attention, name) for name in JOINED]
    for linear in linears:
        linear.bias = nn.Parameter(torch.randn(linear.out_features, dtype=dtype), requires_grad=False)
    joined = JoinedLinear(linears)
    names = [MODULE.replace("q_proj", name) for name in JOINED]
    batched = BatchedAdapters(
        base.model,
        max_rows=9,
        new_backend=new_backend,
        places={name: JoinedPlace(joined, index) for index, name in enumerate(names)},
    )
    chance = random.Random(f"{kind} {tokens} {dtype}")
    rows: list[list[list[Adapter]]] = []
    for slot in range(9):
        wanted = [OF_KIND[kind](slot) if chance.random() < 0.6 else [] for _ in linears]
        rows.append([
            [adapter(k, chance.randint(1, 9), (linear.in_features, linear.out_features)) for k in kinds]
            for linear, kinds in zip(linears, wanted, strict=True)
        ])  # fmt: skip
        batched.seat(slot, [at(n, one) for n, ones in zip(names, rows[-1], strict=True) for one in ones])
    x = torch.randn(9, tokens, 64).to(dtype)
    for slots in (slice(0, 9), slice(2, 5)):
        batched.see(slots)
        expected = [
            reference(linear, x[slots], [row[i] for row in rows[slots]]) for i, linear in enumerate(linears)
        ]  # fmt: skip
        found = joined(x[slots]).double()
        torch.testing.assert_close(found, torch.cat(expected, -1), rtol=TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])
    assert set(batched.modules) <= set(names)
    for slot in reversed(range(9)):
        batched.leave(0, slot)
    assert batched.modules == []
    assert not joined._forward_hooks
    assert not joined._forward_pre_hooks
