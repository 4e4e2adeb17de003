"""A folder of trained guidance, PEFT's or our own, as tensors. `catalogue/adapters/adapter.py` checks what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from guideway.catalogue.adapters.adapter import Adapter, TensorInfo, damaged, not_finite, parse_adapter
from guideway.catalogue.adapters.forms import check_type
from guideway.catalogue.artefacts.contents import PEFT_FILES, read_fetched, read_folder
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import TrainedForm

__all__ = ["check_finite", "damaged", "read"]

_DTYPES: Final = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read(folder: Path, form: TrainedForm, digest: str | None) -> tuple[Adapter, dict[str, Tensor]]:
    """What the folder holds, and its tensors in float32 by name, which may share memory with the bytes that were read.

    Each file is read once, so that the bytes that are hashed are the bytes that are used. That all numbers are
    finite is checked on the tensors that are made of these (`check_finite`).

    Raises: Refusal `guidance_damaged` if a file is missing or cut short, or is of another form; Altered if a `digest`
    is given, and the bytes are not what it says.
    """
    if digest is not None:
        files = read_fetched(folder, digest)
    else:
        try:
            files = read_folder(folder, PEFT_FILES)
        except Refusal as refusal:
            raise damaged(f"its files cannot be read: {refusal.message}") from None
    adapter = parse_adapter(files)
    check_type(adapter.config, form)
    return adapter, {name: _tensor(adapter, info) for name, info in adapter.tensors.items()}


def check_finite(tensors: dict[str, Tensor]) -> None:
    """Check tensors of one type, as they will be used. Raises: Refusal `guidance_damaged` if a value is not finite."""
    # All at once and without copies, because they may be many and large.
    extremes = [extreme for tensor in tensors.values() if tensor.numel() for extreme in tensor.aminmax()]
    if extremes and not torch.stack(extremes).isfinite().all():
        raise not_finite(next(name for name, tensor in tensors.items() if not tensor.isfinite().all()))


def _tensor(adapter: Adapter, info: TensorInfo) -> Tensor:
    if not info.values:
        return torch.empty(info.shape)
    flat = torch.frombuffer(adapter.weights, dtype=_DTYPES[info.dtype], count=info.values, offset=info.start)
    return flat.to(torch.float32).reshape(info.shape)
