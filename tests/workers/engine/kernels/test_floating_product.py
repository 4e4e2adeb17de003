"""Products by our own kernel against float64, and what a token computes alone and beside others."""

from __future__ import annotations

import copy
import ctypes
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.workers.engine.conftest import base_of, tiny_llama
from torch import nn
from transformers import PreTrainedTokenizerFast

from guideway.workers.engine.engine import Engine
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.joined import JoinedLinear
from guideway.workers.engine.kernels.linears import floating_product, packed
from guideway.workers.engine.kernels.linears.floating_product import FloatingProduct, product_of
from guideway.workers.engine.kernels.linears.int8_linear import Int8Linear
from guideway.workers.messages.to_engine import EngineSettings

dtypes = pytest.mark.parametrize("dtype", native.DTYPES)
SIZES = [(96, 200, True), (576, 64, False), (33, 5, True), (1537, 130, False), (2, 1, True)]


def plain(width: int, out: int, bias: bool = False, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    return nn.Linear(width, out, bias=bias).to(dtype).requires_grad_(False)


def exact(x: torch.Tensor, linear: nn.Linear) -> torch.Tensor:
    y: torch.Tensor = x.double() @ linear.weight.double().T
    return y if linear.bias is None else y + linear.bias.double()


def near(ours: torch.Tensor, exactly: torch.Tensor, dtype: torch.dtype) -> None:
    assert ours.dtype == dtype
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (2**-8, 1e-4)
    torch.testing.assert_close(ours.double(), exactly, rtol=rtol, atol=atol)


@torch.inference_mode()
@dtypes
@pytest.mark.parametrize(("width", "out", "bias"), SIZES)
@pytest.mark.parametrize("shape", [(1, 1), (16, 1), (3, 7), (1, 29), (1, 300), (5,), (0, 1)])
def test_a_product_is_exact_but_for_its_roundings(
    kernels: ctypes.CDLL, width: int, out: int, bias: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    linear, x = plain(width, out, bias, dtype), torch.randn(*shape, width).to(dtype)
    near(FloatingProduct(kernels, linear)(x), exact(x, linear), dtype)


@torch.inference_mode()
@dtypes
@pytest.mark.parametrize("width", [100, 96], ids=["registers", "tiles, where there are any"])
def test_a_token_computes_the_same_alone_and_beside_others(
    kernels: ctypes.CDLL, width: int, dtype: torch.dtype
) -> None:
    linear = plain(width, 70, True, dtype)
    product, x = FloatingProduct(kernels, linear), torch.randn(1, 300, width).to(dtype)
    beside = product(x)
    usual = torch.get_num_threads()
    for first, count, threads in ((0, 1, 1), (7, 16, 1), (100, 29, 2), (149, 1, 3), (0, 113, 2), (250, 50, 2)):
        torch.set_num_threads(threads)
        try:
            assert torch.equal(product(x[:, first : first + count]), beside[:, first : first + count])
        finally:
            torch.set_num_threads(usual)


@torch.inference_mode()
@dtypes
@pytest.mark.parametrize("width", [40, 64])
def test_the_smallest_numbers_are_the_same_in_any_number_of_threads(
    kernels: ctypes.CDLL, width: int, dtype: torch.dtype
) -> None:
    linear = plain(width, 72, True, dtype)
    linear.weight.zero_()
    linear.bias.fill_(1e-39)
    product, x, usual = FloatingProduct(kernels, linear), torch.ones(2, width, dtype=dtype), torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = product(x)
            assert torch.equal(found, found[:1, :1].expand_as(found))
    finally:
        torch.set_num_threads(usual)


@torch.inference_mode()
@dtypes
@pytest.mark.parametrize("width", [40, 64])
def test_what_is_not_finite_stays_with_its_token(kernels: ctypes.CDLL, width: int, dtype: torch.dtype) -> None:
    product, x = FloatingProduct(kernels, plain(width, 33, dtype=dtype)), torch.randn(4, width).to(dtype)
    well = product(x)
    x[1, 3], x[2, 39] = math.nan, math.inf
    ill = product(x)
    assert not ill[1:3].isfinite().any()
    assert torch.equal(ill[[0, 3]], well[[0, 3]])


@torch.inference_mode()
@dtypes
@pytest.mark.parametrize("biases", [(False, False, False), (True, True, True), (True, False, True)])
def test_several_are_one_product(kernels: ctypes.CDLL, biases: tuple[bool, ...], dtype: torch.dtype) -> None:
    linears = [plain(64, out, bias, dtype) for out, bias in zip((48, 20, 33), biases, strict=True)]
    x = torch.randn(3, 5, 64).to(dtype)
    near(FloatingProduct(kernels, *linears)(x), torch.cat([exact(x, linear) for linear in linears], -1), dtype)


@torch.inference_mode()
@dtypes
def test_threads_may_share_a_product_and_copies_its_weights(kernels: ctypes.CDLL, dtype: torch.dtype) -> None:
    product, x = FloatingProduct(kernels, plain(320, 640, dtype=dtype)), torch.randn(64, 320).to(dtype)
    expected = product(x)
    with ThreadPoolExecutor(3) as pool:
        assert all(torch.equal(found, expected) for found in pool.map(lambda _: product(x), range(30)))
    assert torch.equal(copy.deepcopy(product)(x), expected)


def test_inputs_that_do_not_fit_are_refused(kernels: ctypes.CDLL) -> None:
    product = FloatingProduct(kernels, plain(64, 8))
    for x in (torch.zeros(2, 63).bfloat16(), torch.zeros(2, 64)):
        with pytest.raises(ValueError, match="64 inputs"):
            product(x)


def test_linears_of_other_kinds_have_none(kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    both = plain(64, 8), plain(64, 8, dtype=torch.float32)
    assert product_of(*both) is None
    assert product_of(plain(64, 8).half()) is None
    assert product_of(Int8Linear(both[0])) is None
    assert product_of(nn.Identity()) is None
    monkeypatch.setattr(native, "kernels", lambda: None)
    assert product_of(both[0]) is None


@torch.inference_mode()
def test_a_kernel_that_computes_something_else_is_not_used(
    kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """As a compiler might make it."""
    linear, packs = plain(64, 8), floating_product._packed
    monkeypatch.setattr(floating_product, "is_faster", lambda *_: True)
    if product_of(linear) is None:
        pytest.skip("the kernels have no threads of their own on this machine")
    monkeypatch.setattr(floating_product, "_packed", lambda weight: packs(weight) * 1.5)
    floating_product._is_right.cache_clear()
    request.addfinalizer(floating_product._is_right.cache_clear)
    assert product_of(linear) is None
    packed.pack_linears(nn.Sequential(linear))
    x = torch.randn(1, 3, 64).bfloat16()
    near(linear(x), exact(x, linear), torch.bfloat16)


@torch.inference_mode()
def test_where_it_is_faster_it_is_used(kernels: ctypes.CDLL) -> None:
    if product_of(plain(64, 8)) is None:
        pytest.skip("torch's products are faster on this machine")
    model = nn.Sequential(plain(64, 8), plain(8, 16))
    packed.pack_linears(model)
    assert all(isinstance(vars(linear)["forward"], FloatingProduct) for linear in model)
    x = torch.randn(1, 3, 64).bfloat16()
    near(model(x), exact(FloatingProduct(kernels, model[0])(x), model[1]), torch.bfloat16)  # type: ignore[arg-type]
    joined = JoinedLinear([plain(64, 8), plain(64, 16)])
    near(joined(x), torch.cat([exact(x, one) for one in joined.members], -1), torch.bfloat16)


@pytest.mark.parametrize("ours", [True, False], ids=["our products", "packed by oneDNN"])
def test_a_gradient_through_an_engines_model_is_refused_and_not_cut(
    ours: bool, kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
) -> None:
    """The studio loads a model anew to train through it: nothing else would say that a gradient has ended halfway."""
    monkeypatch.setattr(floating_product, "is_faster", lambda kernels, dtype: ours)
    model = tiny_llama(tokenizer).to(torch.bfloat16)
    if not (ours or packed.can_pack(model.lm_head)):
        pytest.skip("this processor has no products for packed weights in bfloat16")
    plain = copy.deepcopy(model)
    settings = EngineSettings(reader_threads=0, preparer_threads=0)
    Engine(base_of(model, tokenizer), settings, max_context_tokens=512)
    begin = model.get_input_embeddings()(torch.tensor([[1, 2, 3]])).requires_grad_()
    plain(inputs_embeds=begin).logits.sum().backward()
    assert begin.grad is not None
    with pytest.raises(RuntimeError, match="load it anew to train"):
        model(inputs_embeds=begin)
    with torch.no_grad():
        model(inputs_embeds=begin)
