"""Reading a PEFT folder: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from guideway.schemas.failures import FailureCode, Refusal


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
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise damaged(f"tensor {name!r} holds values that are not finite: train it again")
    return config, tensors
