"""Whether the engine runs a model, and up to which length, by the model's configuration. Pure, without torch.

The engine attends by one causal mask, gives every row its own positions from 0 on, and keeps keys and values of every
layer. Many models compute just that up to some length, and something else beyond it: their context ends there. What a
configuration does not tell, a trial finds out when the model is loaded (`trial.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from guideway.schemas.failures import FailureCode, Refusal

_LENGTHS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""The names that families give the number of their positions."""

_WINDOWS: Final = {
    "sliding_attention": ("sliding_window", "sliding_window_size", "local_attention"),
    "chunked_attention": ("attention_chunk_size",),
}
"""Kinds of layers that attend within a window → the settings that say how long it is. Within it, attention is full."""

_WINDOWS_OF_ALL: Final = ("window_size", "attention_window_size", "keep_window_size", "index_topk")
"""Settings of windows, or of numbers of keys that are picked, in models that do not list their kinds of layers."""

_ATTENDING: Final = frozenset({"full_attention", "attention", *_WINDOWS})

_ALIKE_AT_ALL_LENGTHS: Final = frozenset({"default", "linear", "llama3", "proportional", "yarn"})
"""Kinds of rotary positions that rotate a token by its own position alone. `dynamic` and `longrope` look at the longest
row of the batch: where it passes the original context, they rotate every token differently."""

_WITHOUT_LINEARS: Final = frozenset({"gpt2", "imagegpt", "openai-gpt", "decision_transformer"})
"""Kinds of model whose weights are laid out in another way than those of linear modules."""

_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")
"""The names that families give the number of their experts."""


def settings_of(config: Any) -> dict[str, Any]:
    """The settings that check_kind and context_of look at, of a configuration that transformers has read."""
    text = config.get_text_config()
    # Some families derive their kinds of layers and do not store them.
    return {**text.to_dict(), "layer_types": getattr(text, "layer_types", None)}


def check_kind(config: Mapping[str, Any]) -> None:
    """Raises: Refusal `unsupported_model` if a model of this configuration (config.json's) is known not to run."""
    text = _text(config)
    if unknown := set(text.get("layer_types") or ()) - _ATTENDING:
        raise unsupported(f"the model has layers of kind {sorted(unknown)}, which the engine does not run")
    if text.get("alibi") is True or text.get("model_type") == "bloom":
        raise unsupported(
            "the model places its tokens by ALiBi computed from a padding mask, and the engine has no such mask"
        )
    if text.get("hidden_size_per_layer_input"):
        raise unsupported(
            "the model takes in ids at every layer (`hidden_size_per_layer_input`), and virtual tokens have none"
        )


def check_int8(config: Mapping[str, Any]) -> None:
    """Raises: Refusal `unsupported_model` if a model of this configuration is known to have few linear modules."""
    text = _text(config)
    kind = text.get("model_type")
    if kind in _WITHOUT_LINEARS:
        raise unsupported_int8(f"models of type {kind!r} multiply by weights that stand in no linear module")
    if any(_is_length(text.get(name)) and text[name] > 1 for name in _EXPERTS):
        raise unsupported_int8("the weights of its experts stand in no linear modules")


def unsupported_int8(reason: str) -> Refusal:
    """A refusal of a model whose weights cannot be kept in 8 bits."""
    return Refusal(FailureCode.UNSUPPORTED_MODEL, f"dtype int8 cannot be used: {reason}; declare dtype bfloat16")


def check_source(source: str, dtype: str = "") -> None:
    """Check a model's `source` before it is loaded in `dtype`, if it is a folder on this machine, by its config.json.

    Raises: Refusal `unsupported_model` if the engine is known not to run it.
    """
    try:
        config = json.loads((Path(source).expanduser() / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        # It is elsewhere or no folder: the worker will check it.
        return
    if isinstance(config, dict):
        check_kind(config)
        if dtype == "int8":
            check_int8(config)


def context_of(config: Mapping[str, Any]) -> int | None:
    """The tokens up to which a model of this configuration computes what the engine does; None if without limit."""
    text = _text(config)
    limits = [*_lengths(text), *_windows(text), *_rotary_lengths(text)]
    return min(limits, default=None)


def unsupported(reason: str) -> Refusal:
    """A refusal of a model that the engine cannot run."""
    return Refusal(
        FailureCode.UNSUPPORTED_MODEL, f"{reason}: name another source (docs/models.md lists the families that run)"
    )


def _text(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the language model, where a model is more than that."""
    return {**config, **(config.get("text_config") or {})}


def _lengths(text: Mapping[str, Any]) -> Iterator[int]:
    lengths = [text[name] for name in _LENGTHS if _is_length(text.get(name))]
    # They are names of one thing.
    yield from lengths[:1]


def _windows(text: Mapping[str, Any]) -> Iterator[int]:
    kinds = set(text.get("layer_types") or ())
    for kind, names in _WINDOWS.items():
        # Where no kinds of layers are listed, a window counts unless the configuration says that it is unused.
        if kind in kinds or (not kinds and text.get("use_sliding_window") is not False):
            yield from (text[name] for name in names if _is_length(text.get(name)))
    yield from (text[name] for name in _WINDOWS_OF_ALL if _is_length(text.get(name)))


def _rotary_lengths(text: Mapping[str, Any]) -> Iterator[int]:
    """The original context, where a longer row would rotate the tokens within it differently."""
    parameters = text.get("rope_parameters") or text.get("rope_scaling") or {}
    # Models with two kinds of layer have one entry for each.
    each = [parameters] if not any(isinstance(value, Mapping) for value in parameters.values()) else parameters.values()
    for rotary in each:
        kind = (rotary or {}).get("rope_type") or (rotary or {}).get("type") or "default"
        # PhiMoE scales by the length of the batch for every kind.
        if kind not in _ALIKE_AT_ALL_LENGTHS or (kind != "default" and text.get("model_type") == "phimoe"):
            name = "original_max_position_embeddings"
            yield from (known[name] for known in (rotary, text) if _is_length(known.get(name)))


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
