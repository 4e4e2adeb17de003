"""What guidance has to fit of a base model: its layers, its widths, its linear modules, what it keeps of a token."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

ANY_LAYER: Final = "*"
"""Stands in a name for the number of a layer."""
_Count = Annotated[int, Meta(ge=1)]


class LinearModules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Linear modules of the same name and widths in several layers, each of which can carry a LoRA or an IA3."""

    name: Annotated[str, Meta(min_length=1, max_length=512)]
    """The name in the model, with `*` in place of the number of the layer."""
    inputs: _Count
    """How many numbers go in for each token."""
    outputs: _Count
    """How many numbers come out."""
    layers: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=10_000)] = []
    """The numbers that `*` stands for. The default is each layer."""


class KeptStates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys and values that layers, one behind the other, keep of each token."""

    layers: _Count
    """How many layers, in their order."""
    heads: _Count
    """How many heads keys and values have."""
    key: _Count
    """The width of a key, of one head."""
    value: _Count
    """The width of a value, of one head."""


class ModelShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What trained guidance has to fit of a model."""

    model_type: Annotated[str, Meta(max_length=100)]
    """The family, as its configuration names it."""
    layers: _Count
    """How many decoder layers it has."""
    hidden: _Count
    """The width of an embedding."""
    body: Annotated[str, Meta(max_length=100)] = ""
    """The name of the model without its head. Guidance that was trained on that leaves it out of its names."""
    insertable: bool = True
    """Whether a layer can be inserted after each of its layers."""
    linears: Annotated[list[LinearModules], Meta(max_length=2000)] = []
    """The modules that can carry a LoRA or an IA3."""
    kept: Annotated[list[KeptStates], Meta(max_length=2000)] = []
    """What its layers keep of each token, equal neighbours together: a prefix needs one shape for all layers. Where it
    is not known, it is left out."""
