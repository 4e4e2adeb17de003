"""The state of a training in one file, replaced in one step: a kill while writing leaves the file before."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.fitting.stop_rules import Validation
from guideway.training.fitting.time_plan import TimePlan
from guideway.training.runs.folder import write_whole

_STATE: Final = "guideway"
_MOMENTS: Final = ("exp_avg", "exp_avg_sq")


class Position(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The progress of a training. The rows of the next step follow from `step` (batches.py)."""

    step: int = 0
    """How many steps are done."""
    elapsed_s: float = 0.0
    validation: Validation = Validation()
    look_s: float = 0.0
    """Seconds that the latest evaluation on the validation rows took."""
    plan: TimePlan | None = None
    """None: the task's own plan."""


def write(
    file: Path,
    position: Position,
    parameters: Mapping[str, nn.Parameter],
    best: Mapping[str, Tensor],
    optimiser: torch.optim.AdamW,
) -> None:
    """Write all that the rest of the training needs: parameters, moments, the best so far, torch's generator."""
    tensors = {f"parameter/{name}": one.detach() for name, one in parameters.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    tensors |= {
        f"{moment}/{name}": optimiser.state[one][moment]
        for name, one in parameters.items()
        for moment in _MOMENTS
        if one in optimiser.state
    }
    tensors["generator"] = torch.get_rng_state()
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, save(plain, metadata={_STATE: msgspec.json.encode(position).decode()}))


def read(
    file: Path,
    parameters: Mapping[str, nn.Parameter],
    best: dict[str, Tensor],
    optimiser: torch.optim.AdamW,
) -> Position:
    """Restore what `write` wrote. Raises: Refusal `invalid_setting` if it belongs to another training."""
    try:
        with safe_open(file, framework="pt") as tensors:
            position = msgspec.json.decode((tensors.metadata() or {})[_STATE], type=Position)
            for name, parameter in parameters.items():
                parameter.data.copy_(tensors.get_tensor(f"parameter/{name}"))
                best[name] = tensors.get_tensor(f"best/{name}").to(parameter.device)
                if position.step:
                    moments = {key: tensors.get_tensor(f"{key}/{name}").to(parameter.device) for key in _MOMENTS}
                    optimiser.state[parameter] = {"step": torch.tensor(float(position.step)), **moments}
            torch.set_rng_state(tensors.get_tensor("generator"))
    except (OSError, KeyError, RuntimeError, SafetensorError, msgspec.DecodeError) as error:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{os.fspath(file)} is no checkpoint of this training ({type(error).__name__}): remove it to begin anew",
        ) from error
    return position
