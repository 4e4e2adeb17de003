"""Guidance of every kind on a plain transformers model, one row at a time: as short as it can be, and slow.

It reads the artefacts' files itself. Order on one row: prefixes, soft prompts, text; at each module IA3 on its input,
LoRAs one after the other, IA3 on what comes out; inserted layers one after the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import DynamicCache, LogitsProcessor, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from guideway.workers.messages.to_engine import Artefact


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    ids: Sequence[int],
    guidance: Sequence[Artefact],
    *,
    max_tokens: int,
    end: int,
    forms: Sequence[LogitsProcessor] = (),
) -> tuple[list[int], list[float]]:
    """Greedy tokens without the end token, and at each how far the two likeliest were apart."""
    held = [(artefact, *_read(artefact)) for artefact in guidance]
    cache = DynamicCache()
    for layer, states in enumerate(_prefix(model, [t for a, _, t in held if a.form == "prefix"])):
        cache.update(states[0][None], states[1][None], layer)
    soft = [t["prompt_embeddings"] for a, _, t in held if a.form == "soft_prompt"]
    embeddings = torch.cat([*soft, model.get_input_embeddings()(torch.tensor(ids))])[None]
    tokens: list[int] = []
    gaps: list[float] = []
    with ExitStack() as hooks:
        _hook(model, held, hooks)
        while len(tokens) < max_tokens:
            logits = model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True).logits[:, -1]
            for form in forms:
                logits = form(torch.tensor([tokens], dtype=torch.long), logits)
            top = logits[0].topk(2)
            gaps.append(float(top.values[0] - top.values[1]))
            if top.indices[0] == end:
                break
            tokens.append(int(top.indices[0]))
            embeddings = model.get_input_embeddings()(top.indices[None, :1])
    return tokens, gaps


def _read(artefact: Artefact) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = Path(artefact.folder)
    return json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")


def _prefix(model: PreTrainedModel, files: Sequence[dict[str, Tensor]]) -> Sequence[Tensor]:
    """For each layer [2, heads, tokens, dim], all prefixes one after the other."""
    config = model.config
    if not files:
        return []
    flat = torch.cat([tensors["prompt_embeddings"] for tensors in files])
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    return list(flat.view(len(flat), config.num_hidden_layers, 2, heads, -1).permute(1, 2, 3, 0, 4))


def _hook(model: PreTrainedModel, held: Sequence[tuple[Artefact, Any, Any]], hooks: ExitStack) -> None:
    for name, module in model.named_modules():
        key = f"base_model.model.{name}."
        ia3 = [t[f"{key}ia3_l"] for a, _, t in held if a.form == "ia3" and f"{key}ia3_l" in t]
        loras = [(a, c, t) for a, c, t in held if a.form == "lora" and f"{key}lora_A.weight" in t]
        if ia3 or loras:
            into = [vector[0] for vector in ia3 if vector.shape[0] == 1]
            out = [vector[:, 0] for vector in ia3 if vector.shape[0] != 1]
            before, after = _scaled(into), _changed(module, key, loras, out)
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after).remove)

    layers = next(
        m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == model.config.num_hidden_layers
    )
    for k, layer in enumerate(layers):
        for artefact, config, tensors in held:
            if artefact.form == "inserted_layer" and k in config["after_layers"]:
                hooks.callback(layer.register_forward_hook(_inserted(config, tensors, f"after_layers.{k}.")).remove)


def _inserted(config: dict[str, Any], tensors: dict[str, Tensor], key: str) -> Callable[..., Any]:
    def after(module: nn.Module, args: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        normed = h / (h.pow(2).mean(-1, keepdim=True) + config["norm_eps"]).sqrt() * tensors[f"{key}norm.weight"]
        inner = getattr(nn.functional, config["activation"])(normed @ tensors[f"{key}down.weight"].T)
        h = h + inner @ tensors[f"{key}up.weight"].T
        return (h, *output[1:]) if isinstance(output, tuple) else h

    return after


def _scaled(vectors: Sequence[Tensor]) -> Callable[..., Any]:
    def before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]
        for vector in vectors:
            x = x * vector
        return (x, *args[1:])

    return before


def _changed(
    module: Any, key: str, loras: Sequence[tuple[Artefact, Any, Any]], out: Sequence[Tensor]
) -> Callable[..., Any]:
    weight = module.weight.T if isinstance(module, Conv1D) else module.weight
    bias = 0 if module.bias is None else module.bias
    updates = []
    for artefact, config, tensors in loras:
        a, b = tensors[f"{key}lora_A.weight"].float(), tensors[f"{key}lora_B.weight"].float()
        b = b * artefact.scale * config["lora_alpha"] / (math.sqrt(len(a)) if config["use_rslora"] else len(a))
        magnitude = tensors.get(f"{key}lora_magnitude_vector")
        updates.append((a, b, None if magnitude is None else magnitude / (weight + b @ a).norm(dim=1)))

    def after(module: Any, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        for a, b, direction in updates:
            y = y + args[0] @ a.T @ b.T
            y = y if direction is None else (y - bias) * direction + bias
        for vector in out:
            y = y * vector
        return y

    return after
