"""The settings of a model's configuration that decide the function that it computes, in one form."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, Final

_HARMLESS: Final = frozenset(
    {
        # Where it comes from, and by which program
        "architectures", "auto_map", "model_name", "tokenizer_class", "transformers_version",
        # How its numbers are stored is seen from the tensors; how they are loaded is the manifest's `dtype`
        "dtype", "torch_dtype", "attn_implementation", "_attn_implementation", "_experts_implementation",
        # What a call returns or keeps; the same function computed by pieces
        "chunk_size_feed_forward", "output_attentions", "output_hidden_states", "output_router_logits",
        "pretraining_tp", "return_dict", "use_cache",
        # Of training only
        "aux_loss_alpha", "gradient_checkpointing", "initializer_factor", "initializer_range", "router_aux_loss_coef",
        "router_z_loss_coef", "seq_aux",
        # Tokens that begin, end and fill texts: what generation does with them is no part of the function, publishers
        # correct them afterwards, and the tokenizer's own are in its part of the fingerprint
        "bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id",
        # Heads of classifiers
        "finetuning_task", "id2label", "label2id", "num_labels", "problem_type", "task_specific_params",
        # Seen from the tensors
        "tie_word_embeddings",
    }
)  # fmt: skip
"""Settings that do not change the function. A setting that is not listed counts."""

_HARMLESS_FORMS: Final = re.compile(r"dropout|pdrop|layerdrop|drop_rate|jitter|name_or_path$")
"""Noise in training only, and names of sources."""


def essential_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a config.json without which transformers would read another configuration from it.

    They are taken as transformers reads them. So old and new names give the same, and so do settings that are written
    out, left to a default or derived from others. All settings follow from those that are kept, so two functions of one
    family never give the same. A new setting of a later version changes nothing if its default keeps old models as they
    were.

    Raises: ValueError or another exception of transformers if it cannot read the configuration.
    """
    whole = _read(config)
    wanted = _without_nulls(whole)
    kept = whole
    for path in sorted(_paths(whole)):
        less = _without(kept, path)
        if path != ("model_type",) and less != kept and _reads_as(less, wanted):
            kept = less
    plain: dict[str, Any] = _with_whole_numbers(kept)
    return plain


def _read(config: dict[str, Any]) -> dict[str, Any]:
    """All settings, also those that `config` leaves to defaults, without the harmless ones."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[config["model_type"]]
    found: dict[str, Any] = _plain(kind.from_dict(copy.deepcopy(config)).to_dict())
    return found


def _reads_as(config: dict[str, Any], wanted: dict[str, Any]) -> bool:
    try:
        return bool(_without_nulls(_read(config)) == wanted)
    except Exception:
        # The family's own checks may raise anything; it means that the missing setting is needed.
        return False


def _paths(settings: dict[str, Any], to: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in settings.items():
        yield (*to, key)
        if isinstance(value, dict):
            yield from _paths(value, (*to, key))


def _without(settings: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    first, *rest = path
    if not rest:
        return {key: value for key, value in settings.items() if key != first}
    inner = settings.get(first)
    return {**settings, first: _without(inner, tuple(rest))} if isinstance(inner, dict) else settings


def _without_nulls(value: Any) -> Any:
    """`value` without nulls: once all is written out, null and absent mean the same."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _plain(value: Any) -> Any:
    """`value` as JSON has it, without harmless settings."""
    match value:
        case dict():
            return {
                str(key): _plain(item)
                for key, item in value.items()
                if key not in _HARMLESS and not _HARMLESS_FORMS.search(str(key))
            }
        case list() | tuple():
            return [_plain(item) for item in value]
        case str() | bool() | int() | float() | None:
            return value
        case _:
            return str(value)


def _with_whole_numbers(value: Any) -> Any:
    """`value` with whole floats as integers: 10000.0 is 10000. Only at the end, because families check types."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _with_whole_numbers(item) for key, item in value.items()}
        case list():
            return [_with_whole_numbers(item) for item in value]
        case _:
            return value
