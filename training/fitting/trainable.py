"""The trainable part of any method on a frozen model. methods.py builds it, trainer.py runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from guideway.training.fitting.encoding import Encoded

_LEAST_SAVED_TOKENS: Final = 64
"""For fewer positions saved, a second pass costs about as much."""


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

        What all rows begin with is run once, and its keys and values stand before the rest of each row: causal
        attention lets nothing behind it change it, so the loss and its gradients are those of each row alone. The rests
        are padded on the right. Causal attention hides the padding, so that every row has the same positions as alone.
        The output head runs on the answers' positions only.
        """
        last = max(row.answer for row in rows)
        longest = max(len(row.ids) for row in rows)
        device = self.model.get_input_embeddings().weight.device
        once = self.shared_tokens(rows)
        text = once - self._soft_tokens if once else 0
        ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows], device=device)
        wanted = torch.tensor([[-100] * (last - row.answer) + row.ids[-row.answer :] for row in rows], device=device)
        # The position before each of the last tokens. A short answer does not use all of them.
        before = torch.tensor(
            [[max(text, len(row.ids) - last - 1 + i) for i in range(last)] for row in rows], device=device
        )
        logits = self._logits(ids, before, text) if once else self._whole_logits(ids, before)
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="none"
        ).view(len(rows), last)
        weights = torch.tensor([row.weight for row in rows], device=device)
        return losses.sum(1) @ weights, sum(row.weight * row.answer for row in rows)

    def computed_tokens(self, rows: Sequence[Encoded]) -> int:
        """How many positions a step with these rows computes, padding included."""
        once = self.shared_tokens(rows)
        return once + len(rows) * (self._soft_tokens + max(len(row.ids) for row in rows) - once)

    def shared_tokens(self, rows: Sequence[Encoded]) -> int:
        """How many positions these rows share and compute once: the virtual tokens and what all texts begin with.

        0 where that would save too little, and where dropout gives every row other noise.
        """
        if self._drops or len(rows) < 2:
            return 0
        # The position before the answer is each row's own: its logits are asked for.
        texts = [row.ids[: -row.answer - 1] for row in rows]
        least, most = min(texts), max(texts)
        text = next((i for i, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
        shared = self._soft_tokens + text
        return shared if shared * (len(rows) - 1) >= _LEAST_SAVED_TOKENS else 0

    @property
    def _soft_tokens(self) -> int:
        return self.virtual_tokens if self.soft is not None else 0

    @cached_property
    def _drops(self) -> bool:
        return any(isinstance(one, nn.Dropout) and one.p > 0 for one in self.model.modules())

    def _logits(self, ids: Tensor, at: Tensor, text: int) -> Tensor:
        """[rows, positions, vocabulary] float32: the logits at `at` [rows, positions] of `ids` [rows, longest].

        text: so many ids, the same in all rows, are run once. All of `at` lie behind them.
        """
        embedded = self.model.get_input_embeddings()(ids)
        beginning = embedded[:1, :text]
        if self.soft is not None:
            beginning = torch.cat([self.soft().to(embedded.dtype)[None], beginning], 1)
        cache = self._prefix_cache(1, embedded.dtype)
        count = cache.get_seq_length() + beginning.shape[1]
        self._run(beginning, torch.zeros(1, 1, dtype=torch.long, device=ids.device), cache)
        assert cache.get_seq_length() == count, "the model keeps keys and values of all positions"
        for layer in cache.layers:
            layer.keys = layer.keys.expand(len(ids), -1, -1, -1)
            layer.values = layer.values.expand(len(ids), -1, -1, -1)
        return self._run(embedded[:, text:], at - text, cache)

    def _whole_logits(self, ids: Tensor, at: Tensor) -> Tensor:
        """As `_logits`, with every row run from its beginning."""
        embedded = self.model.get_input_embeddings()(ids)
        if self.soft is not None:
            soft = self.soft().to(embedded.dtype)
            embedded = torch.cat([soft.expand(len(ids), -1, -1), embedded], 1)
            at = at + len(soft)
        return self._run(
            embedded, at, self._prefix_cache(len(ids), embedded.dtype) if self.prefix is not None else None
        )

    def _prefix_cache(self, rows: int, dtype: torch.dtype) -> DynamicCache:
        """The keys and values before the text of so many rows: of the prefix, if there is one."""
        cache = DynamicCache()
        if self.prefix is not None:
            for layer, (keys, values) in enumerate(self.prefix().to(dtype)):
                cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
        return cache

    def _run(self, embedded: Tensor, at: Tensor, cache: DynamicCache | None) -> Tensor:
        """[rows, positions, vocabulary] float32: the logits at `at` of `embedded`, which is added to `cache`."""

        def keep(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = args[0]
            return (hidden.gather(1, at[:, :, None].expand(-1, -1, hidden.shape[2])), *args[1:])

        hook = self.model.get_output_embeddings().register_forward_pre_hook(keep)
        try:
            logits = self.model(inputs_embeds=embedded, past_key_values=cache, use_cache=cache is not None).logits
        finally:
            hook.remove()
        return logits.float()  # type: ignore[no-any-return]
