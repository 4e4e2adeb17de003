"""Which model is this: a hash of what decides the function that it computes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from guideway.schemas.failures import FailureCode, Refusal

_CHUNK_BYTES: Final = 1 << 20
_OUTPUT_HEADS: Final = frozenset({"lm_head.weight", "embed_out.weight"})

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


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would load from `folder`; empty if there are none."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        return []
    return [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]


def fingerprint(folder: Path) -> str:
    """`sha256:` over what decides the function that the model computes.

    Covered: every tensor's name, stored dtype, shape and bytes, in the order of names, whatever the files they are
    spread over; and the values of `_FUNCTION_KEYS`, the rotary parameters and whether the embeddings are tied, as
    config.json gives them. An output head that is stored as a copy of the embedding counts as absent, and absent
    values count as null, so that neither the way of saving, the order of keys nor the version of transformers
    matters. Not covered: tokenizer, chat template, generation defaults.

    Raises: Refusal `unknown_model_size` if a file is missing or is not safetensors.
    """
    try:
        tensors = dict(sorted(_tensor_digests(folder)))
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise Refusal(
            FailureCode.UNKNOWN_MODEL_SIZE,
            f"model folder {folder} cannot be read ({error}): remove it and prepare the model again",
        ) from error
    config = {**config, **config.get("text_config", {})}
    heads = {name: digest for name, digest in tensors.items() if name in _OUTPUT_HEADS}
    for name, digest in heads.items():
        if digest in [other for key, other in tensors.items() if key not in heads]:
            del tensors[name]
    values: dict[str, Any] = {key: config.get(key) or None for key in _FUNCTION_KEYS}
    values["rope"] = _rope(config)
    values["tied"] = bool(config.get("tie_word_embeddings")) or not any(name in tensors for name in heads)
    whole = json.dumps([list(tensors.items()), _plain(values)], sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(whole.encode()).hexdigest()}"


def _tensor_digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of every tensor; read in blocks, so that memory stays small whatever the model's size."""
    files = weight_files(folder)
    if not files:
        raise ValueError("no model.safetensors")
    for file in files:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > os.path.getsize(file):
                raise ValueError(f"{file.name} is not a safetensors file")
            header = json.loads(stream.read(size))
            header.pop("__metadata__", None)
            for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                begin, end = tensor["data_offsets"]
                digest = hashlib.sha256(f"{tensor['dtype']}{tensor['shape']}".encode())
                stream.seek(8 + size + begin)
                for at in range(begin, end, _CHUNK_BYTES):
                    block = stream.read(min(_CHUNK_BYTES, end - at))
                    if not block:
                        raise ValueError(f"{file.name} is cut short")
                    digest.update(block)
                yield name, digest.hexdigest()


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
