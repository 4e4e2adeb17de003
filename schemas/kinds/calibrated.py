"""The biases of an endpoint's labels, as they were measured."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from guideway.schemas.calibration import MAX_BIAS, CalibratedBy
from guideway.schemas.kinds.manifest import Manifested


class LabelBias(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is added to a label's log-likelihood."""

    label: str
    """As the output rule spells it."""
    bias: Annotated[float, Meta(ge=-MAX_BIAS, le=MAX_BIAS)]
    """The difference of natural logarithms."""


class Calibrated(Manifested, frozen=True, kw_only=True, tag="calibration/v1"):
    """The biases of an endpoint's labels; it has the endpoint's name. The first worker that needs them makes them."""

    endpoint_version: Annotated[int, Meta(ge=1)]
    """The version of the endpoint with this name."""
    guidance: list[str]
    """The guidance that acted, as a reply lists it. The biases hold with this guidance only."""
    model_fingerprint: str
    """The fingerprint of the base model."""
    method: CalibratedBy
    """The method that the endpoint names."""
    biases: Annotated[list[LabelBias], Meta(min_length=1)]
    """The biases of all labels."""
    texts: Annotated[int, Meta(ge=1)]
    """How many texts they were measured on."""

    @property
    def by_label(self) -> dict[str, float]:
        """Label → what is added to its log-likelihood."""
        return {one.label: one.bias for one in self.biases}
