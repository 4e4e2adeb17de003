"""Random guidance of every kind for tiny models of several families, saved by PEFT itself."""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import PreTrainedModel

from guideway.workers.engine.guidance.inserted_training import TrainableInsertedLayer
from guideway.workers.messages.to_engine import Artefact

LLAMA_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGETS: Final[Mapping[str, Sequence[str]]] = {
    "gpt2": ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"),
    "gpt_neox": ("query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"),
}
"""Linear modules of a family; the last one is that of the feed-forward's input, as IA3 understands it."""


@dataclass(frozen=True)
class Shelf:
    """Makes artefacts for one family, each from a seed."""

    family: str
    build: Callable[[], PreTrainedModel]
    folder: Path

    @property
    def makers(self) -> Mapping[str, Callable[[random.Random], PeftConfig]]:
        return {
            "soft_prompt": lambda r: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=r.randint(1, 7)),
            "p_tuning": lambda r: PromptEncoderConfig(
                task_type="CAUSAL_LM",
                num_virtual_tokens=r.randint(1, 5),
                encoder_hidden_size=16,
                encoder_reparameterization_type=r.choice(["MLP", "LSTM"]),
            ),
            "prefix": lambda r: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=r.randint(1, 9)),
            "projected_prefix": lambda r: PrefixTuningConfig(
                task_type="CAUSAL_LM", num_virtual_tokens=r.randint(1, 6), prefix_projection=True, encoder_hidden_size=8
            ),
            "lora": lambda r: self._lora(r, use_rslora=r.random() < 0.3),
            "dora": lambda r: self._lora(r, use_dora=True),
            "ia3": self._ia3,
        }

    def make(self, kind: str, seed: int) -> Artefact:
        """A random artefact; kind is one of `makers`, or `inserted_layer`, which PEFT does not know."""
        chance = random.Random(f"{self.family} {kind} {seed}")
        name = f"team/{kind.replace('_', '-')}-{seed}@1"
        folder = self.folder / self.family / f"{kind}-{seed}"
        form: Any = {"p_tuning": "soft_prompt", "projected_prefix": "prefix", "dora": "lora"}.get(kind, kind)
        torch.manual_seed(chance.randrange(2**31))
        if kind == "inserted_layer":
            self._save_inserted_layer(chance, folder)
        else:
            self._save(self.makers[kind](chance), folder)
        digest = hashlib.sha256(f"{self.family} {name}".encode()).hexdigest()
        return Artefact(name=name, form=form, digest=f"sha256:{digest}", folder=str(folder))

    def _save(self, config: PeftConfig, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT uses what transformers has deprecated, and warns of its own features
            model = get_peft_model(self.build(), config)
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    _draw(name, parameter.data)
            model.save_pretrained(folder)

    def _save_inserted_layer(self, chance: random.Random, folder: Path) -> None:
        layer = TrainableInsertedLayer(
            self.build(),
            after_layers=chance.sample([0, 1], chance.randint(1, 2)),
            bottleneck=chance.choice([1, 3, 8]),
            activation=chance.choice(["gelu", "silu", "relu"]),
            norm_eps=chance.choice([1e-6, 1e-2]),
        )
        for name, parameter in layer.named_parameters():
            _draw(name, parameter.data)
        layer.save(folder)

    @property
    def targets(self) -> Sequence[str]:
        return TARGETS.get(self.family, LLAMA_TARGETS)

    def _some_targets(self, chance: random.Random) -> list[str]:
        return chance.sample(self.targets, chance.randint(1, len(self.targets)))

    def _lora(self, chance: random.Random, **settings: Any) -> PeftConfig:
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=chance.choice([1, 2, 4, 8, 13]),
            lora_alpha=chance.choice([2, 8]),
            target_modules=self._some_targets(chance),
            fan_in_fan_out=self.family == "gpt2",
            init_lora_weights=False,
            **settings,
        )

    def _ia3(self, chance: random.Random) -> PeftConfig:
        targets = sorted({*self._some_targets(chance), self.targets[-1]})
        return IA3Config(
            task_type="CAUSAL_LM",
            target_modules=targets,
            feedforward_modules=[self.targets[-1]],
            fan_in_fan_out=self.family == "gpt2",
        )


def _draw(name: str, parameter: torch.Tensor) -> None:
    """Values that change the text and leave its numbers moderate."""
    if "ia3" in name or "magnitude" in name or "norm" in name:
        parameter.mul_(1 + 0.3 * torch.randn(parameter.shape))
    else:
        parameter.copy_(torch.randn(parameter.shape) * (1.0 if "prompt_encoder" in name else 0.3))
