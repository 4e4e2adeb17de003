"""How likely the chosen tokens were, for rows that are to be told: evaluation asks, serving does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from guideway.workers.engine.row import Row
from guideway.workers.messages import Likelihood

_FEW: Final = 256
"""Tokens: those of the most labels whose shares anybody looks at."""


class BatchedLikelihood:
    """The rows of one step that want to know; none of them costs a step nothing.

    With x the logits of a row, t the token chosen and A the tokens that its grammar allows, a step adds
    `x[t] - log Σ exp x` to the row's `free` and `x[t] - log Σ_A exp x` to its `allowed`.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._wanted = [(index, row) for index, row in enumerate(rows) if row.admit.likelihood]
        self._indices = [index for index, _ in self._wanted]
        self._all = torch.empty(0)

    def see_all(self, logits: Tensor) -> None:
        """logits float32 [rows, vocabulary], before anything is forbidden."""
        if self._wanted:
            self._all = logits[self._indices].logsumexp(dim=-1)

    def add(self, logits: Tensor, tokens: Sequence[int | None]) -> None:
        """logits as before, with -inf where a token is forbidden; tokens chosen, None for a row that failed."""
        if not self._wanted:
            return
        masked = logits[self._indices]
        allowed = masked.logsumexp(dim=-1)
        for place, (index, row) in enumerate(self._wanted):
            if (token := tokens[index]) is not None:
                chosen = float(masked[place, token])
                so_far = row.likelihood or Likelihood(free=0.0, allowed=0.0, first=_shares(masked[place]))
                row.likelihood = Likelihood(
                    free=so_far.free + chosen - float(self._all[place]),
                    allowed=so_far.allowed + chosen - float(allowed[place]),
                    first=so_far.first,
                )


def _shares(masked: Tensor) -> dict[int, float]:
    """Softmax over what is allowed, by token; masked [vocabulary]. Empty where that is much."""
    tokens = masked.isfinite().nonzero().flatten()
    if len(tokens) > _FEW:
        return {}
    return dict(zip(tokens.tolist(), masked[tokens].softmax(dim=0).tolist(), strict=True))
