"""IA3: trained vectors that scale what goes into a linear module or what comes out of it.

Liu et al. 2022, https://arxiv.org/abs/2205.05638.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from guideway.catalogue.adapters.forms import ia3_modules
from guideway.workers.engine.guidance.peft_folder import check_finite, damaged, read
from guideway.workers.engine.guidance.target_modules import features, full_name, module_named


@dataclass(frozen=True, eq=False)
class Scales:
    """The vector of one module: y = out ⊙ (W x + b), or y = W (into ⊙ x) + b. float32, on the model's device."""

    into: Tensor | None = None
    """[in]"""
    out: Tensor | None = None
    """[out]; one of the two is there"""


@dataclass(frozen=True, eq=False)
class Ia3:
    """The vectors of one artefact by module name."""

    scales: Mapping[str, Scales]

    @classmethod
    def load(cls, folder: Path, model: PreTrainedModel, digest: str | None = None) -> Ia3:
        """Read a folder that PEFT saved.

        Raises: Refusal `guidance_damaged` if it is no IA3, is more than an IA3, or does not fit `model`.
        Altered if a `digest` is given and the folder's bytes are not what it says.
        """
        adapter, tensors = read(folder, "ia3", digest)
        device = model.get_input_embeddings().weight.device
        modules = ia3_modules(adapter)
        check_finite(tensors)
        return cls(
            {
                (name := full_name(model, saved)): _fitted(name, tensors[tensor], module_named(model, name), device)
                for saved, tensor in modules.items()
            }
        )

    @cached_property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(part.nbytes for s in self.scales.values() for part in (s.into, s.out) if part is not None)


def _fitted(name: str, tensor: Tensor, module: nn.Module | None, device: torch.device) -> Scales:
    """The vector of module `name`; PEFT keeps that of a feed-forward module as [1, in], of any other as [out, 1]."""
    size = features(name, module)
    shape = tuple(tensor.shape)
    vector = tensor.flatten().to(device, copy=True)
    if shape == (1, size[0]):
        return Scales(into=vector)
    if shape == (size[1], 1):
        return Scales(out=vector)
    raise damaged(
        f"its vector of {name!r} is {list(shape)}, and here it must be {[1, size[0]]} or {[size[1], 1]}: "
        "train it for this model"
    )
