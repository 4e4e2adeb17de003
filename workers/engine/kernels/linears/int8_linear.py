"""Linear modules whose weights are kept in 8 bits, on a CPU.

A weight is rounded once, with one scale for each output. What comes in is rounded at every product, with one scale for
each token. So an output depends on its own token alone, and a sum of integers on no order: a row computes the same
numbers alone and beside others. `integer.c` has the product; without it operations of torch give the same, slowly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from guideway.workers.engine.kernels import large_pages, native

_PANEL: Final = 64
"""Outputs that are packed together, see `integer.c`"""
_FOUR: Final = 4
_LEVELS: Final = 127
"""Of either sign; -128 is not used, so that both signs are alike"""
_EXACT: Final = 1024
"""The products of so many pairs of numbers add up to less than 2^24, which float32 holds exactly."""
MOST_INPUTS: Final = 65536
"""With more, a sum of 32 bits could overflow."""
_INT, _AT = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS: Final[Mapping[str, list[Any]]] = {"gw_multiply_int8": [_INT, _INT, _INT, _INT, _AT, _AT, _AT, _INT, _AT]}


class Int8Linear(nn.Linear):
    """y = Q(x) Wᵀ + b, with W = diag(scale) · integers and Q(x) the input rounded to 8 bits, token by token.

    Gradients go through the weights to x, as if x were not rounded; the weights take none.
    """

    packed: Tensor
    """[panels, ⌈in / 4⌉, 64, 4], each integer + 128"""
    scale: Tensor
    """[panels · 64], float32"""
    shift: Tensor | None
    """The bias in float32, [panels · 64]"""

    def __init__(self, linear: nn.Linear) -> None:
        """linear: one that `can_be_int8`; its weight is not kept."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = linear.weight.dtype
        """Of what goes in and comes out"""
        integers, scale = rounded(linear.weight.detach())
        self.register_buffer("packed", _packed(integers))
        self.register_buffer("scale", _padded(scale))
        self.bias = linear.bias
        shift = None if linear.bias is None else _padded(linear.bias.detach().float())
        self.register_buffer("shift", shift, persistent=False)
        self.product = Int8Product(self)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """W [out, in] in `dtype`, made anew at each look."""
        return (self.integers.float() * self.scale[: self.out_features, None]).to(self.dtype)

    @property
    def integers(self) -> Tensor:
        """W without its scales, int8 [out, in], made anew at each look."""
        rows = self.packed.transpose(1, 2).flatten(0, 1).flatten(1)
        return (rows[: self.out_features, : self.in_features] ^ 128).view(torch.int8)

    def forward(self, input: Tensor) -> Tensor:
        """y [..., out] of input [..., in]."""
        if torch.is_grad_enabled() and input.requires_grad:
            y: Tensor = _Differentiable.apply(input, self)  # type: ignore[no-untyped-call]
            return y
        return self.product(input)


class Int8Product:
    """The outputs of several `Int8Linear` that read the same x, side by side.

    It keeps what it points to alive, so that a copy may share it.
    """

    int8: Final = True

    def __init__(self, *members: Int8Linear) -> None:
        self._held = [(member.packed, member.scale, member.shift) for member in members]
        self._sizes = [(member.in_features, member.out_features) for member in members]
        [self.inputs] = {in_features for in_features, _ in self._sizes}
        self.outputs = sum(out for _, out in self._sizes)
        self.dtype = members[0].dtype
        self.members = np.array(
            [
                [weights.data_ptr(), scale.data_ptr(), 0 if shift is None else shift.data_ptr(), out]
                for (weights, scale, shift), (_, out) in zip(self._held, self._sizes, strict=True)
            ],
            dtype=np.int64,
        )
        """A `Member` of the kernels for each of them."""
        self._kernels = _kernels()

    def __deepcopy__(self, _: object) -> Int8Product:
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """y [..., Σ out] for x [..., in], in the dtype of x. Raises: MemoryError without memory for the rounded x."""
        if x.shape[-1] != self.inputs or x.device.type != "cpu":
            raise ValueError(f"a product of {self.inputs} inputs on a CPU got {tuple(x.shape)} on {x.device}")
        if self._kernels is None or x.dtype not in native.DTYPES:
            parts = zip(self._held, self._sizes, strict=True)
            return torch.cat([_by_torch(x, *held, out) for held, (_, out) in parts], -1)
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], self.outputs)
        parallel = native.parallel()
        failed = self._kernels.gw_multiply_int8(
            x.numel() // self.inputs,
            self.inputs,
            len(self._held),
            x.dtype == torch.bfloat16,
            self.members.ctypes.data,
            x.data_ptr(),
            y.data_ptr(),
            torch.get_num_threads(),
            parallel,
        )
        if failed:
            raise MemoryError("no memory for the rounded inputs of a product")
        return y


