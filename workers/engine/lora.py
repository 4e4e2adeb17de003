"""LoRA: low-rank updates beside the frozen weights.

Hu et al. 2021, https://arxiv.org/abs/2106.09685; rank-stabilised scaling: https://arxiv.org/abs/2312.03732;
DoRA (weight-decomposed): https://arxiv.org/abs/2402.09353.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from guideway.workers.engine.linears import features, module_named
from guideway.workers.engine.peft_folder import check_settings, check_type, damaged, read

_TENSOR: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>A\.weight|B\.weight|magnitude_vector)")

UNSUPPORTED: Final = (
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
    "use_qalora",
)
"""Settings of PEFT under which the function is more than the two factors."""

_KNOWN: Final = (
    "alpha_pattern",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "runtime_config",
    "target_modules",
    "use_dora",
    "use_rslora",
    "velora_config",
)
"""Those that are used here, that the tensors' names say as well, or that concern training."""

_CHANGES_BASE_WEIGHTS: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that take a part of the frozen weights away: without that part the factors mean nothing."""


@dataclass(frozen=True, eq=False)
class Factors:
    """The update of one module: y = W x + b + (x Aᵀ) B. A and B in the model's dtype, on its device.

    The scaling is in B. Of a DoRA, y = c ⊙ (W x) + b + (x Aᵀ) B, and c is in B as well.
    """

    a: Tensor
    """[r, in]"""
    b: Tensor
    """[r, out]; transposed as against PEFT, so that ranks are cut and joined along the first dimension of both."""
    dora_scale: Tensor | None = None
    """c = m / ‖W + ΔW‖ [out], the norm over what comes in: it needs the frozen weight once, when the DoRA is loaded"""

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
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            match = _TENSOR.fullmatch(name)
            if match is None:
                raise damaged(f"tensor {name!r} is no LoRA factor of a linear module: train it without")
            parts.setdefault(match["module"], {})[match["part"]] = tensor
        if not parts:
            raise damaged("it holds no LoRA factors: publish it again")
        device = model.get_input_embeddings().weight.device
        modules = {name: module_named(model, name) for name in parts}
        return cls({name: _fitted(name, found, config, modules[name], device) for name, found in parts.items()})

    def scaled(self, scale: float) -> Lora:
        """This LoRA with `scale` times the effect.

        Raises: Refusal `guidance_damaged` if it is a DoRA, whose c would be another one.
        """
        if scale == 1:
            return self
        if any(factors.dora_scale is not None for factors in self.factors.values()):
            raise damaged(f"it was trained with `use_dora` and takes no scale: name it without *{scale:g}")
        return Lora({name: Factors(factors.a, factors.b * scale) for name, factors in self.factors.items()})

    @cached_property
    def nbytes(self) -> int:
        tensors = [tensor for f in self.factors.values() for tensor in (f.a, f.b, f.dora_scale)]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _check(config: dict[str, Any]) -> None:
    check_type(config, "lora")
    check_settings(config, unsupported=UNSUPPORTED, known=_KNOWN)
    if config.get("bias", "none") != "none":
        raise damaged(f"it was trained with `bias: {config['bias']}`, which is not supported: train it with `none`")
    if str(config.get("init_lora_weights")).startswith(_CHANGES_BASE_WEIGHTS):
        raise damaged(
            f"`init_lora_weights: {config['init_lora_weights']}` goes with changed base weights: convert it with "
            "`save_pretrained(..., path_initial_model_for_weight_conversion=...)`"
        )


def _fitted(
    name: str, parts: dict[str, Tensor], config: dict[str, Any], module: nn.Module | None, device: torch.device
) -> Factors:
    """The factors of module `name` with their scaling: α/r, or α/√r where rank-stabilised."""
    size = features(name, module)
    assert module is not None
    rank = _setting(config, "r", "rank_pattern", name)
    alpha = _setting(config, "lora_alpha", "alpha_pattern", name)
    want = {"A.weight": [int(rank), size[0]], "B.weight": [size[1], int(rank)]}
    if config.get("use_dora"):
        want["magnitude_vector"] = [size[1]]
    have = {part: list(tensor.shape) for part, tensor in sorted(parts.items())}
    if have != want:
        raise damaged(f"its factors of {name!r} are {have}, and here they must be {want}: train it for this model")
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    assert isinstance(module.weight, Tensor)
    dtype = module.weight.dtype
    a, b = parts["A.weight"].to(device), (parts["B.weight"].T * scaling).to(device).contiguous()
    if not config.get("use_dora"):
        return Factors(a.to(dtype), b.to(dtype))
    scale = _dora_scale(name, parts["magnitude_vector"].to(device), module, a, b)
    return Factors(a.to(dtype), (b * scale).to(dtype), scale)


def _dora_scale(name: str, magnitude: Tensor, module: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """c = m / ‖W + ΔW‖ [out]"""
    frozen = module.weight
    assert isinstance(frozen, Tensor)
    weight = (frozen.T if isinstance(module, Conv1D) else frozen).float()
    scale: Tensor = magnitude / torch.addmm(weight, b.T, a).norm(dim=1)
    if not scale.isfinite().all():
        raise damaged(f"it makes an output of {name!r} nothing, which has no direction: train it again")
    return scale


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
