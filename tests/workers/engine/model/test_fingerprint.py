"""One fingerprint for one function: settings of all families, tokenizer and chat template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.workers.engine.conftest import tiny_tokenizer
from tests.workers.engine.families import FAMILIES, LLAMA_LIKE, tiny
from transformers import CONFIG_MAPPING

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.model.fingerprint import fingerprint, identify
from guideway.workers.engine.model.model_settings import essential_settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model with its tokenizer, as transformers saves them."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tiny("llama", tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("family", "one", "other"),
    [
        ("gpt_neox", {}, {"use_parallel_residual": False}),
        ("gpt2", {}, {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {}, {"scale_attn_weights": False}),
        ("olmoe", {"norm_topk_prob": True}, {"norm_topk_prob": False}),
        ("mistral", {"sliding_window": None}, {"sliding_window": 4096}),
        ("mistral", {}, {"sliding_window": None}),
        ("gemma3_text", {}, {"layer_types": ["full_attention", "full_attention"]}),
        ("qwen3", {"layer_types": ["full_attention"] * 2}, {"layer_types": ["sliding_attention", "full_attention"]}),
        (
            "phi3",
            {},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        ),
        ("cohere", {}, {"logit_scale": 0.5}),
        ("granite", {}, {"residual_multiplier": 0.5}),
        ("deepseek_v3", {}, {"routed_scaling_factor": 1.0}),
        ("llama", {}, {"a_setting_of_a_later_version": 3}),
    ],
)
def test_settings_that_change_the_function_are_seen(family: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    config = {"model_type": family, **FAMILIES.get(family, {"num_hidden_layers": 2})}
    assert essential_settings(config | one) != essential_settings(config | other)


@pytest.mark.parametrize("family", [*FAMILIES, "mistral", "phi3", "cohere", "granite", "deepseek_v3", "olmoe"])
def test_what_is_written_out_and_what_is_left_to_defaults_is_the_same(family: str) -> None:
    config = {"model_type": family, **FAMILIES.get(family, {"num_hidden_layers": 2})}
    kept = essential_settings(config)
    written_out = CONFIG_MAPPING[family].from_dict(dict(config)).to_dict()
    assert len(written_out) > len(kept)
    assert essential_settings(written_out) == kept
    assert "head_dim" not in kept or family != "llama", "it follows from the others"


def test_rotary_positions_have_one_form() -> None:
    """transformers 4 wrote `rope_theta` and `rope_scaling`, 5 writes `rope_parameters`."""
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}
    before = {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **scaling}}
    after = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000, **scaling}}
    config = {"model_type": "llama", **LLAMA_LIKE}
    assert essential_settings(config | before) == essential_settings(config | after)


def _swap_tokens(core: dict[str, Any]) -> None:
    vocabulary = core["model"]["vocab"]
    vocabulary["yes"], vocabulary["no"] = vocabulary["no"], vocabulary["yes"]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", _swap_tokens),
        ("tokenizer.json", lambda core: core["model"]["merges"].reverse()),
        ("tokenizer.json", lambda core: core.update(normalizer={"type": "NFC"})),
        ("tokenizer.json", lambda core: core["pre_tokenizer"].update(add_prefix_space=True)),
        ("tokenizer.json", lambda core: core["added_tokens"][0].update(lstrip=True)),
        ("tokenizer_config.json", lambda settings: settings.update(add_bos_token=True)),
        ("tokenizer_config.json", lambda settings: settings.update(eos_token="yes")),
        ("tokenizer_config.json", lambda settings: settings.update(a_setting_of_a_later_version=1)),
    ],
)
def test_another_tokenizer_is_another_model(
    folder: Path, file: str, change: Callable[[dict[str, Any]], object]
) -> None:
    before = identify(folder)
    edit(folder / file, change)
    after = identify(folder)
    assert after.fingerprint != before.fingerprint
    assert after.former == before.former, "formerly it went unseen"


def test_another_chat_template_is_another_model(folder: Path) -> None:
    before = fingerprint(folder)
    template = folder / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text + "!")
    assert fingerprint(folder) != before
    template.unlink()
    assert fingerprint(folder) != before
    edit(folder / "tokenizer_config.json", lambda settings: settings.update(chat_template=text))
    assert fingerprint(folder) == before, "it does not matter where it is kept"


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", lambda core: core.update(version="2", truncation={"max_length": 5}, padding={"pad_id": 1})),
        ("tokenizer.json", lambda core: core["model"].update(merges=[" ".join(m) for m in core["model"]["merges"]])),
        ("tokenizer.json", lambda core: core["model"].pop("ignore_merges")),
        ("tokenizer_config.json", lambda kept: kept.update(name_or_path="x", model_max_length=5, unk_token=None)),
        ("tokenizer_config.json", lambda settings: settings.update(tokenizer_class="PreTrainedTokenizerFast")),
        ("tokenizer_config.json", lambda settings: settings.update(
            eos_token={"__type": "AddedToken", "content": settings["eos_token"], "lstrip": False, "special": True})),
        ("tokenizer_config.json", lambda settings: settings.update(clean_up_tokenization_spaces=False)),
        ("generation_config.json", lambda settings: settings.update(temperature=0.5, eos_token_id=[1, 2])),
    ],
)  # fmt: skip
def test_how_a_tokenizer_was_saved_does_not_matter(
    folder: Path, file: str, change: Callable[[dict[str, Any]], object]
) -> None:
    before = fingerprint(folder)
    edit(folder / file, change)
    assert fingerprint(folder) == before


def test_a_vocabulary_in_files_of_its_own_counts(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"one")
    before = fingerprint(folder)
    (folder / "tokenizer.model").write_bytes(b"other")
    assert fingerprint(folder) != before


def test_what_transformers_does_not_know_is_refused(folder: Path) -> None:
    edit(folder / "config.json", lambda settings: settings.update(model_type="of_tomorrow"))
    with pytest.raises(Refusal, match="of_tomorrow") as caught:
        fingerprint(folder)
    assert caught.value.code is FailureCode.UNKNOWN_MODEL_SIZE
