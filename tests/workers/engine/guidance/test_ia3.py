"""IA3: reading what PEFT saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.workers.engine.conftest import MakeArtefact

from guideway.schemas.failures import Refusal
from guideway.workers.engine.guidance.ia3 import Ia3
from guideway.workers.engine.model.base_model import BaseModel

KEY = "base_model.model.model.layers.1.self_attn.v_proj.ia3_l"


def test_vectors_scale_what_peft_says(base: BaseModel, make_ia3: MakeArtefact) -> None:
    folder = Path(make_ia3("a/b@1").folder)
    saved = load_file(folder / "adapter_model.safetensors")
    ia3 = Ia3.load(folder, base.model)
    scales = ia3.scales["model.layers.1.self_attn.v_proj"]
    assert scales.into is None
    assert scales.out is not None
    assert torch.equal(scales.out, saved[KEY][:, 0])
    scales = ia3.scales["model.layers.0.mlp.down_proj"]
    assert scales.into is not None
    assert torch.equal(scales.into, saved["base_model.model.model.layers.0.mlp.down_proj.ia3_l"][0])
    assert scales.out is None
    assert ia3.nbytes == 4 * sum(tensor.numel() for tensor in saved.values())


def test_what_does_not_fit_is_refused(base: BaseModel, make_ia3: MakeArtefact) -> None:
    folder = Path(make_ia3("a/b@1").folder)
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole = load_file(file)
    for tensors, says in (
        (whole | {KEY: whole[KEY][:-1].contiguous()}, "here it must be"),
        (whole | {KEY: whole[KEY].T.contiguous()}, "here it must be"),
        ({KEY.replace("layers.1", "layers.7"): whole[KEY]}, "no linear module of the model"),
        ({KEY.replace("self_attn.v_proj", "mlp.experts.3.up_proj"): whole[KEY]}, "one expert of a mixture"),
        ({"base_model.model.lm_head.weight": whole[KEY]}, "no IA3 vector"),
        ({}, "no IA3 vectors"),
    ):
        save_file(tensors, file)
        with pytest.raises(Refusal, match=says):
            Ia3.load(folder, base.model)
    save_file(whole, file)
    whole_config = json.loads(config.read_text())
    for change, says in (
        ({"peft_type": "LORA"}, "declare it with form lora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ):
        config.write_text(json.dumps(whole_config | change))
        with pytest.raises(Refusal, match=says):
            Ia3.load(folder, base.model)
