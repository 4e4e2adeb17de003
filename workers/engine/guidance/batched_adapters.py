"""Adapters at the linear modules of the frozen model: different ones for each row, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

from guideway.workers.engine.guidance.folded_adapters import FoldedAdapters
from guideway.workers.engine.guidance.ia3 import Ia3, Scales
from guideway.workers.engine.guidance.lora import Factors, Lora
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.backend import AdapterBackend, members_of
from guideway.workers.engine.kernels.native_backend import NativeBackend
from guideway.workers.engine.kernels.torch_backend import TorchBackend
from guideway.workers.engine.model.fast_layers import JoinedPlace

Adapter = Lora | Ia3
Changes = Mapping[nn.Module, Sequence[FoldedAdapters | None]]
"""Of the members of each module that is changed"""
NewBackend = Callable[[nn.Module, int], AdapterBackend]
"""Makes a backend of a module and the largest number of rows that are seated at once."""


class BatchedAdapters:
    """The adapters of all seated rows; owner of the backends whose hooks they act through.

    At every module that an adapter of a seated row targets, for all rows at once, however many adapters there are:
    y[j] = s[j] ⊙ (W (i[j] ⊙ x[j]) + b) + t[j] + ((i[j] ⊙ x[j]) A[j]ᵀ) B[j]
    with x [rows, tokens, in], y [rows, tokens, out], A [rows, r, in], B [rows, r, out]; i, s and t [rows, 1, features];
    each row has its own of them, or none (`folded_adapters.py`). Slots are those of the KV cache. Where no seated row
    targets a module, it has no hook. Linears that are computed joined have one hook together.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_rows: int,
        new_backend: NewBackend = TorchBackend,
        places: Mapping[str, JoinedPlace] | None = None,
    ) -> None:
        """places: those of the linears that are computed joined, by the linears' names."""
        self._modules = dict(model.named_modules())
        self._head = model.get_output_embeddings()
        self._places = places or {}
        self._max_rows = max_rows
        self._new_changes = new_backend
        self._seated: dict[nn.Module, AdapterBackend] = {}
        self._folded: WeakKeyDictionary[Adapter, Changes] = WeakKeyDictionary()
        """As long as an adapter is in memory, what it alone does."""
        self._rows: list[tuple[Adapter, ...]] = [()] * max_rows
        self._combined: dict[tuple[Adapter, ...], Changes] = {}
        """What several adapters do together, of those that seated rows have"""
        self._seen: tuple[slice, Sequence[int] | None, Sequence[int] | None] | None = None

    def seat(self, slot: int, adapters: Sequence[Adapter]) -> None:
        """Put the adapters of a new row, in the order in which they apply, into its slot, which is empty."""
        self._rows[slot] = tuple(adapters)
        for hooked, of_members in self._changes_of(self._rows[slot]).items():
            if hooked not in self._seated:
                self._seated[hooked] = self._new_changes(hooked, self._max_rows)
            self._seated[hooked].seat(slot, of_members)
        self._seen = None

    def _changes_of(self, adapters: tuple[Adapter, ...]) -> Changes:
        """Folded once for all rows that have these, and for all later ones that have one alone, as most have."""
        if len(adapters) == 1:
            changes = self._folded.get(adapters[0])
            if changes is None:
                changes = self._folded[adapters[0]] = self._fold(adapters)
            return changes
        if adapters not in self._combined:
            self._combined[adapters] = self._fold(adapters)
        return self._combined[adapters]

    def _fold(self, adapters: Sequence[Adapter]) -> Changes:
        changes: dict[nn.Module, list[FoldedAdapters | None]] = {}
        for name, (factors, scales) in _by_module(adapters).items():
            module, place = self._modules[name], self._places.get(name)
            hooked, index = (place.joined, place.index) if place else (module, 0)
            of_members = changes.setdefault(hooked, [None] * len(members_of(hooked)))
            of_members[index] = FoldedAdapters.of(factors, scales, module)
        return changes

    def leave(self, slot: int, last: int) -> None:
        """Let the row in `slot` go, and the row in `last`, the last slot in use, take its place."""
        gone = self._rows[slot]
        self._rows[slot] = self._rows[last]
        self._rows[last] = ()
        if gone not in self._rows:
            self._combined.pop(gone, None)
        for hooked, seated in list(self._seated.items()):
            seated.leave(slot, last)
            if not seated.is_used:
                seated.unhook()
                del self._seated[hooked]
        self._seen = None

    def swap(self, one: int, other: int) -> None:
        """Let the rows in these two slots change places."""
        self._rows[one], self._rows[other] = self._rows[other], self._rows[one]
        for seated in self._seated.values():
            seated.swap(one, other)
        self._seen = None

    def see(self, slots: slice, counts: Sequence[int] | None = None, at_head: Sequence[int] | None = None) -> None:
        """Let the next forward pass run these slots.

        counts: see `AdapterBackend.see`. at_head: the same of the output head, where it sees fewer tokens of each row.
        """
        if (slots, counts, at_head) != self._seen:
            for hooked, seated in self._seated.items():
                seated.see(slots, counts if at_head is None or hooked is not self._head else at_head)
            self._seen = slots, counts, at_head

    @property
    def modules(self) -> list[str]:
        """The names of the linears at which a hook acts: their own one, or that of the linears they are joined with."""
        joined = [name for name, place in self._places.items() if place.joined in self._seated]
        return sorted([*joined, *(name for name, module in self._modules.items() if module in self._seated)])


def fastest_backend(model: PreTrainedModel) -> NewBackend:
    """The backend of the C kernels where they can be used with `model`, else that of torch."""
    kernels = native.kernels_for(model)
    return TorchBackend if kernels is None else lambda module, max_rows: NativeBackend(module, max_rows, kernels)


def _by_module(adapters: Sequence[Adapter]) -> Mapping[str, tuple[list[Factors], list[Scales]]]:
    found: dict[str, tuple[list[Factors], list[Scales]]] = {}
    for adapter in adapters:
        match adapter:
            case Lora():
                for name, factors in adapter.factors.items():
                    found.setdefault(name, ([], []))[0].append(factors)
            case Ia3():
                for name, scales in adapter.scales.items():
                    found.setdefault(name, ([], []))[1].append(scales)
    return found
