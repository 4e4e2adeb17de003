"""Random guidance for any tiny model, written as PEFT writes it: PEFT itself does not know all families."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from guideway.catalogue.adapters.fitting import is_expert
from guideway.schemas.manifests import TrainedForm
from guideway.workers.engine.guidance.target_modules import features
from guideway.workers.engine.model.kv_cache import kept_shapes
from guideway.workers.messages.to_engine import Artefact


def lora(model: PreTrainedModel, folder: Path) -> Artefact:
    """Of rank 2 on every linear module of the attention that can carry one."""
    tensors = {}
    for name, (into, out) in _places(model):
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(2, into) * 0.3
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, 2) * 0.3
    return _saved(folder, "lora", tensors, {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False})


def ia3(model: PreTrainedModel, folder: Path) -> Artefact:
    """A vector on what comes out of each of the same modules."""
    tensors = {f"base_model.model.{name}.ia3_l": 1 + torch.randn(out, 1) for name, (_, out) in _places(model)}
    return _saved(folder, "ia3", tensors, {"peft_type": "IA3"})


def inserted_layer(model: PreTrainedModel, folder: Path) -> Artefact:
    """A block after each layer but the last."""
    width = model.get_input_embeddings().weight.shape[1]
    after = list(range(model.config.get_text_config().num_hidden_layers - 1))
    tensors = {}
    for k in after:
        tensors[f"after_layers.{k}.norm.weight"] = torch.ones(width)
        tensors[f"after_layers.{k}.down.weight"] = torch.randn(2, width)
        tensors[f"after_layers.{k}.up.weight"] = torch.randn(width, 2)
    settings = {"guideway_type": "INSERTED_LAYER", "format_version": 1, "after_layers": after, "bottleneck": 2,
                "hidden_size": width, "activation": "silu", "norm_eps": 1e-6}  # fmt: skip
    return _saved(folder, "inserted_layer", tensors, settings)


def _places(model: PreTrainedModel) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and sizes of the linear modules of the attention."""
    for name, module in model.named_modules():
        widths = features(module)
        if ("attn" in name or "attention" in name) and widths is not None and not is_expert(name):
            yield name, widths


def soft_prompt(model: PreTrainedModel, folder: Path) -> Artefact:
    """Three virtual tokens."""
    width = model.get_input_embeddings().weight.shape[1]
    settings = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}
    return _saved(folder, "soft_prompt", {"prompt_embeddings": 5 * torch.randn(3, width)}, settings)


def prefix(model: PreTrainedModel, folder: Path) -> Artefact:
    """Three tokens of the shape of the first layer, where all layers have one."""
    shapes = kept_shapes(model)
    heads, dim, _ = shapes[0]
    settings = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3, "num_layers": len(shapes),
                "num_attention_heads": heads, "token_dim": heads * dim}  # fmt: skip
    flat = 5 * torch.randn(3, len(shapes) * 2 * heads * dim)
    return _saved(folder, "prefix", {"prompt_embeddings": flat}, settings)


def prefix_of(artefact: Artefact) -> list[tuple[Tensor, Tensor]]:
    """Keys and values per layer, each [1, heads, tokens, head_dim]: read from the file, without the engine."""
    from safetensors.torch import load_file

    config = json.loads((Path(artefact.folder) / "adapter_config.json").read_text())
    flat = load_file(Path(artefact.folder) / "adapter_model.safetensors")["prompt_embeddings"]
    states = flat.view(len(flat), config["num_layers"], 2, config["num_attention_heads"], -1)
    return [(layer[0][None], layer[1][None]) for layer in states.permute(1, 2, 3, 0, 4)]


def _saved(folder: Path, form: TrainedForm, tensors: dict[str, Tensor], config: dict[str, Any]) -> Artefact:
    folder = folder / form
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = f"team/{form.replace('_', '-')}@1"
    return Artefact(name=name, form=form, digest=f"sha256:{form:0<64}", folder=str(folder))
