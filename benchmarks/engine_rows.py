"""Requests, artefacts and engines for the benchmarks."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from benchmarks.figures import now
from peft import IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from guideway.schemas.generation import Generation
from guideway.schemas.output import Text
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.guidance.inserted_training import TrainableInsertedLayer
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.to_engine import Admit, Artefact, EngineSettings

VIRTUAL_TOKENS: Final = 20
QV: Final = ("q_proj", "v_proj")
CONFIGS: Final[dict[str, tuple[Any, PeftConfig]]] = {
    "soft prompts": ("soft_prompt", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS)),
    "prefixes": ("prefix", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS)),
    "LoRAs (q, v)": (
        "lora",
        LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=list(QV), init_lora_weights=False),
    ),
    "LoRAs (all linears)": (
        "lora",
        LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear", init_lora_weights=False),
    ),
    "IA3": (
        "ia3",
        IA3Config(
            task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
        ),
    ),
}


def artefacts(bare: BaseModel, folder: Path, kind: str, count: int) -> list[Artefact]:
    """`count` random artefacts of a kind; only their shapes matter here. `bare` is unchanged afterwards."""
    if kind == "inserted layers":
        return [_inserted(bare, folder / f"inserted{i}", i) for i in range(count)]
    form, config = CONFIGS[kind]
    saved = []
    for i in range(count):
        place = folder / f"{kind}{i}"
        model = get_peft_model(bare.model, config)
        model.save_pretrained(place)
        if form in {"lora", "ia3"}:
            model.unload()
        saved.append(Artefact(name=f"bench/{form}{i}@1", form=form, digest=str(place), folder=str(place)))
    return saved


def _inserted(bare: BaseModel, folder: Path, seed: int) -> Artefact:
    last = bare.model.config.get_text_config().num_hidden_layers - 1
    layer = TrainableInsertedLayer(bare.model, after_layers=[last // 3, last - last // 3], bottleneck=16)
    torch.manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data.normal_(std=0.01)
    layer.save(folder)
    return Artefact(name=f"bench/inserted{seed}@1", form="inserted_layer", digest=str(folder), folder=str(folder))


def parts(text: str) -> list[Part]:
    return [Part(kind="input", source="caller", text=text)]


def text_of_length(base: BaseModel, tokens: int) -> str:
    """A text whose whole prompt has so many tokens."""
    layout, text = PromptLayout(base.tokenizer), "Tell me"
    while (length := len(layout.encode(parts(text)).token_ids)) < tokens:
        text += " more"
    if length != tokens:
        raise SystemExit(f"prompts have at least {length} tokens: give a larger --prompt")
    return text


def admit(id_: str, text: str, new_tokens: int, artefact: Artefact | None = None, instruction: str = "") -> Admit:
    fixed = [Part(kind="instruction", source="endpoint", text=instruction)] if instruction else []
    request = Request(
        id=id_,
        namespace="bench",
        endpoint="bench",
        endpoint_version=1,
        parts=[*fixed, *parts(text)],
        guidance=[],
        output=Text(),
        words=[],
        generation=Generation(max_tokens=new_tokens),
        reply_to=[ReplyAddress(topic="gw.bench.bench.out.v1")],
        deadline_ms=None,
    )
    return Admit(id=id_, request=request, artefacts=[] if artefact is None else [artefact])


def admits(text: str, rows: int, new_tokens: int, artefacts: Sequence[Artefact] = ()) -> list[Admit]:
    """One request for each row; row i has artefact i."""
    return [admit(str(i), text, new_tokens, artefacts[i] if artefacts else None) for i in range(rows)]


def new_engine(base: BaseModel, *, max_context_tokens: int = 2048, **settings: Any) -> Engine:
    """An engine without end tokens, so that every row generates up to its limit."""
    settled = EngineSettings(**settings)
    engine = Engine(replace(base, eos_ids=frozenset()), settled, max_context_tokens=max_context_tokens)
    # As in the engine's process.
    gc.collect()
    gc.freeze()
    return engine


def rate(engine: Engine, rows: Sequence[Admit]) -> float:
    """New tokens per second of these rows. All of them wait at the start."""
    began = now()
    for row in rows:
        engine.add(row)
    while engine.has_work:
        engine.step(time.time())
    return sum(row.request.generation.max_tokens for row in rows) / (now() - began)
