"""Whether trained guidance fits a base model: what `guideway apply` and workers say of it. Pure.

Apply has the shape from the model's manifest, a worker that of the model that it has loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, TypeVar

from guideway.catalogue.adapters.adapter import Adapter, damaged, shown
from guideway.catalogue.adapters.forms import (
    InsertedLayerConfig,
    LoraModule,
    ia3_modules,
    inserted_layer_config,
    lora_modules,
    lora_shapes,
    prompt_tokens,
    unlike,
)
from guideway.catalogue.adapters.targets import listed, untargeted
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.model_shape import ANY_LAYER, LinearModules, ModelShape
from guideway.schemas.manifests import TrainedForm

_EXPERT: Final = re.compile(r"(^|\.)experts\.\d+\.")
_MOST_SHOWN: Final = 8
_T = TypeVar("_T")


def check_fits(adapter: Adapter, form: TrainedForm, shape: ModelShape) -> None:
    """Raises Refusal, `guidance_damaged` or `guidance_unsupported`, unless guidance of this form fits the model.

    What `forms.check_adapter` refuses is refused in the same way, and tensors that PEFT would leave out: see `targets`.
    """
    _CHECKS[form](adapter, shape)
    if form == "lora":
        _check_targets(adapter, lora_modules(adapter), shape)
    elif form == "ia3":
        _check_targets(adapter, ia3_modules(adapter), shape)


def fitted_lora(adapter: Adapter, shape: ModelShape) -> dict[str, LoraModule]:
    """Module name in the model → its part of the LoRA. Raises Refusal(guidance_damaged)."""
    found = _by_name_in(shape, lora_modules(adapter))
    for name, module in found.items():
        have = {part: list(adapter.tensors[tensor].shape) for part, tensor in sorted(module.tensors.items())}
        want = lora_shapes(adapter.config, module.rank, *_widths(name, shape))
        if have != want:
            raise unlike(name, have, want)
    return found


def fitted_ia3(adapter: Adapter, shape: ModelShape) -> dict[str, tuple[str, Literal["into", "out"]]]:
    """Module name in the model → its tensor's name, and what the vector scales. Raises Refusal(guidance_damaged).

    PEFT keeps the vector of a feed-forward module as [1, in], of any other as [out, 1].
    """
    found = _by_name_in(shape, ia3_modules(adapter))
    return {name: (tensor, _scaled_by(name, adapter.tensors[tensor].shape, shape)) for name, tensor in found.items()}


def check_soft_prompt(adapter: Adapter, shape: ModelShape) -> None:
    """Raises Refusal(guidance_damaged) unless its embeddings are as wide as the model's."""
    prompt_tokens(adapter)
    have = adapter.tensors["prompt_embeddings"].shape
    if have[1] != shape.hidden:
        raise damaged(
            f"its embeddings are {list(have)}, and the model needs [virtual tokens, {shape.hidden}]: "
            "train it for this model"
        )


def check_prefix(adapter: Adapter, shape: ModelShape) -> tuple[int, int, int] | None:
    """(layers, key and value heads, width of a head) of a prefix that fits; None where nobody knows what that must be.

    Raises: Refusal `guidance_damaged` if it does not fit; `guidance_unsupported` if no prefix can, because the layers
    have states of several shapes, or compressed or shared ones.
    """
    prompt_tokens(adapter)
    if not shape.kept:
        return None
    one = shape.kept[0]
    if len(shape.kept) > 1 or one.layers != shape.layers or one.key != one.value:
        raise Refusal(
            FailureCode.GUIDANCE_UNSUPPORTED,
            f"models of type {shape.model_type!r} do not keep keys and values of one shape at every layer, and a "
            "prefix is made of such: train a soft prompt or an adapter",
        )
    width = adapter.tensors["prompt_embeddings"].shape[1]
    have = tuple(adapter.config.get(name) for name in ("num_layers", "num_attention_heads", "token_dim"))
    want = (shape.layers, one.heads, one.heads * one.key)
    wanted_width = shape.layers * 2 * one.heads * one.key
    if have != want or width != wanted_width:
        raise damaged(
            f"its (num_layers, num_attention_heads, token_dim) are {shown(have)} and its width {width}, "
            f"and the model needs {want} and {wanted_width}: train it for this model"
        )
    return shape.layers, one.heads, one.key


def check_inserted_layer(config: InsertedLayerConfig, shape: ModelShape) -> None:
    """Raises Refusal(guidance_damaged) unless there are such layers of such a width in the model."""
    if not shape.insertable:
        raise no_list_of_layers(shape.model_type, shape.layers)
    if config.hidden_size != shape.hidden or max(config.after_layers) >= shape.layers:
        raise damaged(
            f"it stands after layers {shown(config.after_layers)} of size {config.hidden_size}, and the model has "
            f"{shape.layers} layers of size {shape.hidden}: train it for this model"
        )


