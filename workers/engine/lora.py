"""LoRA: low-rank updates beside the frozen weights.

Hu et al. 2021, https://arxiv.org/abs/2106.09685; rank-stabilised scaling: https://arxiv.org/abs/2312.03732.
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

from guideway.workers.engine.linears import features
from guideway.workers.engine.peft_folder import check_settings, check_type, damaged, read

_TENSOR: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")

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
    dora_scale: Tensor | None = None
    """[out]"""

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


def _check(config: dict[str, Any]) -> None:
    check_type(config, "lora")
    check_settings(config, UNSUPPORTED)
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
    size = features(name, module)
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
