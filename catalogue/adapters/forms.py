"""Checks of each form of trained guidance that do not need the model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from guideway.catalogue.adapters.adapter import Adapter, check_finite, damaged, parse_adapter, shown
from guideway.catalogue.adapters.module_patterns import Effort, ModulePattern, PatternRefused, first_match
from guideway.catalogue.adapters.peft_settings import (
    FORMS,
    IA3_KNOWN,
    IA3_UNSUPPORTED,
    KNOWN,
    LORA_KNOWN,
    LORA_UNSUPPORTED,
    PROMPT_KNOWN,
    PROMPT_UNSUPPORTED,
)
from guideway.catalogue.adapters.targets import check_targets
from guideway.catalogue.artefacts.contents import Contents
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import TrainedForm

MAX_RANK: Final = 512
"""The most ranks of one row's LoRAs together at one module: every step makes room for so many."""
MAX_BOTTLENECK: Final = 4096
"""The widest bottleneck of one row's inserted layers together after one decoder layer."""
_MAX_NUMBER: Final = 1e6
_MAX_PATTERNS: Final = 2_000
_MATCHING: Final = 1_000_000
"""Steps of patterns that may be compared for one artefact: about one second."""
_CHANGES_BASE_WEIGHTS: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the frozen weights, in capital letters too. Without it the factors mean nothing."""
_LORA_TENSOR: Final = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>A\.weight|B\.weight|magnitude_vector)"
)
_FROZEN_TENSOR: Final = re.compile(r"base_model\.model\.(?P<module>.+?)(?P<kept>\.base_layer)?\.weight")
"""A weight of the base model. PEFT saves one with an adapter of the output head or of the embeddings."""
_IA3_TENSOR: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.ia3_l")

Activation = Literal["gelu", "silu", "relu"]


class InsertedLayerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """adapter_config.json of an inserted layer."""

    guideway_type: Literal["INSERTED_LAYER"] = "INSERTED_LAYER"
    format_version: Literal[1] = 1
    after_layers: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)]
    bottleneck: Annotated[int, Meta(ge=1, le=MAX_BOTTLENECK)]
    hidden_size: Annotated[int, Meta(ge=1)]
    activation: Activation = "gelu"
    norm_eps: Annotated[float, Meta(gt=0, le=1)] = 1e-6


class LoraModule(NamedTuple):
    """One module's part of a LoRA."""

    rank: int
    scaling: float
    """α/r, or α/√r where rank-stabilised."""
    tensors: dict[str, str]
    """`A.weight`, `B.weight` and of a DoRA `magnitude_vector` → the tensor's name."""
    frozen: str = ""
    """The name of a copy of the module's own weight [out, in]. PEFT saves one for an output head."""


def check_folder(files: Contents, form: TrainedForm) -> None:
    """Check an artefact before it is published. Raises Refusal(guidance_damaged)."""
    adapter = parse_adapter(files)
    check_adapter(adapter, form)
    check_targets(adapter)
    check_finite(adapter)


def check_adapter(adapter: Adapter, form: TrainedForm) -> None:
    """Raises Refusal(guidance_damaged) if the folder holds another form than `form`, or lacks a part of it."""
    check_type(adapter.config, form)
    _CHECKS[form](adapter)


def check_type(config: Mapping[str, Any], form: str) -> None:
    """Raises Refusal(guidance_damaged) if the folder holds another form of guidance than `form`."""
    found = config.get("guideway_type") or config.get("peft_type")
    if not isinstance(found, str) or found not in FORMS:
        theirs = ", ".join(name for name in FORMS if name != "INSERTED_LAYER")
        or_else = f"train it as one of {theirs}, or as an inserted layer"
        raise damaged(f"its peft_type is {shown(found)}, which is not supported: {or_else}")
    if FORMS[found] != form:
        raise damaged(f"its type is {found!r}, and it was declared as {form}: declare it with form {FORMS[found]}")


def prompt_tokens(adapter: Adapter) -> int:
    """How many virtual tokens a prompt has. PEFT saves one tensor [virtual tokens, features].

    Raises: Refusal(guidance_damaged) for anything else.
    """
    config, tensors = adapter.config, adapter.tensors
    _check_settings(config, unsupported=PROMPT_UNSUPPORTED, known=PROMPT_KNOWN)
    if tensors.keys() != {"prompt_embeddings"}:
        raise damaged(
            f"it holds the tensors {shown(sorted(tensors))}, and must hold `prompt_embeddings` alone: save it again"
        )
    shape, tokens = tensors["prompt_embeddings"].shape, config.get("num_virtual_tokens")
    if type(tokens) is not int or len(shape) != 2 or not 0 < shape[0] == tokens or not shape[1]:
        raise damaged(
            f"its `prompt_embeddings` are {shown(list(shape))} and its `num_virtual_tokens` are {shown(tokens)}: "
            "save it again"
        )
    return tokens


