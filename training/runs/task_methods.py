"""The methods that a task may train, with their settings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from guideway.schemas.kinds.manifest import Name
from guideway.schemas.manifests import TrainedForm

Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0, le=1)]


class TaskPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A part of a task's manifest."""


class _Method(TaskPart, frozen=True, kw_only=True, tag_field="form"):
    guidance_form: ClassVar[TrainedForm]
    """The guidance form of what is trained, in the catalogue."""
    name: Name | None = None
    """A name, needed if two methods have the same form. None: the form."""
    max_steps: Count | None = None
    """The most steps of this method. None: the task's."""
    learning_rate: Rate
    """The highest learning rate; see `schedule.warm_up`."""

    @property
    def label(self) -> str:
        """The method's name in its run: in folders, events and tables."""
        return self.name or str(self.__struct_config__.tag).replace("_", "-")


class _VirtualTokens(_Method, frozen=True, kw_only=True):
    virtual_tokens: Annotated[int, Meta(ge=1, le=1000)] = 20
    """How many virtual tokens are trained."""
    initial_text: str = ""
    """The text that the virtual tokens begin as, repeated as needed. Empty: the best text prompt, or the task's
    instruction."""


class SoftPromptMethod(_VirtualTokens, frozen=True, kw_only=True, tag="soft_prompt"):
    """Virtual tokens before the text (prompt tuning, https://arxiv.org/abs/2104.08691)."""

    guidance_form: ClassVar[TrainedForm] = "soft_prompt"
    learning_rate: Rate = 1e-2


class PTuningMethod(_VirtualTokens, frozen=True, kw_only=True, tag="p_tuning"):
    """Virtual tokens that an encoder makes in training (https://arxiv.org/abs/2103.10385). The encoder is not kept."""

    guidance_form: ClassVar[TrainedForm] = "soft_prompt"
    learning_rate: Rate = 2e-3
    encoder_hidden_size: Annotated[int, Meta(ge=1, le=65_536)] = 256
    """The hidden size of the encoder that makes the virtual tokens."""


class PrefixMethod(_VirtualTokens, frozen=True, kw_only=True, tag="prefix"):
    """Keys and values before the text, at every layer (https://arxiv.org/abs/2101.00190)."""

    guidance_form: ClassVar[TrainedForm] = "prefix"
    learning_rate: Rate = 1e-2


class LoraMethod(_Method, frozen=True, kw_only=True, tag="lora"):
    """Low-rank updates beside linear modules (https://arxiv.org/abs/2106.09685)."""

    guidance_form: ClassVar[TrainedForm] = "lora"
    learning_rate: Rate = 1e-3
    rank: Annotated[int, Meta(ge=1, le=256)] = 8
    """The rank of the updates."""
    alpha: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """The scale of the updates is alpha / rank. None: twice the rank."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """The share of an update's inputs that a training step leaves out."""
    targets: list[str] = []
    """Names of linear modules. Empty: PEFT's choice for the model's type."""


class Ia3Method(_Method, frozen=True, kw_only=True, tag="ia3"):
    """Vectors that scale activations (https://arxiv.org/abs/2205.05638)."""

    guidance_form: ClassVar[TrainedForm] = "ia3"
    learning_rate: Rate = 1e-2
    targets: list[str] = []
    """Names of linear modules. Empty: PEFT's choice for the model's type."""
    feedforward: list[str] = []
    """The targets whose input is scaled, instead of their output. Empty: PEFT's choice if `targets` is empty too."""


class InsertedLayerMethod(_Method, frozen=True, kw_only=True, tag="inserted_layer"):
    """Bottleneck blocks between decoder layers, without effect at first (after https://arxiv.org/abs/1902.00751)."""

    guidance_form: ClassVar[TrainedForm] = "inserted_layer"
    learning_rate: Rate = 1e-3
    bottleneck: Annotated[int, Meta(ge=1, le=4096)] = 32
    """The width of the block's inner layer."""
    after_layers: list[Annotated[int, Meta(ge=0)]] = []
    """Numbers of layers, from 0 on. Empty: after one third and two thirds of the layers."""
    activation: Literal["gelu", "silu", "relu"] = "gelu"
    """The activation of the block's inner layer."""


Method = SoftPromptMethod | PTuningMethod | PrefixMethod | LoraMethod | Ia3Method | InsertedLayerMethod


def virtual_tokens(method: Method) -> int:
    """How many virtual tokens the method puts before the text; 0 for methods without."""
    return method.virtual_tokens if isinstance(method, SoftPromptMethod | PTuningMethod | PrefixMethod) else 0