class _Differentiable(torch.autograd.Function):
    """y = Q(x) Wᵀ + b forwards; ∂x = ∂y W backwards, as if Q rounded nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: Int8Linear) -> Tensor:
        ctx.linear = linear
        return linear.product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), linear = gradients, ctx.linear
        # The integers are exact in every dtype; the scales go into the smaller factor.
        scaled = gradient * linear.scale[: linear.out_features].to(gradient.dtype)
        return scaled @ linear.integers.to(gradient.dtype), None


def can_be_int8(module: nn.Module) -> bool:
    """Whether `module` is a linear whose weight can be kept in 8 bits."""
    return type(module) is nn.Linear and module.in_features <= MOST_INPUTS


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype in which a linear module takes in and gives out numbers."""
    if isinstance(module, Int8Linear):
        return module.dtype
    assert isinstance(module.weight, Tensor)
    return module.weight.dtype


def keep_linears_in_int8(model: nn.Module) -> float:
    """Put an `Int8Linear` in the place of each linear of `model` that can be one.

    Returns the share of all weights that multiply which these are; embeddings and vectors do not multiply.
    """
    made: dict[nn.Module, Int8Linear] = {}
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if can_be_int8(child):
                assert isinstance(child, nn.Linear)
                if child not in made:
                    made[child] = Int8Linear(child)
                setattr(parent, name, made[child])
    ours = [module for module in model.modules() if isinstance(module, Int8Linear)]
    kept = sum(linear.in_features * linear.out_features for linear in ours)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    others = sum(one.numel() for one in model.parameters() if one.dim() > 1 and id(one) not in embeddings)
    return kept / max(1, kept + others)


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers [out, in], int8, and scale [out], float32, such that scale · integers is next to weight [out, in]."""
    wide = weight.float()
    scale = wide.abs().amax(1) / _LEVELS
    # A row of zeros has no scale.
    by = torch.where(scale > 0, scale, 1.0)
    return (wide / by[:, None]).round_().clamp_(-_LEVELS, _LEVELS).to(torch.int8), scale


def _packed(integers: Tensor) -> Tensor:
    out, width = integers.shape
    whole = functional.pad(integers, (0, -width % _FOUR, 0, -out % _PANEL))
    panels = (whole.view(torch.uint8) ^ 128).view(-1, _PANEL, whole.shape[1] // _FOUR, _FOUR)
    turned = panels.transpose(1, 2)
    return large_pages.empty(turned.shape, turned.dtype).copy_(turned)


def _padded(of_outputs: Tensor) -> Tensor:
    return functional.pad(of_outputs, (0, -len(of_outputs) % _PANEL)).contiguous()


def _kernels() -> ctypes.CDLL | None:
    """The kernels, if they can compute in as many threads as torch has."""
    if native.parallel() is None and torch.get_num_threads() > 1:
        return None
    kernels = native.kernels()
    if kernels is not None:
        native.declare(kernels, _ARGUMENTS)
    return kernels


def _by_torch(x: Tensor, packed: Tensor, scale: Tensor, shift: Tensor | None, out: int) -> Tensor:
    """The product of one linear, by float32 where it is exact."""
    wide = x.float()
    most = wide.abs().amax(-1, keepdim=True)
    # By a tensor, because torch divides by a number through its reciprocal, which rounds twice.
    levels = torch.full_like(most, _LEVELS)
    by = torch.where(most > 1e-30, levels / most, 0.0)
    q = (wide * by).round()
    weights = (packed.transpose(1, 2).flatten(0, 1).flatten(1)[:out, : x.shape[-1]].to(torch.int16) - 128).float()
    total = torch.zeros(*x.shape[:-1], out, dtype=torch.float64)
    for begin in range(0, x.shape[-1], _EXACT):
        some = slice(begin, begin + _EXACT)
        total += q[..., some] @ weights[:, some].T
    y = total.float() * (most / levels * scale[:out])
    return (y if shift is None else y + shift[:out]).to(x.dtype)