def lora_modules(adapter: Adapter) -> dict[str, LoraModule]:
    """Module name → its part of the LoRA. Raises Refusal(guidance_damaged)."""
    config = adapter.config
    _check_lora_settings(config)
    parts: dict[str, dict[str, str]] = {}
    frozen: dict[str, str] = {}
    for name in adapter.tensors:
        if (copy := _FROZEN_TENSOR.fullmatch(name)) and copy["kept"] and copy["module"].endswith("lm_head"):
            frozen[copy["module"]] = name
            continue
        match = _LORA_TENSOR.fullmatch(name)
        if match is None:
            raise _no_factor(name, adapter.tensors)
        parts.setdefault(match["module"], {})[match["part"]] = name
    if not parts:
        raise damaged("it holds no LoRA factors: publish it again")
    if alone := frozen.keys() - parts.keys():
        raise _no_factor(frozen[min(alone)], adapter.tensors)
    effort = Effort(_MATCHING)
    ranks = _ByPattern(config, "r", "rank_pattern", effort)
    alphas = _ByPattern(config, "lora_alpha", "alpha_pattern", effort)
    return {
        module: _lora_module(adapter, module, parts[module], frozen.get(module, ""), ranks, alphas) for module in parts
    }


def _no_factor(name: str, names: Iterable[str]) -> Refusal:
    """The refusal of a tensor that is no part of a LoRA."""
    if embedding := next((one for one in names if "lora_embedding_" in one), ""):
        return damaged(f"it trains embeddings ({shown(embedding)}), which is not supported: train linear modules only")
    if match := _FROZEN_TENSOR.fullmatch(name):
        return damaged(
            f"it holds weights of the base model ({shown(match['module'])}): if these were not trained, save it again "
            "with `save_pretrained(..., save_embedding_layers=False)`; if they were, train it without"
        )
    return damaged(f"tensor {shown(name)} is no LoRA factor of a linear module: train it without")


def ia3_modules(adapter: Adapter) -> dict[str, str]:
    """Module name → the name of its tensor in the IA3. Raises Refusal(guidance_damaged)."""
    _check_settings(adapter.config, unsupported=IA3_UNSUPPORTED, known=IA3_KNOWN)
    found = {}
    for name, tensor in adapter.tensors.items():
        match = _IA3_TENSOR.fullmatch(name)
        if match is None:
            raise damaged(f"tensor {shown(name)} is no IA3 vector of a linear module: train it without")
        if len(tensor.shape) != 2 or 1 not in tensor.shape:
            raise damaged(f"its vector of {shown(match['module'])} is {shown(list(tensor.shape))}: save it again")
        found[match["module"]] = name
    if not found:
        raise damaged("it holds no IA3 vectors: publish it again")
    return found


def inserted_layer_config(adapter: Adapter) -> InsertedLayerConfig:
    """The configuration of an inserted layer. Raises Refusal(guidance_damaged)."""
    try:
        config = msgspec.convert(adapter.config, InsertedLayerConfig)
    except msgspec.ValidationError as error:
        raise damaged(f"adapter_config.json: {error}: publish it again") from None
    if len({*config.after_layers}) != len(config.after_layers):
        raise damaged(f"`after_layers` {shown(config.after_layers)} names a layer twice: publish it again")
    return config


def check_inserted_tensors(config: InsertedLayerConfig, adapter: Adapter) -> None:
    """Raises Refusal(guidance_damaged) unless the inserted layer has exactly the tensors of its configuration."""
    shapes = {
        f"after_layers.{k}.{part}": shape
        for k in config.after_layers
        for part, shape in inserted_shapes(config.bottleneck, config.hidden_size).items()
    }
    have = {name: tensor.shape for name, tensor in adapter.tensors.items()}
    if have != shapes:
        wrong = sorted({*have.items()} ^ {*shapes.items()})[0][0]
        is_, asked = (shown(found[wrong]) if wrong in found else "none" for found in (have, shapes))
        raise damaged(f"its tensor {shown(wrong)} is {is_}, and its configuration asks for {asked}: publish it again")


