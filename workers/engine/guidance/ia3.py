"""IA3: trained vectors that scale what goes into a linear module or what comes out of it.

Liu et al. 2022, https://arxiv.org/abs/2205.05638.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from guideway.catalogue.adapters.fitting import fitted_ia3
from guideway.workers.engine.guidance.model_shape import shape_of
from guideway.workers.engine.guidance.peft_folder import check_finite, read


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
        fitted = fitted_ia3(adapter, shape_of(model))
        check_finite(tensors)
        return cls(
            {
                name: Scales(**{scaled: tensors[tensor].flatten().to(device, copy=True)})
                for name, (tensor, scaled) in fitted.items()
            }
        )

    @cached_property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(part.nbytes for s in self.scales.values() for part in (s.into, s.out) if part is not None)
