"""The peers that guideway is compared with: transformers, PEFT, and the matrix products alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from benchmarks.figures import now
from peft import PeftModel
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from guideway.workers.engine.kernels.linears.packed import PackedLinear, can_pack
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.messages.to_engine import Artefact


@torch.inference_mode()
def generate(model: Any, ids: torch.Tensor, new_tokens: int, **settings: Any) -> float:
    """Tokens per second of `generate`; ids [rows, tokens]."""
    began = now()
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
        **settings,
    )
    return len(ids) * new_tokens / (now() - began)


def peft_of(base: BaseModel, loras: Sequence[Artefact]) -> PeftModel:
    """A model with these LoRAs as adapters "0", "1", …; `base` is PEFT's from here on."""
    model = PeftModel.from_pretrained(base.model, loras[0].folder, "0").eval()
    for i, artefact in enumerate(loras[1:], start=1):
        model.load_adapter(artefact.folder, str(i))
    return model


def one_by_one(model: PeftModel, ids: torch.Tensor, new_tokens: int, endpoints: int) -> float:
    """Tokens per second if each endpoint's row is generated alone, one endpoint after the other."""
    began = now()
    for i in range(endpoints):
        model.set_adapter(str(i))
        generate(model, ids[:1], new_tokens)
    return endpoints * new_tokens / (now() - began)


def products(model: PreTrainedModel) -> Callable[[int], float]:
    """A function of rows: tokens per second if a step computed only the products of all linears, each linear by itself.

    Weights are packed for oneDNN where it has products for them. It is a peer: on some processors the engine has its
    own ones.
    """
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    forwards: list[tuple[Callable[[torch.Tensor], torch.Tensor], int]] = [
        (PackedLinear(linear) if can_pack(linear) else linear.forward, linear.in_features) for linear in linears
    ]

    @torch.inference_mode()
    def measure(rows: int, steps: int = 8) -> float:
        inputs = {width: torch.randn(rows, 1, width, dtype=model.dtype) for _, width in forwards}
        began = now()
        for _ in range(steps):
            for forward, width in forwards:
                forward(inputs[width])
        return rows * steps / (now() - began)

    return measure


def products_of(model: PreTrainedModel) -> Callable[[int, int], None]:
    """A function that computes the products of so many tokens, and those of the output head of so many of them.

    Linears are packed for oneDNN, and joined as the engine does it with a model of Llama's kind in bfloat16: q, k and v
    are one product, gate and up another.
    """
    head = model.get_output_embeddings()
    groups: dict[tuple[str, str], list[nn.Linear]] = {}
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            parent, _, own = name.rpartition(".")
            joined = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "up", "up_proj": "up"}
            groups.setdefault((parent, joined.get(own, own)), []).append(module)
    forwards = [(PackedLinear(*linears), linears[0].in_features, linears[0] is head) for linears in groups.values()]

    def compute(tokens: int, ends: int) -> None:
        inputs = {
            (width, count): torch.randn(1, count, width, dtype=model.dtype)
            for _, width, _ in forwards
            for count in (tokens, ends)
        }
        for forward, width, is_head in forwards:
            if count := ends if is_head else tokens:
                forward(inputs[width, count])

    return compute


def continuous(model: PreTrainedModel, ids: torch.Tensor, lengths: Sequence[int]) -> float:
    """Tokens per second of transformers' own continuous batching. All rows generate up to the longest of `lengths`.

    Raises: what transformers raises if it cannot run.
    """
    config = GenerationConfig(max_new_tokens=max(lengths), do_sample=False, eos_token_id=-1, pad_token_id=0)
    began = now()
    found = model.generate_batch([ids[0].tolist()] * len(lengths), generation_config=config)
    tokens = sum(len(output.generated_tokens) for output in found.values())
    if not tokens:
        raise RuntimeError("it gave no tokens")
    return tokens / (now() - began)
