"""Inserted layers: trained bottleneck blocks between two layers of the frozen model.

h ← h + U act(D norm(h)), after decoder layer k; norm is root mean square normalisation with a trained weight. After
Houlsby et al. 2019, https://arxiv.org/abs/1902.00751, with the block between the layers and not within them. With
U = 0, from which training starts, the model is what it was.

Its folder has a format of guideway's own:

- adapter_config.json: `guideway_type` is `INSERTED_LAYER`, `format_version` 1, `after_layers` the numbers k from 0 on,
  `bottleneck` r, `hidden_size`, `activation` `gelu` (the exact one), `silu` or `relu`, `norm_eps`;
- adapter_model.safetensors: for every k `after_layers.K.norm.weight` [hidden], `after_layers.K.down.weight` D
  [r, hidden], `after_layers.K.up.weight` U [hidden, r].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from guideway.catalogue.adapters.fitting import check_inserted_layer
from guideway.catalogue.adapters.forms import (
    Activation,
    check_inserted_tensors,
    inserted_layer_config,
    inserted_shapes,
)
from guideway.workers.engine.guidance.model_shape import shape_of
from guideway.workers.engine.guidance.peft_folder import check_finite, read

ACTIVATIONS: Final[Mapping[Activation, Callable[[Tensor], Tensor]]] = {
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "relu": nn.functional.relu,
}


@dataclass(frozen=True, eq=False)
class Block:
    """One block: h + act(rms(h) Dᵀ) U, the weight of the norm is in D. float32, on the model's device."""

    down: Tensor
    """D [r, hidden]"""
    up: Tensor
    """U [r, hidden]; transposed as against the file"""
    activation: Activation
    norm_eps: float


@dataclass(frozen=True, eq=False)
class InsertedLayer:
    """The blocks of one artefact by the number of the decoder layer that each stands after."""

    blocks: Mapping[int, Block]

    @classmethod
    def load(cls, folder: Path, model: PreTrainedModel, digest: str | None = None) -> InsertedLayer:
        """Read a folder that `TrainableInsertedLayer` saved.

        Raises: Refusal `guidance_damaged` if it is no inserted layer or does not fit `model`.
        Altered if a `digest` is given and the folder's bytes are not what it says.
        """
        adapter, tensors = read(folder, "inserted_layer", digest)
        config = inserted_layer_config(adapter)
        check_inserted_layer(config, shape_of(model))
        check_inserted_tensors(config, adapter)
        device = model.get_input_embeddings().weight.device
        blocks = {}
        for k in config.after_layers:
            norm, down, up = (tensors[f"after_layers.{k}.{part}"].to(device) for part in inserted_shapes(0, 0))
            blocks[k] = Block(down * norm, up.T.contiguous(), config.activation, config.norm_eps)
            check_finite({f"after_layers.{k}.down.weight": blocks[k].down, f"after_layers.{k}.up.weight": blocks[k].up})
        return cls(blocks)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(block.down.nbytes + block.up.nbytes for block in self.blocks.values())


def rms(h: Tensor, eps: float | Tensor) -> Tensor:
    """h / √(mean(h²) + eps) over the last dimension, in float32 (https://arxiv.org/abs/1910.07467)."""
    h = h.to(torch.float32)
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)
