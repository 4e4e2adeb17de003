"""Whether guidance fits a model of a known shape: each form, and each way not to fit."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from guideway.catalogue.adapters.adapter import Adapter, parse_adapter
from guideway.catalogue.adapters.fitting import check_fits, check_prefix, fitted_ia3, fitted_lora
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.model_shape import KeptStates, LinearModules, ModelShape
from guideway.schemas.manifests import TrainedForm

SHAPE = ModelShape(
    model_type="llama",
    layers=2,
    hidden=8,
    body="model",
    linears=[
        LinearModules(name="model.layers.*.attn.q_proj", inputs=8, outputs=12),
        LinearModules(name="model.layers.*.mlp.down_proj", inputs=16, outputs=8, layers=[1]),
        LinearModules(name="lm_head", inputs=8, outputs=32),
    ],
    kept=[KeptStates(layers=2, heads=3, key=4, value=4)],
)
Q, DOWN = "model.layers.1.attn.q_proj", "model.layers.1.mlp.down_proj"


def adapter(config: dict[str, Any], **tensors: tuple[int, ...]) -> Adapter:
    return parse_adapter(
        {
            "adapter_config.json": bytearray(json.dumps(config).encode()),
            "adapter_model.safetensors": bytearray(
                save({name: np.ones(shape, np.float32) for name, shape in tensors.items()})
            ),
        }
    )


def lora(widths: dict[str, tuple[int, int]], **config: Any) -> Adapter:
    tensors: dict[str, tuple[int, ...]] = {}
    for name, (into, out) in widths.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = (2, into)
        tensors[f"base_model.model.{name}.lora_B.weight"] = (out, 2)
        if config.get("use_dora"):
            tensors[f"base_model.model.{name}.lora_magnitude_vector"] = (out,)
    return adapter({"peft_type": "LORA", "r": 2, "lora_alpha": 2, **config}, **tensors)


def ia3(shapes: dict[str, tuple[int, int]]) -> Adapter:
    return adapter({"peft_type": "IA3"}, **{f"base_model.model.{name}.ia3_l": shape for name, shape in shapes.items()})


def prompt(*shape: int) -> Adapter:
    return adapter({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": shape[0]}, prompt_embeddings=shape)


def prefix(width: int = 48, **config: int) -> Adapter:
    settings = {"num_virtual_tokens": 5, "num_layers": 2, "num_attention_heads": 3, "token_dim": 12, **config}
    return adapter({"peft_type": "PREFIX_TUNING", **settings}, prompt_embeddings=(5, width))


def inserted(hidden: int, *after: int) -> Adapter:
    config = {"guideway_type": "INSERTED_LAYER", "format_version": 1, "after_layers": after, "bottleneck": 2}
    parts = {"norm.weight": (hidden,), "down.weight": (2, hidden), "up.weight": (hidden, 2)}
    tensors = {f"after_layers.{k}.{part}": shape for k in after for part, shape in parts.items()}
    return adapter({**config, "hidden_size": hidden}, **tensors)


@pytest.mark.parametrize(
    ("form", "found"),
    [
        ("lora", lora({Q: (8, 12), DOWN: (16, 8), "lm_head": (8, 32)})),
        ("lora", lora({Q: (8, 12)}, use_dora=True)),
        ("lora", lora({"layers.0.attn.q_proj": (8, 12)})),
        ("ia3", ia3({Q: (12, 1), DOWN: (1, 16)})),
        ("soft_prompt", prompt(3, 8)),
        ("prefix", prefix()),
        ("inserted_layer", inserted(8, 0, 1)),
    ],
)
def test_what_fits_is_taken(form: TrainedForm, found: Adapter) -> None:
    check_fits(found, form, SHAPE)


@pytest.mark.parametrize(
    ("form", "found", "says"),
    [
        # More layers than the model has, and a layer that lacks the module.
        (
            "lora",
            lora({"model.layers.2.attn.q_proj": (8, 12)}),
            "'model.layers.2.attn.q_proj', which is no linear module of the model (it has one in each of its 2 layers, "
            "0 to 1): train it",
        ),
        (
            "lora",
            lora({"layers.2.attn.q_proj": (8, 12)}),
            "'layers.2.attn.q_proj', which is no linear module of the model (it has one in each of its 2 layers",
        ),
        ("lora", lora({"model.layers.0.mlp.down_proj": (16, 8)}), "(it has one in layers [1])"),
        # Names that the model does not have.
        (
            "lora",
            lora({"transformer.h.0.attn.c_attn": (8, 12)}),
            "'transformer.h.0.attn.c_attn', which is no linear module of the model (it has model.layers.*.attn.q_proj, "
            "model.layers.*.mlp.down_proj, lm_head)",
        ),
        ("lora", lora({"model.layers.*.attn.q_proj": (8, 12)}), "is no linear module of the model"),
        ("lora", lora({"model.layers.01.attn.q_proj": (8, 12)}), "is no linear module of the model"),
        ("lora", lora({"model.layers.1.mlp.experts.3.up": (8, 12)}), "one expert of a mixture"),
        # Widths.
        (
            "lora",
            lora({Q: (9, 12)}),
            f"its factors of '{Q}' are {{'A.weight': [2, 9], 'B.weight': [12, 2]}}, and here they must be "
            "{'A.weight': [2, 8], 'B.weight': [12, 2]}",
        ),
        ("lora", lora({Q: (8, 12), "lm_head": (8, 30)}), "its factors of 'lm_head' are"),
        ("lora", lora({Q: (12, 8)}, use_dora=True), "'magnitude_vector': [12]"),
        # One module under both of its names.
        ("lora", lora({Q: (8, 12), Q.removeprefix("model."): (8, 12)}), "twice, once without 'model'"),
        ("ia3", ia3({"model.layers.7.attn.q_proj": (12, 1)}), "(it has one in each of its 2 layers, 0 to 1)"),
        ("ia3", ia3({Q: (8, 1)}), f"its vector of '{Q}' is [8, 1], and here it must be [1, 8] or [12, 1]"),
        ("soft_prompt", prompt(3, 9), "its embeddings are [3, 9], and the model needs [virtual tokens, 8]"),
        ("prefix", prefix(24, num_layers=1), "are (1, 3, 12) and its width 24, and the model needs (2, 3, 12) and 48"),
        ("prefix", prefix(num_attention_heads=12), "are (2, 12, 12) and its width 48"),
        ("prefix", prefix(96, token_dim=24), "are (2, 3, 24) and its width 96"),
        ("inserted_layer", inserted(8, 0, 2), "it stands after layers [0, 2] of size 8, and the model has 2 layers of"),
        (
            "inserted_layer",
            inserted(9, 0),
            "after layers [0] of size 9, and the model has 2 layers of size 8",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(form: TrainedForm, found: Adapter, says: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_fits(found, form, SHAPE)
    assert says in caught.value.message
    assert caught.value.code is FailureCode.GUIDANCE_DAMAGED


@pytest.mark.parametrize(
    "kept",
    [
        # Keys and values of two widths; layers that differ; a layer that keeps none.
        [KeptStates(layers=2, heads=3, key=4, value=2)],
        [KeptStates(layers=1, heads=3, key=4, value=4), KeptStates(layers=1, heads=3, key=8, value=8)],
        [KeptStates(layers=1, heads=3, key=4, value=4)],
    ],
)
def test_a_prefix_is_for_layers_that_keep_states_of_one_shape(kept: list[KeptStates]) -> None:
    with pytest.raises(Refusal, match="models of type 'llama' do not keep keys and values of one shape") as caught:
        check_fits(prefix(), "prefix", msgspec.structs.replace(SHAPE, kept=kept))
    assert caught.value.code is FailureCode.GUIDANCE_UNSUPPORTED


@pytest.mark.parametrize(
    "targets",
    [
        [Q, "model.layers.0.attn.q_proj"],
        ["0.attn.q_proj", "1.attn.q_proj"],
        ["attn.q_proj"],
        ["q_proj", "lm_head"],
        # Names that a wrapper made, so that the last part counts.
        ["_forward_module.model.layers.0.attn.q_proj"],
        ["model.layers.*.attn.q_proj"],
        "a pattern",
        [],
    ],
)
def test_names_in_target_modules_stand_for_what_ends_with_them(targets: object) -> None:
    both = {"model.layers.0.attn.q_proj": (8, 12), Q: (8, 12)}
    check_fits(lora(both, target_modules=targets), "lora", SHAPE)


@pytest.mark.parametrize("targets", [["model.layers.0.attn.q_proj"], ["0.attn.q_proj", "down_proj"]])
def test_tensors_that_peft_would_leave_out_are_refused(targets: list[str]) -> None:
    """PEFT loads what the configuration names, and says nothing of the rest."""
    both = {"model.layers.0.attn.q_proj": (8, 12), Q: (8, 12)}
    with pytest.raises(Refusal, match=r"`target_modules` .* do not name: publish the configuration"):
        check_fits(lora(both, target_modules=targets), "lora", SHAPE)


def test_what_nobody_knows_of_the_model_refuses_nothing() -> None:
    assert check_prefix(prefix(999), msgspec.structs.replace(SHAPE, kept=[])) is None
    assert check_prefix(prefix(), SHAPE) == (2, 3, 4)


def test_a_model_without_a_list_of_layers_takes_no_inserted_layer() -> None:
    with pytest.raises(Refusal, match="has no list of 2 layers"):
        check_fits(inserted(8, 0), "inserted_layer", msgspec.structs.replace(SHAPE, insertable=False))


def test_names_are_those_of_the_model() -> None:
    assert [*fitted_lora(lora({"layers.1.attn.q_proj": (8, 12), "lm_head": (8, 32)}), SHAPE)] == [Q, "lm_head"]
    assert fitted_ia3(ia3({Q: (12, 1), "layers.1.mlp.down_proj": (1, 16)}), SHAPE) == {
        Q: (f"base_model.model.{Q}.ia3_l", "out"),
        DOWN: ("base_model.model.layers.1.mlp.down_proj.ia3_l", "into"),
    }
