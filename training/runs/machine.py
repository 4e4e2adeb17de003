"""The machine that carries out a run, and the base models that it loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.workers.engine.model import base_model
from guideway.workers.engine.model.base_model import BaseModel

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}


@dataclass(frozen=True)
class Machine:
    """The device of a run, and the folder for its models."""

    model_cache: Path
    device: str = "cpu"


def load_model(model: Model, machine: Machine, dtype: str) -> BaseModel:
    """The base model of a manifest. Raises: Refusal `guidance_wrong_model` if its weights have another fingerprint."""
    folder = base_model.prepare(model.source, machine.model_cache)
    base = base_model.load(folder, dtype=DTYPES[dtype], device=machine.device)
    if model.fingerprint == base.former_fingerprint:
        raise Refusal(
            FailureCode.GUIDANCE_WRONG_MODEL,
            f"model size {model.name} is declared with a fingerprint of the former way of computing it: apply its "
            f"manifest with {base.fingerprint}",
        )
    if model.fingerprint not in (None, base.fingerprint):
        raise Refusal(
            FailureCode.GUIDANCE_WRONG_MODEL,
            f"the weights of model size {model.name} are not those of its manifest ({base.fingerprint[:19]}…, and it "
            f"says {(model.fingerprint or '')[:19]}…): put the right ones in place, or apply the manifest again",
        )
    return base


def training_dtype(model: Model, dtype: str) -> str:
    """The type in which a model is trained on, where a task's schedule says `dtype`: int8 where it is served in int8.

    Raises: Refusal `invalid_setting` if the schedule says float32 for a model in int8.
    """
    if model.dtype != "int8":
        return dtype
    if dtype == "float32":
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"model size {model.name} is served in int8, and guidance for it is trained through these weights beside "
            "bfloat16: remove `dtype: float32` from the schedule",
        )
    return "int8"


def published_model_name(source: str) -> str:
    """A base model's name for published files: a hub name unchanged, of a file or folder only the last part."""
    if source.startswith("package:") or source.endswith(".gguf"):
        return Path(source).stem
    return source if source.count("/") <= 1 and not source.startswith((".", "~", "/")) else Path(source).name
