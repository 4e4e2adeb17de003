"""A trial when a model is loaded: whether it computes in the engine what it computes alone, on a few tokens.

Families differ in how they make masks, positions and caches, and versions of transformers differ too. What a
configuration does not tell (`model_kind.py`) is seen here, before the first request, so that no wrong text is served.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, Final

import structlog
import torch
from torch import Tensor
from transformers import PreTrainedModel

from guideway.schemas.failures import Refusal
from guideway.workers.engine.model.attention import causal_mask
from guideway.workers.engine.model.kv_cache import KvCache, kept_shapes
from guideway.workers.engine.model.model_kind import unsupported

if TYPE_CHECKING:
    from guideway.workers.engine.model.base_model import BaseModel

_TEXT: Final = "The quick brown fox jumps over the lazy dog, and then it sleeps."
_TOKENS: Final = 16
_TOLERANCE: Final = {torch.float32: 1e-2}
_TOLERANCE_OF_OTHERS: Final = 0.25
"""‖ours − alone‖ / ‖alone‖ of logits less their mean. In half precision a router may choose another expert at some
position, so the median of the positions counts: a wrong computation is wrong at all of them."""

log = structlog.get_logger(__name__)


@torch.inference_mode()
def check_runs(base: BaseModel) -> None:
    """Run two rows of different lengths side by side, by pieces and token by token, and each alone without a cache.

    Raises: Refusal `unsupported_model` if the model cannot be run so, or the two ways give different logits.
    """
    model = base.model
    kind = model.config.model_type
    _check_vocabulary(base)
    try:
        # Now, because the threads that read guidance will ask for it.
        kept_shapes(model)
        far = _distances(model, _some_ids(base))
    except (Refusal, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        log.warning("the model cannot be run by the engine", at=traceback.format_tb(error.__traceback__))
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise unsupported(f"models of type {kind!r} cannot be run by the engine ({reason})") from error
    if not far.isfinite().all():
        raise unsupported(f"the model of type {kind!r} computes what is no finite number: its weights are damaged")
    dtype = model.get_input_embeddings().weight.dtype
    found = float(far.max() if dtype in _TOLERANCE else far.median())
    if found > _TOLERANCE.get(dtype, _TOLERANCE_OF_OTHERS):
        raise unsupported(
            f"a model of type {kind!r} computes something else side by side in the engine than alone (by {found:.0%})"
        )


def _check_vocabulary(base: BaseModel) -> None:
    """Raises: Refusal `unsupported_model` if the tokenizer has tokens that the model lacks."""
    head = base.model.get_output_embeddings()
    if head is None:
        raise unsupported(f"models of type {base.model.config.model_type!r} have no output head over the vocabulary")
    known = min(len(base.model.get_input_embeddings().weight), len(head.weight))
    vocabulary = base.tokenizer.get_vocab()
    token, last = max(vocabulary.items(), key=lambda item: item[1])
    if last >= known:
        raise unsupported(
            f"the tokenizer has token {token!r} of id {last}, and the model's vocabulary ends at {known - 1}: remove "
            "the tokens that were added to the tokenizer, or give the model rows for them (resize_token_embeddings)"
        )


def _some_ids(base: BaseModel) -> list[int]:
    ids: list[int] = base.tokenizer.encode(_TEXT, add_special_tokens=False)
    return (ids * _TOKENS)[:_TOKENS] or [0] * _TOKENS


def _distances(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """How far the logits of two rows are from those of each alone, at several positions."""
    embed = model.get_input_embeddings()
    long, short = torch.tensor([ids, ids[::-1]], device=embed.weight.device)
    run = _Run(model)
    # A first pass tells the cache the shapes of the layers.
    run.forward(slice(0, 1), [[0]], 1, input_ids=long[None, :1])
    first = run.forward(slice(0, 1), [list(range(10))], 10, inputs_embeds=embed(long[None, :10]))
    # One row goes on while the other begins, and is padded to its length.
    embeddings = embed(torch.stack([long[-8:], short[:8]]))
    embeddings[0] = 0
    embeddings[0, 0] = embed(long[10])
    beside = run.forward(slice(0, 2), [[10] + 7 * [11], list(range(8))], 12, inputs_embeds=embeddings)
    decoded = run.forward(slice(0, 2), [[11], [8]], 12, input_ids=torch.stack([long[11:12], short[8:9]]))
    middle = run.forward(slice(0, 1), [[12, 13, 14, 15]], 16, inputs_embeds=embed(long[None, 12:]))
    ours = [first[0, 9], beside[0, 0], beside[1, 7], decoded[0, 0], decoded[1, 0], middle[0, 3]]
    by_long, by_short = _alone(model, long), _alone(model, short)
    alone = [by_long[9], by_long[10], by_short[7], by_long[11], by_short[8], by_long[15]]
    return torch.stack([_distance(one, other) for one, other in zip(ours, alone, strict=True)])


def _alone(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits [tokens, vocabulary] after each of `ids` [tokens], by the model's own means."""
    logits: Tensor = model(input_ids=ids[None], use_cache=False).logits[0]
    return logits


def _distance(ours: Tensor, alone: Tensor) -> Tensor:
    ours, alone = ours.float() - ours.float().mean(), alone.float() - alone.float().mean()
    distance: Tensor = (ours - alone).norm() / alone.norm()
    return distance


class _Run:
    """Forward passes as the engine makes them, with a cache of their own."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.cache = KvCache(max_rows=2, max_bytes=2**62)
        for slot in range(2):
            self.cache.reserve(slot, _TOKENS + 1)
        self._model = model
        self._embed = model.get_input_embeddings().weight

    def forward(self, slots: slice, positions: list[list[int]], longest: int, **inputs: Any) -> Tensor:
        """Logits [rows, queries, vocabulary]"""
        at = torch.tensor(positions, device=self._embed.device)
        self.cache.see(slots, at, longest)
        logits: Tensor = self._model(
            **inputs,
            attention_mask=causal_mask(at, longest, self._embed.dtype),
            position_ids=at,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return logits
