"""The names of an adapter's tensors, without what training loops wrap around a model and leave in them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_WRAPPERS: Final = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Of torch.compile, of fully sharded data parallel, and of activation checkpointing, wherever they stand."""
_PARALLEL: Final = "module."
"""Of data parallel, before everything; elsewhere it may be a module of the model."""
_NAMED_ADAPTER: Final = re.compile(
    r"(?P<before>.+\.)"
    r"(?:(?P<factor>lora_[AB])\.(?P<of_factor>[^.]+)\.weight"
    r"|(?P<vector>lora_magnitude_vector|ia3_l)\.(?P<of_vector>(?!weight$)[^.]+)(?:\.weight)?)"
)
"""As a model has it that may have several adapters at once; PEFT's files have it without."""


def plain_name(name: str) -> str:
    """As PEFT's `save_pretrained` writes it."""
    name = _WRAPPERS.sub("", name.removeprefix(_PARALLEL))
    match = _NAMED_ADAPTER.fullmatch(name)
    if match is None:
        return name
    return f"{match['before']}{match['vector'] or match['factor'] + '.weight'}"


def adapters(names: Iterable[str]) -> set[str]:
    """The adapters that names as a model has them speak of; none where they are as a file has them."""
    found = (_NAMED_ADAPTER.fullmatch(name) for name in names)
    return {match["of_vector"] or match["of_factor"] for match in found if match is not None}
