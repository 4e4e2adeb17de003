"""An inserted layer in training, on a plain transformers model with autograd. Serving runs what it saves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from guideway.catalogue.adapters.forms import Activation, InsertedLayerConfig
from guideway.workers.engine.guidance.inserted_layer import ACTIVATIONS, rms
from guideway.workers.engine.guidance.target_modules import decoder_layers


class TrainableBlock(nn.Module):
    """h + U act(D norm(h)) for h [..., hidden]; the parameters are float32."""

    def __init__(self, config: InsertedLayerConfig, device: torch.device) -> None:
        super().__init__()
        hidden, r = config.hidden_size, config.bottleneck
        self._eps = config.norm_eps
        self._activation = ACTIVATIONS[config.activation]
        self.norm = nn.Parameter(torch.ones(hidden, device=device))
        self.down = nn.Parameter(torch.randn(r, hidden, device=device) / hidden**0.5)
        # The model begins as it is.
        self.up = nn.Parameter(torch.zeros(hidden, r, device=device))

    def forward(self, h: Tensor) -> Tensor:
        """h + U act(D norm(h)), in the dtype of h [..., hidden]."""
        inner = self._activation(nn.functional.linear(rms(h, self._eps) * self.norm, self.down))
        return h + nn.functional.linear(inner, self.up).to(h.dtype)


class TrainableInsertedLayer(nn.Module):
    """The blocks of one artefact, in training; its parameters are all that is trained.

    Inside `with layer.inserted(model):` every forward pass of `model` goes through the blocks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        after_layers: Sequence[int],
        bottleneck: int,
        activation: Activation = "gelu",
        norm_eps: float = 1e-6,
    ) -> None:
        """after_layers: numbers of decoder layers, from 0 on; bottleneck: r, the inner width."""
        super().__init__()
        table = model.get_input_embeddings().weight
        self.config = InsertedLayerConfig(
            after_layers=list(after_layers),
            bottleneck=bottleneck,
            hidden_size=table.shape[1],
            activation=activation,
            norm_eps=norm_eps,
        )
        self.blocks = nn.ModuleDict({str(k): TrainableBlock(self.config, table.device) for k in after_layers})

    @contextlib.contextmanager
    def inserted(self, model: PreTrainedModel) -> Iterator[None]:
        """A context in which the blocks act in `model`, by hooks; the model itself is not changed."""
        layers = decoder_layers(model)
        with contextlib.ExitStack() as hooks:
            for k, block in self.blocks.items():
                hooks.callback(layers[int(k)].register_forward_hook(_hook(block)).remove)
            yield

    def save(self, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors into `folder`, which is made if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"after_layers.{k}.{name}.weight": parameter.detach().cpu().contiguous()
            for k, block in self.blocks.items()
            for name, parameter in block.named_parameters()
        }
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = msgspec.json.format(msgspec.json.encode(self.config), indent=2)
        (folder / "adapter_config.json").write_bytes(config + b"\n")


def _hook(block: nn.Module) -> Any:
    def hook(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (block(output[0]), *output[1:])
        return block(output)

    return hook
