"""What a configuration tells: kinds of models that do not run, and where the context of the others ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from guideway.catalogue.documents.manifest_files import Source
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.settings import Settings
from guideway.usecases.apply import apply_manifests
from guideway.workers.engine.model.model_kind import check_kind, check_source, context_of


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({}, None),
        ({"max_position_embeddings": 8192}, 8192),
        ({"max_seq_len": 2048}, 2048),
        ({"max_position_embeddings": 1024, "n_ctx": 512}, 1024),
        ({"text_config": {"max_position_embeddings": 4096}}, 4096),
        # Windows
        ({"max_position_embeddings": 8192, "sliding_window": 4096}, 4096),
        ({"max_position_embeddings": 8192, "sliding_window": 4096, "layer_types": ["full_attention"]}, 8192),
        ({"max_position_embeddings": 8192, "sliding_window": 64, "layer_types": ["sliding_attention"]}, 64),
        ({"max_position_embeddings": 8192, "sliding_window": 64, "use_sliding_window": False}, 8192),
        ({"max_position_embeddings": 9000, "attention_chunk_size": 8192, "layer_types": ["chunked_attention"]}, 8192),
        ({"max_position_embeddings": 2048, "window_size": 256}, 256),
        ({"max_position_embeddings": 2048, "max_window_layers": 28}, 2048),
        # Rotary positions
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
          "original_max_position_embeddings": 8192}}, 131072),
        ({"max_position_embeddings": 131072, "rope_scaling": {"type": "yarn", "factor": 4.0,
          "original_max_position_embeddings": 32768}}, 131072),
        ({"max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
          "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}}, 4096),
        ({"max_position_embeddings": 131072, "rope_parameters": {"rope_type": "longrope",
          "original_max_position_embeddings": 4096}}, 4096),
        ({"max_position_embeddings": 8192, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0,
          "original_max_position_embeddings": 2048}}, 2048),
        ({"max_position_embeddings": 8192, "rope_parameters": {
          "full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 1024},
          "sliding_attention": {"rope_type": "default"}}}, 1024),
        ({"model_type": "phimoe", "max_position_embeddings": 8192, "rope_parameters": {"rope_type": "yarn",
          "original_max_position_embeddings": 1024}}, 1024),
    ],
)  # fmt: skip
def test_the_context_ends_where_the_model_computes_something_else(config: dict[str, Any], context: int | None) -> None:
    assert context_of(config) == context


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"text_config": {"layer_types": ["conv"]}}, "conv"),
        ({"model_type": "falcon", "alibi": True}, "ALiBi"),
        ({"model_type": "bloom"}, "ALiBi"),
        ({"model_type": "gemma3n_text", "hidden_size_per_layer_input": 256}, "ids at every layer"),
    ],
)
def test_kinds_that_do_not_run_are_told(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refusal, match=reason) as caught:
        check_kind(config)
    assert caught.value.code == FailureCode.UNSUPPORTED_MODEL
    assert not caught.value.code.retryable


def test_a_folder_tells_its_kind_when_it_is_applied(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "falcon", "alibi": True}))
    model = Model(namespace="public", name="small", source=str(tmp_path))
    with pytest.raises(Refusal, match="ALiBi"):
        # Before any broker is asked.
        asyncio.run(
            apply_manifests(Settings(home=tmp_path, store="", named=Cluster("nowhere:1")), [Source(tmp_path, model)])
        )


def test_a_folder_tells_that_it_cannot_be_int8_when_it_is_applied(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_moe", "num_experts": 8}))
    check_source(str(tmp_path), "bfloat16")
    model = Model(namespace="public", name="small", source=str(tmp_path), dtype="int8")
    with pytest.raises(Refusal, match="experts"):
        asyncio.run(
            apply_manifests(Settings(home=tmp_path, store="", named=Cluster("nowhere:1")), [Source(tmp_path, model)])
        )


@pytest.mark.parametrize("written", ["", "[1]", None])
def test_a_source_that_does_not_tell_its_kind_is_the_workers_affair(tmp_path: Path, written: str | None) -> None:
    if written is not None:
        (tmp_path / "config.json").write_text(written)
    check_source(str(tmp_path))
    check_source("package:llm/model.gguf")
    check_source("owner/name")


def test_kinds_that_run_are_not_refused() -> None:
    check_kind({"model_type": "falcon", "alibi": False, "layer_types": None, "hidden_size_per_layer_input": 0})
    check_kind({"layer_types": ["full_attention", "sliding_attention", "chunked_attention"]})
