"""Random guidance for any tiny model, written as PEFT writes it: PEFT itself does not know all families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import TrainedForm
from guideway.workers.engine.kv import kept_shapes
from guideway.workers.engine.linears import features
from guideway.workers.messages import Artefact


def lora(model: PreTrainedModel, folder: Path) -> Artefact:
    """Of rank 2 on every linear module of the attention that can carry one."""
    tensors = {}
    for name, module in model.named_modules():
        if "attn" not in name and "attention" not in name:
            continue
        try:
            size = features(name, module)
        except Refusal:
            continue
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(2, size[0]) * 0.3
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(size[1], 2) * 0.3
    return _saved(folder, "lora", tensors, {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False})


def soft_prompt(model: PreTrainedModel, folder: Path) -> Artefact:
    """Three virtual tokens."""
    width = model.get_input_embeddings().weight.shape[1]
    settings = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}
    return _saved(folder, "soft_prompt", {"prompt_embeddings": 3 * torch.randn(3, width)}, settings)


def prefix(model: PreTrainedModel, folder: Path) -> Artefact:
    """Three tokens of the shape of the first layer, where all layers have one."""
    shapes = kept_shapes(model)
    heads, dim, _ = shapes[0]
    settings = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3, "num_layers": len(shapes),
                "num_attention_heads": heads, "token_dim": heads * dim}  # fmt: skip
    flat = 3 * torch.randn(3, len(shapes) * 2 * heads * dim)
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
