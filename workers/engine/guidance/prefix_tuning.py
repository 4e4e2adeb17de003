"""Prefixes: trained keys and values before everything else in a row's cache, at every layer.

Li and Liang 2021, https://arxiv.org/abs/2101.00190.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from guideway.catalogue.adapters.fitting import check_prefix
from guideway.workers.engine.guidance.model_shape import whole_shape_of
from guideway.workers.engine.guidance.peft_folder import check_finite, read


@dataclass(frozen=True, eq=False)
class PrefixTuning:
    """Keys and values of one artefact, in the model's dtype and on its device.

    A prefix of n tokens has positions 0 to n - 1 of its row, and what follows it begins at n. As in PEFT, its keys are
    taken as they are: rotary positions are not applied to them.
    """

    states: Tensor
    """[layers, 2, kv_heads, tokens, head_dim]; keys, then values"""

    @classmethod
    def load(cls, folder: Path, model: PreTrainedModel, digest: str | None = None) -> PrefixTuning:
        """Read a folder that PEFT saved, with `prefix_projection` or without.

        Raises: Refusal `guidance_damaged` if it is no prefix or does not fit `model`; `guidance_unsupported` if no
        prefix can fit it. Altered if a `digest` is given and the folder's bytes are not what it says.
        """
        adapter, tensors = read(folder, "prefix", digest)
        fitting = check_prefix(adapter, whole_shape_of(model))
        assert fitting is not None, "a model that is loaded shows what it keeps"
        (layers, heads, dim), flat = fitting, tensors["prompt_embeddings"]
        table = model.get_input_embeddings().weight
        states = flat.view(len(flat), layers, 2, heads, dim).permute(1, 2, 3, 0, 4)
        states = states.to(dtype=table.dtype, device=table.device).contiguous()
        check_finite({"prompt_embeddings": states})
        return cls(states)

    @property
    def tokens(self) -> int:
        """How many positions it takes."""
        return self.states.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.states.nbytes


def prefix_states(prefixes: Sequence[PrefixTuning]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values per layer, each [kv_heads, tokens, head_dim], of all `prefixes` in their order; [] for none."""
    if not prefixes:
        return []
    states = torch.cat([prefix.states for prefix in prefixes], dim=3) if len(prefixes) > 1 else prefixes[0].states
    return [(keys, values) for keys, values in states]
