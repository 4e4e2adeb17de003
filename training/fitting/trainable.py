"""The trainable part of any method on a frozen model. methods.py builds it, trainer.py runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from guideway.training.fitting.encoding import Encoded


@dataclass(frozen=True)
class Trainable:
    """A frozen model and its trainable part. Adapters are already in the model."""

    model: Any
    """A causal LM of transformers; its modules may be wrapped or hooked."""
    module: nn.Module
    """Its parameters with a gradient are trained, in float32."""
    save: Callable[[Path], None]
    """Writes the artefact's two files into a folder."""
    soft: Callable[[], Tensor] | None = None
    """Gives the virtual tokens before the text, [virtual, hidden]."""
    prefix: Callable[[], Tensor] | None = None
    """Gives the keys and values before the text, [layers, 2, kv_heads, virtual, head_dim]."""
    virtual_tokens: int = 0

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Name → the parameter that is trained."""
        return {name: one for name, one in self.module.named_parameters() if one.requires_grad}

    def answer_loss(self, rows: Sequence[Encoded]) -> tuple[Tensor, float]:
        """(Σ over rows and answer tokens of w · -log p(token | all tokens before it), Σ of w), with w the row's weight.

        Rows are padded on the right. Causal attention hides the padding, so that every row has the same positions as
        alone. The output head runs on the answers' positions only.
        """
        last = max(row.answer for row in rows)
        longest = max(len(row.ids) for row in rows)
        device = self.model.get_input_embeddings().weight.device
        ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows], device=device)
        wanted = torch.tensor([[-100] * (last - row.answer) + row.ids[-row.answer :] for row in rows], device=device)
        # The position before each of the last tokens. A short answer does not use all of them.
        before = torch.tensor(
            [[max(0, len(row.ids) - last - 1 + i) for i in range(last)] for row in rows], device=device
        )
        logits = self._logits(ids, before)
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="none"
        ).view(len(rows), last)
        weights = torch.tensor([row.weight for row in rows], device=device)
        return losses.sum(1) @ weights, sum(row.weight * row.answer for row in rows)

    def computed_tokens(self, rows: Sequence[Encoded]) -> int:
        """How many positions a step with these rows computes, padding included."""
        soft = self.virtual_tokens if self.soft is not None else 0
        return len(rows) * (soft + max(len(row.ids) for row in rows))

    def _logits(self, ids: Tensor, at: Tensor) -> Tensor:
        """[rows, positions, vocabulary] float32: the logits at `at` [rows, positions] of `ids` [rows, longest]."""
        embedded = self.model.get_input_embeddings()(ids)
        cache = None
        if self.soft is not None:
            soft = self.soft().to(embedded.dtype)
            embedded = torch.cat([soft.expand(len(ids), -1, -1), embedded], 1)
            at = at + len(soft)
        if self.prefix is not None:
            cache = DynamicCache()
            for layer, (keys, values) in enumerate(self.prefix().to(embedded.dtype)):
                rows = (len(ids), -1, -1, -1)
                cache.update(keys.expand(rows), values.expand(rows), layer)

        def keep(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = args[0]
            return (hidden.gather(1, at[:, :, None].expand(-1, -1, hidden.shape[2])), *args[1:])

        hook = self.model.get_output_embeddings().register_forward_pre_hook(keep)
        try:
            logits = self.model(inputs_embeds=embedded, past_key_values=cache, use_cache=cache is not None).logits
        finally:
            hook.remove()
        return logits.float()  # type: ignore[no-any-return]