def inserted_shapes(bottleneck: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Tensor → its shape, for one block."""
    return {"norm.weight": (hidden,), "down.weight": (bottleneck, hidden), "up.weight": (hidden, bottleneck)}


_CHECKS: Final[Mapping[TrainedForm, Callable[[Adapter], object]]] = {
    "soft_prompt": prompt_tokens,
    "prefix": prompt_tokens,
    "lora": lora_modules,
    "ia3": ia3_modules,
    "inserted_layer": lambda adapter: check_inserted_tensors(inserted_layer_config(adapter), adapter),
}


def _check_settings(config: Mapping[str, Any], *, unsupported: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a setting that is not supported, and one that is unknown.

    A new setting of a newer PEFT may make another function of the same tensors.
    """
    for setting in unsupported:
        if config.get(setting):
            raise damaged(f"it was trained with `{setting}`, which is not supported: train it without")
    for setting in sorted(config.keys() - {*KNOWN, *unsupported, *known}):
        if config[setting]:
            raise damaged(f"it was trained with `{setting[:60]}`, which this version does not know: train it without")


def _check_lora_settings(config: dict[str, Any]) -> None:
    _check_settings(config, unsupported=LORA_UNSUPPORTED, known=LORA_KNOWN)
    if (bias := config.get("bias", "none")) != "none":
        shown_bias = bias if bias in ("all", "lora_only") else shown(bias)
        raise damaged(f"it was trained with `bias: {shown_bias}`, which is not supported: train it with `none`")
    init = config.get("init_lora_weights")
    if str(init).lower().startswith(_CHANGES_BASE_WEIGHTS):
        raise damaged(
            f"`init_lora_weights: {shown(init)}` goes with changed base weights: convert it with "
            "`save_pretrained(..., path_initial_model_for_weight_conversion=...)`"
        )
    for name in ("use_dora", "use_rslora"):
        if not isinstance(config.get(name) or False, bool):
            raise damaged(f"`{name}` is {shown(config[name])} and must be true or false: publish it again")


def _lora_module(
    adapter: Adapter, module: str, parts: dict[str, str], frozen: str, ranks: _ByPattern, alphas: _ByPattern
) -> LoraModule:
    rank, alpha = ranks.of(module), alphas.of(module)
    if rank != int(rank) or rank > MAX_RANK:
        raise damaged(
            f"its rank at {shown(module)} is {rank:g} and must be a whole number up to {MAX_RANK}: train it with one"
        )
    have = {part: list(adapter.tensors[name].shape) for part, name in sorted(parts.items())}
    into, out = (have.get("A.weight") or [0])[-1], (have.get("B.weight") or [0])[0]
    want = lora_shapes(adapter.config, int(rank), into, out)
    if have != want or not into or not out:
        raise unlike(module, have, want)
    if frozen and adapter.tensors[frozen].shape != (out, into):
        raise damaged(f"its tensor {shown(frozen)} is not [{out}, {into}], as its factors have it: save it again")
    scaling = alpha / (math.sqrt(rank) if adapter.config.get("use_rslora") else rank)
    return LoraModule(int(rank), scaling, parts, frozen)


def lora_shapes(config: Mapping[str, Any], rank: int, into: int, out: int) -> dict[str, list[int]]:
    """Part → its shape, for a module with `into` input and `out` output features."""
    shapes = {"A.weight": [rank, into], "B.weight": [out, rank]}
    return shapes | ({"magnitude_vector": [out]} if config.get("use_dora") else {})


def unlike(module: str, have: Mapping[str, object], want: Mapping[str, object]) -> Exception:
    """The refusal of tensors that do not fit a module."""
    return damaged(f"its factors of {shown(module)} are {have}, and here they must be {want}: train it for this model")


class _ByPattern:
    """A number by module: that of the first matching pattern, else the configuration's, as PEFT does it."""

    def __init__(self, config: Mapping[str, Any], key: str, pattern_key: str, effort: Effort) -> None:
        self._key, self._otherwise, self._effort = key, config.get(key), effort
        patterns = config.get(pattern_key) or {}
        if not isinstance(patterns, dict) or len(patterns) > _MAX_PATTERNS:
            raise damaged(f"`{pattern_key}` must be an object of at most {_MAX_PATTERNS} patterns: publish it again")
        try:
            self._patterns = [
                (ModulePattern(pattern, effort), _number(pattern_key, value)) for pattern, value in patterns.items()
            ]
        except PatternRefused as refused:
            raise damaged(f"`{pattern_key}`: {refused}") from None

    def of(self, module: str) -> float:
        try:
            found = first_match(self._patterns, module, self._effort)
        except PatternRefused as refused:
            raise damaged(str(refused)) from None
        return found if found is not None else _number(self._key, self._otherwise)


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MAX_NUMBER:
        raise damaged(
            f"`{key}` in its configuration is {shown(value)} and must be a number above 0, up to {_MAX_NUMBER:.0f}: "
            "publish it again"
        )
    return value
