"""Which modules of a model can carry an adapter, and between which layers one can be inserted."""

from __future__ import annotations

from typing import Final

from torch import nn
from transformers import PreTrainedModel
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

from guideway.catalogue.adapters.fitting import no_list_of_layers
from guideway.workers.engine.kernels.linears.int8_linear import Int8Linear

_PLAIN: Final = (nn.Linear.forward, FalconLinear.forward, Int8Linear.forward)
"""A subclass of `nn.Linear` with another `forward` computes something else, as routers do."""


def features(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear module; None where it is none, or can carry no adapter."""
    match module:
        case nn.Linear() if type(module).forward in _PLAIN:
            return module.in_features, module.out_features
        case Conv1D():
            return module.nx, module.nf
    return None


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers of a model, after each of which a block can stand.

    Raises: Refusal `guidance_damaged` if the model has no plain list of layers.
    """
    config = model.config.get_text_config()
    found = layers_in_list(model)
    if found is None:
        raise no_list_of_layers(config.model_type, config.num_hidden_layers)
    return found


def layers_in_list(model: PreTrainedModel) -> nn.ModuleList | None:
    """The plain list of the decoder layers of a model; None where it has none."""
    wanted = model.config.get_text_config().num_hidden_layers
    lists = (module for module in model.get_decoder().modules() if isinstance(module, nn.ModuleList))
    return next((one for one in lists if len(one) == wanted), None)
