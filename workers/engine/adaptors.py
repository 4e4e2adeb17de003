"""Adaptor weights at the linear modules of the frozen model: other ones for every row, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from guideway.workers.engine.fast_layers import Place
from guideway.workers.engine.ia3 import Ia3, Scales
from guideway.workers.engine.joined_change import Layout, side_by_side
from guideway.workers.engine.lora import Factors, Lora
from guideway.workers.engine.slab import Slab

Adaptor = Lora | Ia3

_FEW: Final = 0.75
"""Up to this share of the rows with a LoRA, to copy their factors together is worth it."""


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
        bias = module.bias
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
            a=_along_ranks(a),
            b=_along_ranks(b),
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
    it has no hook. Linears that are joined have one hook together, see `joined_change.py`.
    """

    def __init__(self, model: PreTrainedModel, *, max_rows: int, places: Mapping[str, Place] | None = None) -> None:
        """places: of the linears that are computed joined, by their names."""
        self._modules = dict(model.named_modules())
        self._places = places or {}
        self._max_rows = max_rows
        self._seated: dict[nn.Module, _SeatedChanges] = {}
        self._seen: slice | None = None

    def seat(self, slot: int, adaptors: Sequence[Adaptor]) -> None:
        """Put the adaptors of a new row, in the order in which they apply, into its slot, which is empty."""
        changes: dict[nn.Module, list[Change | None]] = {}
        for name, (factors, scales) in _by_module(adaptors).items():
            module = self._modules[name]
            place = self._places.get(name)
            where, index, members = (place.joined, place.index, len(place.joined.members)) if place else (module, 0, 1)
            changes.setdefault(where, [None] * members)[index] = Change.of(factors, scales, module)
        for where, of_members in changes.items():
            if where not in self._seated:
                self._seated[where] = _SeatedChanges(where, self._max_rows)
            self._seated[where].seat(slot, of_members)
        self._seen = None

    def leave(self, slot: int, last: int) -> None:
        """The row in `slot` goes, and the one in the `last` slot in use takes its place."""
        for where, seated in list(self._seated.items()):
            seated.leave(slot, last)
            if not seated.is_used:
                seated.unhook()
                del self._seated[where]
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
        """Those at which a hook acts, their own or that of the linears they are joined with."""
        joined = [name for name, place in self._places.items() if place.joined in self._seated]
        return sorted([*joined, *(name for name, module in self._modules.items() if module in self._seated)])


class _SeatedChanges:
    """The changes of all seated rows at one module, or at one of joined linears."""

    def __init__(self, module: nn.Module, max_rows: int) -> None:
        self._module = module
        self._layout = Layout.of(module)
        self._a, self._b = Slab(max_rows), Slab(max_rows)
        self._in_scale, self._out_scale = Slab(max_rows, fill=1), Slab(max_rows, fill=1)
        self._out_shift = Slab(max_rows)
        self._slabs = (self._a, self._b, self._in_scale, self._out_scale, self._out_shift)
        self._after = module.register_forward_hook(self._change_output)
        self._before: RemovableHandle | None = None
        # What the next forward pass sees
        self._rows = 0
        self._factors: tuple[Tensor, Tensor] | None = None
        self._users: Tensor | None = None
        """The rows that `_factors` are of, where they are few; otherwise all"""
        self._i: Tensor | None = None
        self._s: Tensor | None = None
        self._t: Tensor | None = None

    @property
    def is_used(self) -> bool:
        return any(slab.is_used for slab in self._slabs)

    def seat(self, slot: int, changes: Sequence[Change | None]) -> None:
        """changes: of each member, None where the row changes nothing there."""
        layout = self._layout
        a, b = layout.factors([None if c is None or not len(c.a) else (c.a, c.b) for c in changes])
        if len(a):
            self._a.put(slot, a)
            self._b.put(slot, b)
        for slab, vectors, widths, fill in (
            (self._in_scale, [None if c is None else c.in_scale for c in changes], layout.inputs, 1.0),
            (self._out_scale, [None if c is None else c.out_scale for c in changes], layout.outputs, 1.0),
            (self._out_shift, [None if c is None else c.out_shift for c in changes], layout.outputs, 0.0),
        ):
            vector = side_by_side(vectors, widths, fill)
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
        self._rows = slots.stop - slots.start
        self._users = None
        self._factors = None if a is None or b is None else (a, b)
        users = self._a.users(slots)
        if self._factors is not None and len(users) <= _FEW * self._rows:
            # A copy, made when rows come or go, so that no step reads the zeros of the others.
            self._users = torch.tensor(users, device=self._factors[0].device)
            self._factors = self._factors[0][self._users], self._factors[1][self._users]
        self._i, self._s, self._t = (slab.view(slots) for slab in self._slabs[2:])

    def _change_input(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._i is None:
            return None
        x, inputs = args[0], self._layout.inputs
        scaled = [(_by_row(x, self._rows) * i).to(x.dtype).view_as(x) for i in torch.split(self._i, inputs, dim=-1)]
        return (*scaled, *args[1:])

    def _change_output(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """Changes `output` [rows, tokens, out] in place: a linear module's output is nobody else's."""
        y = _by_row(output, self._rows)
        if self._s is not None:
            y.mul_(self._s)
            if self._t is not None:
                y.add_(self._t)
        if self._factors is None:
            return
        inputs = [_by_row(x, self._rows) for x in args]
        if self._users is None:
            self._layout.add_products_(inputs, *self._factors, y)
        else:
            theirs = y[self._users]
            self._layout.add_products_([x[self._users] for x in inputs], *self._factors, theirs)
            y[self._users] = theirs


def _by_row(x: Tensor, rows: int) -> Tensor:
    """`x` as [rows, tokens, features]: some models flatten rows and tokens before a linear module."""
    return x if x.dim() == 3 else x.view(rows, -1, x.shape[-1])


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


def _along_ranks(parts: Sequence[Tensor]) -> Tensor:
    """[Σ r, features] of parts [r, features]; one part alone is not copied."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts)) if parts else torch.zeros(0, 0)


def _product(vectors: Sequence[Tensor | None]) -> Tensor | None:
    """Of those that are there; None if there are none."""
    product: Tensor | None = None
    for vector in vectors:
        if vector is not None:
            product = vector if product is None else product * vector
    return product
