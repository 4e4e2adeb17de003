"""Which modules of a model can carry an adapter."""

from __future__ import annotations

import re
from typing import Final

from torch import nn
from transformers import PreTrainedModel
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

from guideway.workers.engine.guidance.peft_folder import damaged

_PLAIN: Final = (nn.Linear.forward, FalconLinear.forward)
"""A subclass of `nn.Linear` with another `forward` computes something else, as routers do."""
_EXPERT: Final = re.compile(r"(^|\.)experts\.\d+\.")


def module_named(model: nn.Module, name: str) -> nn.Module | None:
    """The module of this name; None where `model` has no such module."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def full_name(model: PreTrainedModel, name: str) -> str:
    """A module's name in `model`, also where it was trained on the model without its head (`AutoModel`)."""
    longer = f"{model.base_model_prefix}.{name}"
    return longer if module_named(model, name) is None and module_named(model, longer) is not None else name


def features(name: str, module: nn.Module | None) -> tuple[int, int]:
    """(in, out) of the linear module `name`.

    Raises: Refusal `guidance_damaged` if the model has no such module, or it can carry no adapter.
    """
    if _EXPERT.search(name):
        # An expert sees tokens without the rows that they came from.
        raise damaged(f"it targets {name!r}, one expert of a mixture, which is not supported: train it without")
    match module:
        case nn.Linear() if type(module).forward in _PLAIN:
            return module.in_features, module.out_features
        case Conv1D():
            return module.nx, module.nf
    raise damaged(f"it targets {name!r}, which is no linear module of the model: train it for this model")
