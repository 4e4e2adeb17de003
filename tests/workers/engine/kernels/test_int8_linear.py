"""Products with weights of 8 bits against float64, and what a token computes alone and beside others."""

from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional

from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.joined import JoinedLinear
from guideway.workers.engine.kernels.linears.int8_linear import Int8Linear, dtype_of, keep_linears_in_int8, rounded

SIZES = [(96, 200, True), (576, 64, False), (33, 5, True), (1537, 130, False), (4, 1, True)]

sizes = pytest.mark.parametrize(("width", "out", "bias"), SIZES)
dtypes = pytest.mark.parametrize("dtype", native.DTYPES)


def plain(width: int, out: int, bias: bool = False, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    return nn.Linear(width, out, bias=bias).to(dtype).requires_grad_(False)


def without_kernels(linear: Int8Linear) -> Int8Linear:
    other = Int8Linear(plain(linear.in_features, linear.out_features))
    other.__dict__.update(copy.deepcopy(linear).__dict__)
    other.product = copy.copy(linear.product)
    other.product._kernels = None
    return other


@sizes
def test_a_weight_is_within_half_a_step(width: int, out: int, bias: bool) -> None:
    linear = plain(width, out, bias, torch.float32)
    linear.weight[0] = 0
    ours = Int8Linear(linear)
    step = linear.weight.abs().amax(1, keepdim=True) / 127
    assert ((ours.weight - linear.weight).abs() <= step * 0.501).all()
    assert torch.equal(ours.integers, rounded(linear.weight)[0])
    assert dtype_of(ours) == torch.float32


@torch.inference_mode()
@dtypes
@sizes
@pytest.mark.parametrize("shape", [(1, 1), (16, 1), (3, 7), (1, 300), (5,), (0, 1)])
def test_a_product_is_exact_but_for_its_roundings(
    width: int, out: int, bias: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    linear = Int8Linear(plain(width, out, bias, dtype))
    x = (torch.randn(*shape, width) * 10 ** (3 * torch.randn(*shape, 1).clamp(-1, 1))).to(dtype)
    most = x.float().abs().amax(-1, keepdim=True)
    q = (x.float() * (torch.full_like(most, 127) / most)).round().double()
    scale = linear.scale[:out].double() * most.double() / 127
    exact = q @ linear.integers.double().T * scale + (0 if linear.bias is None else linear.bias.double())
    found = linear(x)
    assert found.dtype == dtype
    rounding = 1e-6 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(found.double(), exact, rtol=rounding, atol=1e-6)


@pytest.mark.usefixtures("kernels")
@torch.inference_mode()
@dtypes
@sizes
def test_without_kernels_the_numbers_are_the_same(width: int, out: int, bias: bool, dtype: torch.dtype) -> None:
    linear = Int8Linear(plain(width, out, bias, dtype))
    x = torch.randn(40, width).to(dtype)
    # A sum and a bias are rounded together by some processors, and one after the other by others.
    rtol, atol = (1e-5, 1e-6) if dtype == torch.float32 else (2**-7, 0)
    torch.testing.assert_close(without_kernels(linear)(x), linear(x), rtol=rtol * bias, atol=atol * bias)


@torch.inference_mode()
@dtypes
@pytest.mark.parametrize("native_code", [True, False])
@pytest.mark.parametrize("width", [96, 128], ids=["registers", "tiles, where there are any"])
def test_a_token_computes_the_same_alone_and_beside_any_others(
    width: int, dtype: torch.dtype, native_code: bool
) -> None:
    linear = Int8Linear(plain(width, 200, True, dtype))
    linear = linear if native_code else without_kernels(linear)
    for others in range(1, 20):
        x = torch.randn(others, width).to(dtype)
        x[others // 2] *= 1000
        together = linear(x)
        for i in range(others):
            assert torch.equal(linear(x[i : i + 1]), together[i : i + 1])


@torch.inference_mode()
@pytest.mark.parametrize("native_code", [True, False])
def test_what_is_not_finite_or_nothing_stays_so_and_with_its_token(native_code: bool) -> None:
    linear = Int8Linear(plain(96, 200))
    linear = linear if native_code else without_kernels(linear)
    x = torch.randn(5, 96).bfloat16()
    clean = linear(x)
    x[1, 3], x[2, 4], x[3] = math.nan, math.inf, 0
    found = linear(x)
    assert found[1].isnan().all()
    assert found[2].isnan().all()
    assert not found[3].any()
    assert torch.equal(found[[0, 4]], clean[[0, 4]])


def test_a_thread_may_begin_with_no_token() -> None:
    linear = Int8Linear(plain(96, 200))
    # Room to work in is each thread's own, and a new thread has none.
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(linear, torch.zeros(0, 96).bfloat16()).result().shape == (0, 200)


def test_several_are_one_product() -> None:
    members = [Int8Linear(plain(96, out, bias)) for out, bias in ((200, True), (5, False), (64, True))]
    x = torch.randn(3, 7, 96).bfloat16()
    joined = JoinedLinear(members)
    assert torch.equal(joined(x), torch.cat([member(x) for member in members], -1))
    # Where IA3 scales what some of them read
    assert torch.equal(joined(x, 2 * x, x)[..., 200:205], members[1](2 * x))


def test_gradients_go_through_the_weights_as_they_are() -> None:
    linear = Int8Linear(plain(96, 200, True, torch.float32))
    ours, exact = (torch.randn(6, 96, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    by = torch.randn(6, 200)
    by_ours = torch.autograd.grad(linear(ours), ours, by)
    by_exact = torch.autograd.grad(functional.linear(exact, linear.weight, linear.bias), exact, by)
    torch.testing.assert_close(by_ours, by_exact)


def test_a_linear_in_two_places_stays_one() -> None:
    shared = plain(8, 8)
    one, other = nn.Sequential(shared), nn.Sequential(shared)
    model = nn.ModuleList([one, other, nn.Embedding(4, 8)])
    assert keep_linears_in_int8(model) == 1
    assert one[0] is other[0]
    assert isinstance(one[0], Int8Linear)
    model.append(nn.ParameterDict({"experts": nn.Parameter(torch.zeros(8, 8))}))
    assert keep_linears_in_int8(model) == 0.5


def test_a_copy_lives_on_without_what_it_was_copied_from() -> None:
    linear = Int8Linear(plain(96, 200))
    x = torch.randn(3, 96).bfloat16()
    before, other = linear(x), copy.deepcopy(linear)
    del linear
    assert torch.equal(other(x), before)
