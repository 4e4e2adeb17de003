"""LoRA: low-rank updates beside the frozen weights.

Hu et al. 2021, https://arxiv.org/abs/2106.09685; rank-stabilised scaling: https://arxiv.org/abs/2312.03732;
DoRA (weight-decomposed): https://arxiv.org/abs/2402.09353.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from guideway.catalogue.adapters.fitting import fitted_lora
from guideway.catalogue.adapters.forms import LoraModule
from guideway.workers.engine.guidance.model_shape import shape_of
from guideway.workers.engine.guidance.peft_folder import check_finite, damaged, read
from guideway.workers.engine.kernels import large_pages
from guideway.workers.engine.kernels.linears.int8_linear import dtype_of


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
    """c = m / ‖W + ΔW‖ [out], the norm over the inputs. It is computed once, when the DoRA is loaded."""

    @property
    def rank(self) -> int:
        """r, the inner width of the update."""
        return len(self.a)


@dataclass(frozen=True, eq=False)
class Lora:
    """The updates of one artefact by module name."""

    factors: Mapping[str, Factors]
    _scaled: WeakValueDictionary[float, Lora] = field(default_factory=WeakValueDictionary)
    """What rows have of it at other scales"""

    @classmethod
    def load(cls, folder: Path, model: PreTrainedModel, digest: str | None = None) -> Lora:
        """Read a folder that PEFT saved.

        Raises: Refusal `guidance_damaged` if it is no LoRA, is more than a LoRA, or does not fit `model`.
        Altered if a `digest` is given and the folder's bytes are not what it says.
        """
        adapter, tensors = read(folder, "lora", digest)
        device = model.get_input_embeddings().weight.device
        factors = {
            name: _factors(name, found, tensors, model.get_submodule(name), device)
            for name, found in fitted_lora(adapter, shape_of(model)).items()
        }
        lora = cls(_side_by_side(factors))
        # Rounded to the model's type and scaled, a number that was finite in the file may not be finite any more.
        check_finite({f"{name}.lora_A": factors.a for name, factors in lora.factors.items()})
        check_finite({f"{name}.lora_B": factors.b for name, factors in lora.factors.items()})
        return lora

    def scaled(self, scale: float) -> Lora:
        """This LoRA with `scale` times the effect; the same one as long as it is in use.

        Raises: Refusal `guidance_damaged` if it is a DoRA, because its c would have to be computed anew, or if so large
        numbers are none of the model's type.
        """
        if scale == 1:
            return self
        if any(factors.dora_scale is not None for factors in self.factors.values()):
            raise damaged(f"it was trained with `use_dora` and takes no scale: name it without *{scale:g}")
        found = self._scaled.get(scale)
        if found is None:
            found = Lora({name: Factors(factors.a, factors.b * scale) for name, factors in self.factors.items()})
            if abs(scale) > 1 and not all(factors.b.isfinite().all() for factors in found.factors.values()):
                raise damaged(f"{scale:g} times its weights are more than the model's type holds: scale it less")
            self._scaled[scale] = found
        return found

    @cached_property
    def nbytes(self) -> int:
        """Bytes of memory."""
        tensors = [tensor for f in self.factors.values() for tensor in (f.a, f.b, f.dora_scale)]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _factors(
    name: str, found: LoraModule, tensors: dict[str, Tensor], module: nn.Module, device: torch.device
) -> Factors:
    """The factors of module `name`, which they fit, with their scaling."""
    parts = {part: tensors[tensor] for part, tensor in found.tensors.items()}
    dtype = dtype_of(module)
    if found.frozen and not _is_copy(tensors[found.frozen].to(device), module):
        raise damaged(
            f"it holds weights of {name!r} that are not this model's: train it on this model as it is, or, if they "
            "were not trained, save it again with `save_pretrained(..., save_embedding_layers=False)`"
        )
    a, b = parts["A.weight"], (parts["B.weight"].T * found.scaling).to(device).contiguous()
    if "magnitude_vector" not in parts:
        # A is copied, or it would keep the whole file in memory.
        return Factors(a.to(device, dtype, copy=True), b.to(dtype))
    a = a.to(device, copy=True)
    scale = _dora_scale(name, parts["magnitude_vector"].to(device), module, a, b)
    return Factors(a.to(dtype), (b * scale).to(dtype), scale)


def _side_by_side(factors: dict[str, Factors]) -> dict[str, Factors]:
    """The same, on a CPU in one piece of memory: each step reads all of it."""
    pairs = [part for each in factors.values() for part in (each.a, each.b)]
    if any(part.device.type != "cpu" for part in pairs):
        return factors
    parts = iter(large_pages.side_by_side(pairs))
    return {name: Factors(next(parts), next(parts), each.dora_scale) for name, each in factors.items()}


def _is_copy(copy: Tensor, module: nn.Module) -> bool:
    """Whether `copy` is the module's weight, up to the rounding of the types that they were kept in."""
    frozen = module.weight
    assert isinstance(frozen, Tensor)
    weight = frozen.T if isinstance(module, Conv1D) else frozen
    # bfloat16 keeps 8 bits of a number: two roundings differ by one part in 128 at most.
    return copy.shape == weight.shape and torch.allclose(copy.to(weight.dtype), weight, rtol=2**-7, atol=1e-6)


def _dora_scale(name: str, magnitude: Tensor, module: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """c = m / ‖W + ΔW‖ [out]"""
    frozen = module.weight
    assert isinstance(frozen, Tensor)
    weight = (frozen.T if isinstance(module, Conv1D) else frozen).float()
    scale: Tensor = magnitude / torch.addmm(weight, b.T, a).norm(dim=1)
    if not scale.isfinite().all():
        raise damaged(f"it makes an output of {name!r} nothing, which has no direction: train it again")
    return scale
