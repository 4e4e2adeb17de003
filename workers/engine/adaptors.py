"""Adaptor weights at the linear modules of the frozen model: other ones for every row, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from guideway.workers.engine.ia3 import Ia3, Scales
from guideway.workers.engine.lora import Factors, Lora
from guideway.workers.engine.slab import Slab

Adaptor = Lora | Ia3


@dataclass(frozen=True, eq=False)
class Change:
    """What all the adaptors of one row make of one module, put together once, when the row is seated:

    y = s ⊙ (W (i ⊙ x) + b) + t + ((i ⊙ x) Aᵀ) B. float32, on the model's device; None and no rows change nothing.

    LoRAs come first, joined along r. A DoRA scales what stands before it, its own product included, and leaves the
    module's bias b alone: that is the scale s and the shift t. IA3 scales what comes out of all that, or what goes into
    all of it; several multiply.
    """

    a: Tensor
    """[r, in]"""
    b: Tensor
    """[r, out]"""
    in_scale: Tensor | None = None
    """i [in]"""
    out_scale: Tensor | None = None
    """s [out]"""
    out_shift: Tensor | None = None
    """t [out]"""

    @classmethod
    def of(cls, factors: Sequence[Factors], scales: Sequence[Scales], module: nn.Module) -> Change:
        """factors and scales: those that one row has at `module`, in the order in which they apply."""
        bias, nothing = module.bias, torch.zeros(0, 0)
        assert bias is None or isinstance(bias, Tensor)
        a, b = [f.a for f in factors], [f.b for f in factors]
        shift: Tensor | None = None
        whole = _product([f.dora_scale for f in factors])
        for i, f in enumerate(factors):
            if f.dora_scale is not None:
                b[:i] = [earlier * f.dora_scale for earlier in b[:i]]
        if whole is not None and bias is not None:
            shift = (1 - whole) * bias.float()
        out_scale = _product([s.out for s in scales])
        if out_scale is not None:
            b = [each * out_scale for each in b]
            shift = None if shift is None else shift * out_scale
        return cls(
            a=torch.cat(a) if a else nothing,
            b=torch.cat(b) if b else nothing,
            in_scale=_product([s.into for s in scales]),
            out_scale=_product([whole, out_scale]),
            out_shift=shift,
        )


class BatchedAdaptors:
    """The adaptors of all seated rows; owner of the hooks through which they act.

    At every module that an adaptor of a seated row targets, for all rows at once and whatever the number of adaptors,
    y[j] = s[j] ⊙ (W (i[j] ⊙ x[j]) + b) + t[j] + ((i[j] ⊙ x[j]) A[j]ᵀ) B[j]
    with x [rows, tokens, in], y [rows, tokens, out], A [rows, r, in], B [rows, r, out]; i, s and t [rows, 1, features].
    r is the largest rank among the rows seen, smaller ones are filled with zeros, and so are rows without a LoRA; i and
    s are ones and t zeros where a row has none. Slots are those of the KV cache. Where no seated row targets a module,
    it has no hook.
    """

    def __init__(self, model: PreTrainedModel, *, max_rows: int) -> None:
        self._modules = dict(model.named_modules())
        self._max_rows = max_rows
        self._seated: dict[str, _SeatedChanges] = {}
        self._seen: slice | None = None

    def seat(self, slot: int, adaptors: Sequence[Adaptor]) -> None:
        """Put the adaptors of a new row, in the order in which they apply, into its slot, which is empty."""
        for name, (factors, scales) in _by_module(adaptors).items():
            module = self._modules[name]
            if name not in self._seated:
                self._seated[name] = _SeatedChanges(module, self._max_rows)
            self._seated[name].seat(slot, Change.of(factors, scales, module))
        self._seen = None

    def leave(self, slot: int, last: int) -> None:
        """The row in `slot` goes, and the one in the `last` slot in use takes its place."""
        for name, seated in list(self._seated.items()):
            seated.leave(slot, last)
            if not seated.is_used:
                seated.unhook()
                del self._seated[name]
        self._seen = None

    def swap(self, one: int, other: int) -> None:
        """The rows in these two slots change places."""
        for seated in self._seated.values():
            seated.swap(one, other)
        self._seen = None

    def see(self, slots: slice) -> None:
        """The next forward pass runs these slots."""
        if slots != self._seen:
            for seated in self._seated.values():
                seated.see(slots)
            self._seen = slots

    @property
    def modules(self) -> list[str]:
        """Those that carry a hook."""
        return sorted(self._seated)


class _SeatedChanges:
    """The changes of all seated rows at one module."""

    def __init__(self, module: nn.Module, max_rows: int) -> None:
        self._module = module
        self._a, self._b = Slab(max_rows), Slab(max_rows)
        self._in_scale, self._out_scale = Slab(max_rows, fill=1), Slab(max_rows, fill=1)
        self._out_shift = Slab(max_rows)
        self._slabs = (self._a, self._b, self._in_scale, self._out_scale, self._out_shift)
        self._after = module.register_forward_hook(self._change_output)
        self._before: RemovableHandle | None = None
        # What the next forward pass sees
        self._factors: tuple[Tensor, Tensor] | None = None
        self._i: Tensor | None = None
        self._s: Tensor | None = None
        self._t: Tensor | None = None

    @property
    def is_used(self) -> bool:
        return any(slab.is_used for slab in self._slabs)

    def seat(self, slot: int, change: Change) -> None:
        if len(change.a):
            self._a.put(slot, change.a)
            self._b.put(slot, change.b)
        for slab, vector in (
            (self._in_scale, change.in_scale),
            (self._out_scale, change.out_scale),
            (self._out_shift, change.out_shift),
        ):
            if vector is not None:
                slab.put(slot, vector[None])
        if self._in_scale.is_used and self._before is None:
            self._before = self._module.register_forward_pre_hook(self._change_input)

    def leave(self, slot: int, last: int) -> None:
        for slab in self._slabs:
            slab.leave(slot, last)

    def swap(self, one: int, other: int) -> None:
        for slab in self._slabs:
            slab.swap(one, other)

    def unhook(self) -> None:
        self._after.remove()
        if self._before is not None:
            self._before.remove()

    def see(self, slots: slice) -> None:
        a, b = self._a.view(slots), self._b.view(slots)
        # A is read as [rows, in, r]
        self._factors = None if a is None or b is None else (a.transpose(1, 2), b)
        self._i, self._s, self._t = (slab.view(slots) for slab in self._slabs[2:])

    def _change_input(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._i is None:
            return None
        x = args[0]
        return ((_by_row(x, self._i) * self._i).to(x.dtype).view_as(x), *args[1:])

    def _change_output(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Changes `output` [rows, tokens, out] in place: a linear module's output is nobody else's."""
        if self._s is not None:
            y = _by_row(output, self._s)
            y.mul_(self._s)
            if self._t is not None:
                y.add_(self._t)
        if self._factors is not None:
            a, b = self._factors
            x, y = _by_row(args[0], a), _by_row(output, a)
            if x.shape[1] == 1:
                # One token a row: in float32 these small products take a third of the time that bfloat16 takes on CPU.
                y.add_(torch.bmm(torch.bmm(x.float(), a), b))
            else:
                y.baddbmm_(torch.bmm(x, a.to(x.dtype)), b.to(x.dtype))


def _by_row(x: Tensor, rows: Tensor) -> Tensor:
    """`x` as [rows, tokens, features]: some models flatten rows and tokens before a linear module."""
    return x if x.dim() == 3 else x.view(len(rows), -1, x.shape[-1])


def _by_module(adaptors: Sequence[Adaptor]) -> Mapping[str, tuple[list[Factors], list[Scales]]]:
    found: dict[str, tuple[list[Factors], list[Scales]]] = {}
    for adaptor in adaptors:
        match adaptor:
            case Lora():
                for name, factors in adaptor.factors.items():
                    found.setdefault(name, ([], []))[0].append(factors)
            case Ia3():
                for name, scales in adaptor.scales.items():
                    found.setdefault(name, ([], []))[1].append(scales)
    return found


def _product(vectors: Sequence[Tensor | None]) -> Tensor | None:
    """Of those that are there; None if there are none."""
    product: Tensor | None = None
    for vector in vectors:
        if vector is not None:
            product = vector if product is None else product * vector
    return product
