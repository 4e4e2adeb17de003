"""How likely the chosen tokens were, and labels where they part, for rows that are to be told: evaluation and
calibration ask, serving does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from guideway.workers.engine.scheduling.row import Row
from guideway.workers.messages.from_engine import Branch, Logprobs

_FEW: Final = 256
"""Tokens: those of the most labels whose shares anybody looks at."""


class BatchedLogprobs:
    """The rows of one step that want to know; none of them costs a step nothing.

    With x the logits of a row, t the token chosen and A the tokens that its grammar allows, a step adds
    `x[t] - log Σ exp x` to the row's `free` and `x[t] - log Σ_A exp x` to its `allowed`; for the latter, x has the
    biases of labels in it, as it had when the token was chosen.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._wanted = [(index, row) for index, row in enumerate(rows) if row.admit.logprobs]
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
                bias = row.grammar.biases.get(token, 0.0) if row.grammar is not None else 0.0
                so_far = row.logprobs or Logprobs(free=0.0, allowed=0.0, first=_shares(masked[place]))
                row.logprobs = Logprobs(
                    free=so_far.free + chosen - bias - float(self._all[place]),
                    allowed=so_far.allowed + chosen - float(allowed[place]),
                    first=so_far.first,
                )


class BatchedPartings:
    """The rows of one step whose labels' shares are asked for, to make biases of; none of them costs a step nothing."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._wanted = [(index, row) for index, row in enumerate(rows) if row.admit.partings]

    def see(self, logits: Tensor) -> None:
        """logits float32 [rows, vocabulary], -inf where a token is forbidden, without biases."""
        for index, row in self._wanted:
            if row.grammar is None or not (branches := row.grammar.parting):
                continue
            each = torch.stack([logits[index, list(tokens)].logsumexp(dim=0) for tokens, _ in branches])
            shares = each.log_softmax(dim=0).tolist()
            row.partings.append(
                [
                    Branch(labels=list(labels), log_share=share)
                    for (_, labels), share in zip(branches, shares, strict=True)
                ]
            )


def _shares(masked: Tensor) -> dict[int, float]:
    """Softmax over what is allowed, by token; masked [vocabulary]. Empty where that is much."""
    tokens = masked.isfinite().nonzero().flatten()
    if len(tokens) > _FEW:
        return {}
    return dict(zip(tokens.tolist(), masked[tokens].softmax(dim=0).tolist(), strict=True))