def no_list_of_layers(model_type: str, layers: int) -> Refusal:
    """The refusal of an inserted layer where layers do not follow each other in a list."""
    return damaged(
        f"a model of type {model_type!r} has no list of {layers} layers, between which a layer could be inserted: "
        "train a LoRA"
    )


def is_expert(name: str) -> bool:
    """Whether a module is in one expert of a mixture, which sees tokens without the rows that they came from."""
    return _EXPERT.search(name) is not None


def in_any_layer(name: str) -> tuple[str, int | None]:
    """A module's name with `*` in place of the number of its layer, and that number; None where it has none."""
    steps = name.split(".")
    for at, step in enumerate(steps):
        if step.isascii() and step.isdecimal() and len(step) < 9 and str(int(step)) == step:
            return ".".join([*steps[:at], ANY_LAYER, *steps[at + 1 :]]), int(step)
    return name, None


def widths_of(name: str, shape: ModelShape) -> tuple[int, int] | None:
    """(in, out) of the linear module of this name; None where the model has none, or it can carry no adapter."""
    pattern, layer = in_any_layer(name)
    for one in shape.linears:
        if one.name == pattern and _is_in(layer, one, shape):
            return one.inputs, one.outputs
    return None


def _is_in(layer: int | None, modules: LinearModules, shape: ModelShape) -> bool:
    if layer is None:
        return ANY_LAYER not in modules.name
    return layer in modules.layers if modules.layers else layer < shape.layers


def _by_name_in(shape: ModelShape, saved: Mapping[str, _T]) -> dict[str, _T]:
    """By the module's name in the model, also where it was trained on the model without its head (`AutoModel`)."""
    found: dict[str, _T] = {}
    for name, part in saved.items():
        longer = f"{shape.body}.{name}"
        is_without_head = bool(shape.body) and not widths_of(name, shape) and widths_of(longer, shape)
        named = longer if is_without_head else name
        if named in found:
            raise damaged(f"it holds weights of {shown(named)} twice, once without {shape.body!r}: save it again")
        found[named] = part
    return found


def _widths(name: str, shape: ModelShape) -> tuple[int, int]:
    """Raises Refusal(guidance_damaged) where there is no such linear module."""
    if is_expert(name):
        raise damaged(f"it targets {shown(name)}, one expert of a mixture, which is not supported: train it without")
    found = widths_of(name, shape)
    if found is None:
        raise damaged(
            f"it targets {shown(name)}, which is no linear module of the model ({_instead(name, shape)}): train it for "
            "this model"
        )
    return found


def _instead(name: str, shape: ModelShape) -> str:
    """What the model has in place of a module that it has not."""
    pattern, _ = in_any_layer(name)
    alike = [one for one in shape.linears if one.name in (pattern, f"{shape.body}.{pattern}")]
    if any(not one.layers for one in alike):
        return f"it has one in each of its {shape.layers} layers, 0 to {shape.layers - 1}"
    if alike:
        return f"it has one in layers {shown(sorted(layer for one in alike for layer in one.layers))}"
    names = list(dict.fromkeys(one.name for one in shape.linears))
    return f"it has {', '.join(names[:_MOST_SHOWN]) or 'none'}{', …' if len(names) > _MOST_SHOWN else ''}"


def _check_targets(adapter: Adapter, saved: Iterable[str], shape: ModelShape) -> None:
    """Raises Refusal(guidance_damaged) for weights of a module that no name in `target_modules` stands for.

    A name that the model has, whole or from some dot on, counts whole; of any other, a wrapper's, the last part does.
    """
    targets = listed(adapter.config.get("target_modules"))
    whole = {one for one in targets if _is_named(one, shape)}
    loose = {one.rpartition(".")[2] for one in targets if one not in whole}
    for module in saved if targets else ():
        steps = module.split(".")
        if steps[-1] not in loose and whole.isdisjoint(".".join(steps[first:]) for first in range(len(steps))):
            raise untargeted(module, targets)


def _is_named(target: str, shape: ModelShape) -> bool:
    """Whether the name of a linear module of the model is this, or ends with it behind a dot."""
    pattern, layer = in_any_layer(target)
    return ANY_LAYER not in target and any(
        f".{one.name}".endswith(f".{pattern}") and (layer is None or _is_in(layer, one, shape)) for one in shape.linears
    )


def _scaled_by(name: str, have: tuple[int, ...], shape: ModelShape) -> Literal["into", "out"]:
    into, out = _widths(name, shape)
    if have == (1, into):
        return "into"
    if have == (out, 1):
        return "out"
    raise damaged(
        f"its vector of {shown(name)} is {list(have)}, and here it must be {[1, into]} or {[out, 1]}: "
        "train it for this model"
    )


_CHECKS: Final[Mapping[TrainedForm, Callable[[Adapter, ModelShape], object]]] = {
    "soft_prompt": check_soft_prompt,
    "prefix": check_prefix,
    "lora": fitted_lora,
    "ia3": fitted_ia3,
    "inserted_layer": lambda adapter, shape: check_inserted_layer(inserted_layer_config(adapter), shape),
}
