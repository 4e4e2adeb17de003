"""What a task may have trained: the methods and their settings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.manifests import Name, TrainedForm

Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0, le=1)]


class TaskPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A part of a task's manifest."""


class _Method(TaskPart, frozen=True, kw_only=True, tag_field="form"):
    guidance_form: ClassVar[TrainedForm]
    """The form under which the catalogue has what is trained."""
    name: Name | None = None
    """To tell two of one form apart; None: the form."""
    max_steps: Count | None = None
    """None: the task's."""
    learning_rate: Rate
    """The highest; see `schedule.warm_up`."""

    @property
    def label(self) -> str:
        """The method's name in its run: in folders, events and tables."""
        return self.name or str(self.__struct_config__.tag).replace("_", "-")


class _VirtualTokens(_Method, frozen=True, kw_only=True):
    virtual_tokens: Annotated[int, Meta(ge=1, le=1000)] = 20
    """How many are trained."""
    initial_text: str = ""
    """What the virtual tokens begin as, repeated as needed. Empty: the best text prompt, or the task's instruction."""


class SoftPromptMethod(_VirtualTokens, frozen=True, kw_only=True, tag="soft_prompt"):
    """Virtual tokens before the text (prompt tuning, https://arxiv.org/abs/2104.08691)."""

    guidance_form: ClassVar[TrainedForm] = "soft_prompt"
    learning_rate: Rate = 1e-2


class PTuningMethod(_VirtualTokens, frozen=True, kw_only=True, tag="p_tuning"):
    """Virtual tokens that an encoder makes in training (https://arxiv.org/abs/2103.10385); only they are kept."""

    guidance_form: ClassVar[TrainedForm] = "soft_prompt"
    learning_rate: Rate = 2e-3
    encoder_hidden_size: Annotated[int, Meta(ge=1, le=65_536)] = 256
    """Of the encoder that makes the virtual tokens."""


class PrefixMethod(_VirtualTokens, frozen=True, kw_only=True, tag="prefix"):
    """Keys and values before everything, at every layer (https://arxiv.org/abs/2101.00190)."""

    guidance_form: ClassVar[TrainedForm] = "prefix"
    learning_rate: Rate = 1e-2


class LoraMethod(_Method, frozen=True, kw_only=True, tag="lora"):
    """Low-rank updates beside linear modules (https://arxiv.org/abs/2106.09685)."""

    guidance_form: ClassVar[TrainedForm] = "lora"
    learning_rate: Rate = 1e-3
    rank: Annotated[int, Meta(ge=1, le=256)] = 8
    """Of the updates."""
    alpha: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """None: twice the rank."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of the inputs of an update that a training step leaves out."""
    targets: list[str] = []
    """Names of linear modules; empty: what PEFT takes for the model's type."""


class Ia3Method(_Method, frozen=True, kw_only=True, tag="ia3"):
    """Vectors that scale activations (https://arxiv.org/abs/2205.05638)."""

    guidance_form: ClassVar[TrainedForm] = "ia3"
    learning_rate: Rate = 1e-2
    targets: list[str] = []
    """Names of linear modules; empty: what PEFT takes for the model's type."""
    feedforward: list[str] = []
    """Those of the targets whose input is scaled and not their output; empty: as `targets`."""


class InsertedLayerMethod(_Method, frozen=True, kw_only=True, tag="inserted_layer"):
    """Bottleneck blocks between decoder layers, which begin as nothing (after https://arxiv.org/abs/1902.00751)."""

    guidance_form: ClassVar[TrainedForm] = "inserted_layer"
    learning_rate: Rate = 1e-3
    bottleneck: Annotated[int, Meta(ge=1, le=4096)] = 32
    """Width of the block's inner layer."""
    after_layers: list[Annotated[int, Meta(ge=0)]] = []
    """Numbers of layers, from 0 on; empty: after one third and two thirds of them."""
    activation: Literal["gelu", "silu", "relu"] = "gelu"
    """Of the block's inner layer."""


Method = SoftPromptMethod | PTuningMethod | PrefixMethod | LoraMethod | Ia3Method | InsertedLayerMethod
