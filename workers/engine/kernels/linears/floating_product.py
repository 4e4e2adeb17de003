"""Products of linear modules by our own kernel, where that is faster than torch's.

For few tokens a product waits for its weights. The kernel in `floating.c` asks for them early enough, and its sums do
not depend on the tokens beside: a row computes the same numbers alone and in any batch.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from guideway.workers.engine.kernels import large_pages, native

_LANES: Final = 16
"""Outputs that are packed together, see `floating.c`"""
_INT, _AT = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS: Final[dict[str, list[Any]]] = {
    "gw_multiply": [_INT, _INT, _INT, _INT, _AT, _AT, _AT, _INT, _AT],
    "gw_multiplies_well": [_INT],
}


class FloatingProduct:
    """y = [x W1ᵀ + b1, x W2ᵀ + b2, …] of frozen linears that read the same x, in one of `native.DTYPES`.

    In bfloat16 it keeps a packed copy of the weights, in float32 it reads the weights of the linears. A copy of it
    shares what it points to.
    """

    int8: Final = False

    def __init__(self, kernels: ctypes.CDLL, *linears: nn.Linear) -> None:
        """linears: on a CPU, of one dtype, with as many inputs as each other."""
        native.declare(kernels, _ARGUMENTS)
        self._kernels = kernels
        [self.dtype] = {linear.weight.dtype for linear in linears}
        [self.inputs] = {linear.in_features for linear in linears}
        self.outputs = sum(linear.out_features for linear in linears)
        weights = [linear.weight.detach() for linear in linears]
        biases = [_bias(linear) for linear in linears]
        if self.dtype == torch.bfloat16:
            # One behind the other, so that they are read as one stream.
            whole = [] if all(bias is None for bias in biases) else [
                torch.zeros(linear.out_features) if bias is None else bias
                for linear, bias in zip(linears, biases, strict=True)
            ]  # fmt: skip
            weights, biases = [_packed(torch.cat(weights))], [torch.cat(whole) if whole else None]
            sizes = [self.outputs]
        else:
            weights, sizes = [weight.contiguous() for weight in weights], [one.out_features for one in linears]
        self._held = [
            (weight, None if bias is None else _padded(bias)) for weight, bias in zip(weights, biases, strict=True)
        ]
        self.members = np.array(
            [
                [weight.data_ptr(), 0, 0 if bias is None else bias.data_ptr(), out]
                for (weight, bias), out in zip(self._held, sizes, strict=True)
            ],
            dtype=np.int64,
        )
        """A `Member` of the kernels for each of them."""

    def __deepcopy__(self, _: object) -> FloatingProduct:
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """y [..., Σ out] for x [..., in]. Raises: MemoryError without memory to arrange x; see `refuse_gradient`."""
        refuse_gradient(x)
        if x.shape[-1] != self.inputs or x.device.type != "cpu" or x.dtype != self.dtype:
            had = f"{tuple(x.shape)} in {x.dtype} on {x.device}"
            raise ValueError(f"a product of {self.inputs} inputs in {self.dtype} on a CPU got {had}")
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], self.outputs)
        failed = self._kernels.gw_multiply(
            x.numel() // self.inputs,
            self.inputs,
            len(self.members),
            x.dtype == torch.bfloat16,
            self.members.ctypes.data,
            x.data_ptr(),
            y.data_ptr(),
            torch.get_num_threads(),
            native.parallel(),
        )
        if failed:
            raise MemoryError("no memory for the inputs of a product")
        return y


def refuse_gradient(x: Tensor) -> None:
    """Raises: RuntimeError where a gradient is to go through a product of x by packed weights: it would be cut, and
    whoever trains before it would not learn."""
    if torch.is_grad_enabled() and x.requires_grad:
        raise RuntimeError("a model that an engine has packed has no gradients: load it anew to train through it")


def product_of(*linears: nn.Module) -> FloatingProduct | None:
    """Their product by the kernel; None where torch's is faster, or where there are no kernels."""
    kernels = _kernels_for(linears)
    return None if kernels is None else FloatingProduct(kernels, *cast(tuple[nn.Linear, ...], linears))


def _kernels_for(linears: tuple[nn.Module, ...]) -> ctypes.CDLL | None:
    weights = [linear.weight for linear in linears if type(linear) is nn.Linear]
    kinds = {(weight.dtype, weight.device.type, weight.shape[1]) for weight in weights}
    if len(weights) != len(linears) or len(kinds) != 1:
        return None
    [(dtype, device, _)] = kinds
    alone = native.parallel() is None and torch.get_num_threads() > 1
    if dtype not in native.DTYPES or device != "cpu" or alone or (kernels := native.kernels()) is None:
        return None
    return kernels if is_faster(kernels, dtype) and _is_right(kernels, dtype) else None


def is_faster(kernels: ctypes.CDLL, dtype: torch.dtype) -> bool:
    """Whether the kernel is faster than torch on this machine."""
    native.declare(kernels, _ARGUMENTS)
    return bool(kernels.gw_multiplies_well(dtype == torch.bfloat16))


@functools.cache
def _is_right(kernels: ctypes.CDLL, dtype: torch.dtype) -> bool:
    """Whether the kernel computes products here: a compiler may translate it wrongly. Tried once a process."""
    random = torch.Generator().manual_seed(0)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for inputs, outputs, tokens in ((70, 37, 1), (33, 20, 29), (128, 48, 130)):
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=dtype).requires_grad_(False)  # type: ignore[no-untyped-call]
        for part in (linear.weight, linear.bias):
            part.copy_(torch.randn(part.shape, generator=random))
        x = torch.randn(tokens, inputs, generator=random).to(dtype)
        exact = functional.linear(x.double(), linear.weight.double(), linear.bias.double())
        # Not a number is not right either.
        if not (FloatingProduct(kernels, linear)(x) - exact).norm() <= tolerance * exact.norm():
            return False
    return True


def _bias(linear: nn.Linear) -> Tensor | None:
    return None if linear.bias is None else linear.bias.detach().float()


def _padded(bias: Tensor) -> Tensor:
    return functional.pad(bias, (0, -len(bias) % _LANES)).contiguous()


def _packed(weight: Tensor) -> Tensor:
    """[panels, ⌈in / 2⌉, 16, 2] of weight [out, in]"""
    out, width = weight.shape
    whole = functional.pad(weight, (0, width % 2, 0, -out % _LANES))
    panels = whole.view(-1, _LANES, whole.shape[1] // 2, 2).transpose(1, 2)
    return large_pages.empty(panels.shape, panels.dtype).copy_(panels)
