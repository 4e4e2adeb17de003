"""LoRA: low-rank updates beside the frozen weights, other ones for every row of the micro-batch.

Hu et al. 2021, https://arxiv.org/abs/2106.09685; rank-stabilised scaling: https://arxiv.org/abs/2312.03732.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from guideway.workers.engine.peft_folder import damaged, read

_TENSOR: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")

_UNSUPPORTED: Final = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
"""Settings of PEFT under which the function is more than the two factors."""

_CHANGES_BASE_WEIGHTS: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that take a part of the frozen weights away: without that part the factors mean nothing."""


@dataclass(frozen=True, eq=False)
class Factors:
    """The update of one module: Δy = (x Aᵀ) B, the scaling is in B. float32, on the model's device."""

    a: Tensor
    """[r, in]"""
    b: Tensor
    """[r, out]; transposed as against PEFT, so that ranks are cut and joined along the first dimension of both."""

    @property
    def rank(self) -> int:
        return len(self.a)


@dataclass(frozen=True, eq=False)
class Lora:
    """The updates of one artefact by module name."""

    factors: Mapping[str, Factors]

    @classmethod
    def load(cls, folder: Path, model: PreTrainedModel) -> Lora:
        """From a folder that PEFT saved.

        Raises: Refusal `guidance_damaged` if it is no LoRA, is more than a LoRA, or does not fit `model`.
        """
        config, tensors = read(folder)
        _check(config)
        pairs: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            match = _TENSOR.fullmatch(name)
            if match is None:
                raise damaged(f"tensor {name!r} is no LoRA factor of a linear module: train it without")
            pairs.setdefault(match["module"], {})[match["factor"]] = tensor
        if not pairs:
            raise damaged("it holds no LoRA factors: publish it again")
        modules = dict(model.named_modules())
        device = model.get_input_embeddings().weight.device
        return cls({name: _fitted(name, pair, config, modules.get(name), device) for name, pair in pairs.items()})

    @cached_property
    def nbytes(self) -> int:
        return sum(factors.a.nbytes + factors.b.nbytes for factors in self.factors.values())


def features(module: nn.Module | None) -> tuple[int, int] | None:
    """(in, out) of a module that can carry a LoRA, else None."""
    match module:
        case nn.Linear():
            return module.in_features, module.out_features
        case Conv1D():
            return module.nx, module.nf
    return None


