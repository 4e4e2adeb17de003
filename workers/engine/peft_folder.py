"""Reading a folder of trained guidance, PEFT's or our own: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from guideway.schemas.failures import FailureCode, Refusal

_FORMS: Final[Mapping[str, str]] = {
    "PROMPT_TUNING": "soft_prompt",
    "P_TUNING": "soft_prompt",
    "PREFIX_TUNING": "prefix",
    "LORA": "lora",
    "IA3": "ia3",
    "INSERTED_LAYER": "inserted_layer",
}
"""The guidance form of each type of folder; the last is guideway's own, the others are PEFT's."""

_KNOWN: Final = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
)
"""Settings of every PEFT folder."""

_PROMPT_SETTINGS: Final = (
    "encoder_dropout",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_reparameterization_type",
    "init_weights",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "num_virtual_tokens",
    "prefix_projection",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "token_dim",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
)
"""Settings of prompts: what concerns training is no longer needed."""


def damaged(message: str) -> Refusal:
    """A refusal of guidance that cannot be used as it is."""
    return Refusal(FailureCode.GUIDANCE_DAMAGED, message)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and float32 tensors by name.

    Raises: Refusal `guidance_damaged` if a file is missing or cut short, or a value is not a finite number.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged(
            f"its files cannot be read ({type(error).__name__}): publish adapter_config.json and "
            "adapter_model.safetensors again"
        ) from error
    if not isinstance(config, dict):
        raise damaged("adapter_config.json holds no object: publish it again")
    tensors = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    # All at once and without copies, for there may be hundreds, and large ones.
    extremes = [extreme for tensor in tensors.values() if tensor.numel() for extreme in tensor.aminmax()]
    if extremes and not torch.stack(extremes).isfinite().all():
        name = next(name for name, tensor in tensors.items() if not tensor.isfinite().all())
        raise damaged(f"tensor {name!r} holds values that are not finite: train it again")
    return config, tensors


def check_type(config: Mapping[str, Any], form: str) -> None:
    """Raises: Refusal `guidance_damaged` if the folder holds another form of guidance than `form`."""
    found = str(config.get("guideway_type") or config.get("peft_type"))
    if found not in _FORMS:
        theirs = ", ".join(name for name in _FORMS if name != "INSERTED_LAYER")
        raise damaged(
            f"its peft_type is {found!r}, which is not supported: train it as one of {theirs}, or as an inserted layer"
        )
    if _FORMS[found] != form:
        raise damaged(f"its type is {found!r}, and it was declared as {form}: declare it with form {_FORMS[found]}")


def check_settings(config: Mapping[str, Any], *, unsupported: Iterable[str], known: Iterable[str]) -> None:
    """Raises: Refusal `guidance_damaged` if an unsupported setting is used, or one that is not known at all.

    A newer PEFT's new setting may well be another function of the same tensors.
    """
    for setting in unsupported:
        if config.get(setting):
            raise damaged(f"it was trained with `{setting}`, which is not supported: train it without")
    for setting in config.keys() - {*_KNOWN, *unsupported, *known}:
        if config[setting]:
            raise damaged(f"it was trained with `{setting}`, which this version does not know: train it without")


def prompt_embeddings(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    """[virtual tokens, features] of a form of prompt: PEFT saves what its encoder came to, and nothing else.

    Raises: Refusal `guidance_damaged` if that is not what the folder holds.
    """
    check_settings(config, unsupported=("modules_to_save",), known=_PROMPT_SETTINGS)
    embeddings = tensors.get("prompt_embeddings")
    if embeddings is None or len(tensors) != 1:
        raise damaged(f"it holds the tensors {sorted(tensors)}, and must hold `prompt_embeddings` alone: save it again")
    if embeddings.ndim != 2 or len(embeddings) == 0 or len(embeddings) != config.get("num_virtual_tokens"):
        raise damaged(
            f"its `prompt_embeddings` are {list(embeddings.shape)} and its `num_virtual_tokens` are "
            f"{config.get('num_virtual_tokens')}: save it again"
        )
    return embeddings
