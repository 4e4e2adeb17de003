"""Whatever PEFT can write is run, or refused with a sentence that says what to change; never run as something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftType,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
)
from safetensors.torch import save_file
from tests.workers.engine.conftest import MakeArtefact

from guideway.catalogue.adapters import peft_settings
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import TrainedForm
from guideway.workers.engine.guidance.resident import FORMS
from guideway.workers.engine.model.base_model import BaseModel

RUN = {
    "PROMPT_TUNING": "soft_prompt",
    "P_TUNING": "soft_prompt",
    "PREFIX_TUNING": "prefix",
    "LORA": "lora",
    "IA3": "ia3",
}
OTHERS = sorted({kind.value for kind in PeftType} - RUN.keys())


def refused(folder: Path, form: TrainedForm, base: BaseModel) -> str:
    with pytest.raises(Refusal) as caught:
        FORMS[form].load(folder, base.model)
    assert caught.value.code == FailureCode.GUIDANCE_DAMAGED
    return caught.value.message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", OTHERS)
def test_other_types_are_refused(base: BaseModel, tmp_path: Path, form: TrainedForm, kind: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind, "num_virtual_tokens": 2}))
    save_file({"prompt_embeddings": torch.zeros(2, 64)}, tmp_path / "adapter_model.safetensors")
    message = refused(tmp_path, form, base)
    assert f"'{kind}', which is not supported: train it as one of" in message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", RUN)
def test_a_type_that_is_declared_as_another_is_refused(
    base: BaseModel, tmp_path: Path, form: TrainedForm, kind: str
) -> None:
    if RUN[kind] != form:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
        save_file({}, tmp_path / "adapter_model.safetensors")
        assert f"declare it with form {RUN[kind]}" in refused(tmp_path, form, base)


@pytest.mark.parametrize("name", [*peft_settings.LORA_UNSUPPORTED, "use_of_tomorrow"])
def test_settings_of_lora_under_which_it_is_more_are_refused(
    base: BaseModel, make_lora: MakeArtefact, name: str
) -> None:
    folder = Path(make_lora("a/b@1").folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {name: True}))
    assert f"trained with `{name}`" in refused(folder, "lora", base)


@pytest.mark.parametrize(
    ("config", "sorted_into"),
    [
        (LoraConfig, (*peft_settings.LORA_UNSUPPORTED, *peft_settings.LORA_KNOWN)),
        (IA3Config, (*peft_settings.IA3_UNSUPPORTED, *peft_settings.IA3_KNOWN)),
        (PromptTuningConfig, (*peft_settings.PROMPT_UNSUPPORTED, *peft_settings.PROMPT_KNOWN)),
        (PromptEncoderConfig, (*peft_settings.PROMPT_UNSUPPORTED, *peft_settings.PROMPT_KNOWN)),
        (PrefixTuningConfig, (*peft_settings.PROMPT_UNSUPPORTED, *peft_settings.PROMPT_KNOWN)),
    ],
)
def test_every_setting_of_this_peft_has_been_looked_at(config: Any, sorted_into: tuple[str, ...]) -> None:
    fields = set(config.__dataclass_fields__)
    assert fields <= {*peft_settings.KNOWN, *sorted_into}


def test_settings_that_are_refused_are_pefts() -> None:
    assert set(peft_settings.LORA_UNSUPPORTED) <= set(LoraConfig.__dataclass_fields__)
    assert set(peft_settings.IA3_UNSUPPORTED) <= set(IA3Config.__dataclass_fields__)
