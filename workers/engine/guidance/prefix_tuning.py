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

from guideway.catalogue.adapters.adapter import shown
from guideway.catalogue.adapters.forms import prompt_tokens
from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.guidance.peft_folder import check_finite, damaged, read
from guideway.workers.engine.model.kv_cache import kept_shapes


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
        prompt_tokens(adapter)
        config, flat = adapter.config, tensors["prompt_embeddings"]
        layers, heads, dim = _cache_shape(model)
        have = tuple(config.get(name) for name in ("num_layers", "num_attention_heads", "token_dim"))
        want = (layers, heads, heads * dim)
        if have != want or flat.shape[1] != layers * 2 * heads * dim:
            raise damaged(
                f"its (num_layers, num_attention_heads, token_dim) are {shown(have)} and its width {flat.shape[1]}, "
                f"and the model needs {want} and {layers * 2 * heads * dim}: train it for this model"
            )
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
    return [(layer[0], layer[1]) for layer in torch.cat([prefix.states for prefix in prefixes], dim=3)]


def _cache_shape(model: PreTrainedModel) -> tuple[int, int, int]:
    """(layers, key and value heads, head_dim) of the states that the model keeps.

    Raises: Refusal `guidance_unsupported` if the layers have states of several shapes, or compressed or shared ones.
    """
    shapes, layers = kept_shapes(model), model.config.get_text_config().num_hidden_layers
    if len(shapes) != layers or len({*shapes}) != 1 or shapes[0][1] != shapes[0][2]:
        raise Refusal(
            FailureCode.GUIDANCE_UNSUPPORTED,
            f"models of type {model.config.model_type!r} do not keep keys and values of one shape at every layer, and "
            "a prefix is made of such: train a soft prompt or an adapter",
        )
    return layers, shapes[0][0], shapes[0][1]