def _check(config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise damaged(f"its peft_type is {config.get('peft_type')!r}, and a LoRA has 'LORA'")
    for setting in _UNSUPPORTED:
        if config.get(setting):
            raise damaged(f"it was trained with `{setting}`, which is not supported: train it without")
    if config.get("bias", "none") != "none":
        raise damaged(f"it was trained with `bias: {config['bias']}`, which is not supported: train it with `none`")
    if str(config.get("init_lora_weights")).startswith(_CHANGES_BASE_WEIGHTS):
        raise damaged(
            f"`init_lora_weights: {config['init_lora_weights']}` goes with changed base weights: convert it with "
            "`save_pretrained(..., path_initial_model_for_weight_conversion=...)`"
        )


def _fitted(
    name: str, pair: dict[str, Tensor], config: dict[str, Any], module: nn.Module | None, device: torch.device
) -> Factors:
    """The factors of module `name` with their scaling: α/r, or α/√r where rank-stabilised."""
    size = features(module)
    if size is None:
        raise damaged(f"it targets {name!r}, which is no linear module of the model: train it for this model")
    rank = _setting(config, "r", "rank_pattern", name)
    alpha = _setting(config, "lora_alpha", "alpha_pattern", name)
    want = {"A": [int(rank), size[0]], "B": [size[1], int(rank)]}
    have = {factor: list(tensor.shape) for factor, tensor in sorted(pair.items())}
    if have != want:
        raise damaged(f"its factors of {name!r} are {have}, and here they must be {want}: train it for this model")
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Factors(a=pair["A"].to(device), b=(pair["B"].T * scaling).to(device).contiguous())


def _setting(config: dict[str, Any], key: str, pattern_key: str, module: str) -> float:
    """A number of the configuration, or the one that the first matching pattern gives for `module`, as PEFT does it."""
    for pattern, value in (config.get(pattern_key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return _number(pattern_key, value)
    return _number(key, config.get(key))


def _number(key: str, value: object) -> float:
    if not isinstance(value, int | float) or value <= 0:
        raise damaged(f"`{key}` in its configuration is {value!r} and must be a number above 0: publish it again")
    return value


class BatchedLora:
    """The updates of all seated rows; owner of the hooks through which they act.

    y[i] += (x[i] A[i]ᵀ) B[i] for every row i at every module that a LoRA targets, as one pair of batched products
    whatever the number of adaptors: x [rows, tokens, in], A [rows, r, in], B [rows, r, out], y [rows, tokens, out].
    r is the largest rank among the rows seen, smaller ones are filled with zeros, and so are rows without a LoRA.
    Several LoRAs on one row are joined along r. Slots are those of the KV cache.
    """

    def __init__(self, model: PreTrainedModel, *, max_rows: int) -> None:
        self._modules = dict(model.named_modules())
        self._max_rows = max_rows
        self._seated: dict[str, _SeatedFactors] = {}

    def seat(self, slot: int, loras: Iterable[Lora]) -> None:
        """Put the factors of a new row into its slot, which is empty."""
        loras = list(loras)
        for name in {name for lora in loras for name in lora.factors}:
            if name not in self._seated:
                self._seated[name] = _SeatedFactors(self._modules[name], self._max_rows)
            self._seated[name].seat(slot, [lora.factors[name] for lora in loras if name in lora.factors])

    def leave(self, slot: int, last: int) -> None:
        """The row in `slot` goes, and the one in the `last` slot in use takes its place."""
        for seated in self._seated.values():
            seated.leave(slot, last)

    def see(self, slots: slice) -> None:
        """The next forward pass runs these slots."""
        for seated in self._seated.values():
            seated.see(slots)


class _SeatedFactors:
    """The factors of all seated rows at one module. Its tensors are there while a row uses them."""

    def __init__(self, module: nn.Module, max_rows: int) -> None:
        self._ranks = [0] * max_rows
        self._a: Tensor | None = None
        self._b: Tensor | None = None
        self._seen: tuple[Tensor, Tensor] | None = None
        module.register_forward_hook(self._add)

    def seat(self, slot: int, factors: list[Factors]) -> None:
        a, b = torch.cat([f.a for f in factors]), torch.cat([f.b for f in factors])
        self._a = self._wide_enough(self._a, a)
        self._b = self._wide_enough(self._b, b)
        self._ranks[slot] = len(a)
        self._a[slot, : len(a)], self._b[slot, : len(b)] = a, b

    def leave(self, slot: int, last: int) -> None:
        for kept in (self._a, self._b):
            if kept is not None and (self._ranks[slot] or self._ranks[last]):
                kept[slot] = kept[last]
                kept[last] = 0
        self._ranks[slot] = self._ranks[last]
        self._ranks[last] = 0
        if not any(self._ranks):
            self._a = self._b = self._seen = None

    def see(self, slots: slice) -> None:
        rank = max(self._ranks[slots], default=0)
        if rank and self._a is not None and self._b is not None:
            # A is read as [rows, in, r]
            self._seen = self._a[slots, :rank].transpose(1, 2), self._b[slots, :rank]
        else:
            self._seen = None

    def _add(self, module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
        if self._seen is None:
            return None
        x, (a, b) = args[0], self._seen
        if x.shape[1] == 1:
            # One token a row: in float32 these small products take a third of the time that bfloat16 takes on CPU.
            return y.add_(torch.bmm(torch.bmm(x.float(), a), b))
        return y.baddbmm_(torch.bmm(x, a.to(x.dtype)), b.to(x.dtype))

    def _wide_enough(self, kept: Tensor | None, new: Tensor) -> Tensor:
        """`kept`, or a copy with room for the rank of `new` [r, features]."""
        if kept is not None and kept.shape[1] >= len(new):
            return kept
        wider = new.new_zeros(len(self._ranks), len(new), new.shape[1])
        if kept is not None:
            wider[:, : kept.shape[1]] = kept
        return wider
