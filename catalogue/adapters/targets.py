"""Whether an adapter's tensors are of the modules that its configuration names. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from guideway.catalogue.adapters.adapter import Adapter, damaged, shown
from guideway.schemas.failures import Refusal

_OF_MODULE: Final = re.compile(
    r"base_model\.model\.(?P<module>.*?(?:\.(?P<layer>\d+)\..*)?)\.(?:lora_[AB]\.weight|lora_magnitude_vector|ia3_l)"
)


def check_targets(adapter: Adapter) -> None:
    """Refuse tensors that PEFT, which goes by the configuration, would leave out without a word.

    A name stands for all modules that end with it. Of a longer one in `target_modules` the last part counts, as
    wrappers have names of their own: `fitting` compares it whole, where the model is known to have a module of this
    name. Patterns are for those names, and are not compared.

    Raises: Refusal(guidance_damaged).
    """
    config = adapter.config
    targets = {one.rpartition(".")[2] for one in listed(config.get("target_modules"))}
    excluded = {*listed(config.get("exclude_modules"))}
    layers = config.get("layers_to_transform")
    several = layers if isinstance(layers, list) else [layers] if type(layers) is int else []
    wanted = {one for one in several if type(one) is int}
    for name in adapter.tensors:
        if (match := _OF_MODULE.fullmatch(name)) is None:
            continue
        module, layer = match["module"], match["layer"]
        steps = module.split(".")
        if targets and steps[-1] not in targets:
            raise untargeted(module, targets)
        if any(".".join(steps[first:]) in excluded for first in range(len(steps))):
            raise damaged(
                f"it holds weights of {shown(module)}, which its `exclude_modules` leave out: publish the "
                "configuration that it was trained with"
            )
        if several and layer is not None and int(layer[:9]) not in wanted:
            raise damaged(
                f"it holds weights of {shown(module)}, and its `layers_to_transform` are {shown(layers)}: publish "
                "the configuration that it was trained with"
            )


def untargeted(module: str, targets: Iterable[str]) -> Refusal:
    """The refusal of weights of a module that no name in `target_modules` stands for."""
    return damaged(
        f"it holds weights of {shown(module)}, which its `target_modules` {shown(sorted(targets))} do not "
        "name: publish the configuration that it was trained with"
    )


def listed(names: object) -> list[str]:
    """The names of a list; none of anything else."""
    return names if isinstance(names, list) and all(isinstance(one, str) for one in names) else []
