"""Names of an adapter's tensors without the parts that training loops add when they wrap a model. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_WRAPPERS: Final = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Added anywhere by torch.compile, by fully sharded data parallel and by activation checkpointing."""
_PARALLEL: Final = "module."
"""Added at the beginning by data parallel; elsewhere it may be a module of the model."""
_NAMED_ADAPTER: Final = re.compile(
    r"(?P<before>.+\.)"
    r"(?:(?P<factor>lora_[AB])\.(?P<of_factor>[^.]+)\.weight"
    r"|(?P<vector>lora_magnitude_vector|ia3_l)\.(?P<of_vector>(?!weight$)[^.]+)(?:\.weight)?)"
)
"""The adapter's name, which a model in memory has in its tensor names and PEFT's files do not."""


def plain_name(name: str) -> str:
    """The name as PEFT's `save_pretrained` writes it."""
    name = _WRAPPERS.sub("", name.removeprefix(_PARALLEL))
    match = _NAMED_ADAPTER.fullmatch(name)
    if match is None:
        return name
    return f"{match['before']}{match['vector'] or match['factor'] + '.weight'}"


def adapters(names: Iterable[str]) -> set[str]:
    """The adapters that tensor names of a model in memory mention; none if the names are those of a file."""
    found = (_NAMED_ADAPTER.fullmatch(name) for name in names)
    return {match["of_vector"] or match["of_factor"] for match in found if match is not None}
