"""The fingerprint as it was computed before decision 15: only to recognise guidance that has it, and say what to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

_FUNCTION_KEYS: Final = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "n_embd",
    "intermediate_size",
    "n_inner",
    "num_hidden_layers",
    "n_layer",
    "num_attention_heads",
    "n_head",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "max_position_embeddings",
    "n_positions",
    "partial_rotary_factor",
    "sliding_window",
    "attention_bias",
    "mlp_bias",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "embedding_multiplier",
    "attention_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "num_local_experts",
    "num_experts",
    "num_experts_per_tok",
)


def former_fingerprint(tensors: Mapping[str, str], config: dict[str, Any], *, tied: bool) -> str:
    """`sha256:` over the tensors and the settings of config.json that are listed above; many others were not covered.

    tensors: digests by name, in the order of names.
    """
    config = {**config, **(config.get("text_config") or {})}
    values: dict[str, Any] = {key: config.get(key) or None for key in _FUNCTION_KEYS}
    values["rope"] = _rope(config)
    values["tied"] = tied
    whole = json.dumps([list(tensors.items()), _plain(values)], sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(whole.encode()).hexdigest()}"


def _rope(config: dict[str, Any]) -> list[Any]:
    """Rotary parameters in one form; transformers 4 wrote `rope_theta` and `rope_scaling`, 5 `rope_parameters`."""
    parameters = config.get("rope_parameters") or {}
    # Models with two kinds of layer have one entry for each.
    full = parameters.get("full_attention", parameters)
    local = parameters.get("sliding_attention", {})
    scaling = {**(config.get("rope_scaling") or {}), **full}
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta")
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    return [theta, local.get("rope_theta") or config.get("rope_local_base_freq"), kind, scaling]


def _plain(value: Any) -> Any:
    """`value` with whole floats as integers, so that 10000.0 and 10000 are the same."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case _:
            return value
