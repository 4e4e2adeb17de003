"""Log-probabilities of the chosen tokens, and shares of labels where they part, for rows whose request asks for them.

Evaluation and calibration ask for them; serving does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from guideway.workers.engine.scheduling.row import Row
from guideway.workers.messages.from_engine import Branch, Logprobs

_FEW: Final = 256
"""Where a grammar allows more first tokens, their shares are not told: no endpoint has so many labels."""


class BatchedLogprobs:
    """The rows of one step that ask for log-probabilities. Without such rows a step costs nothing more.

    With x the logits of a row, t the token chosen and A the tokens that its grammar allows, a step adds
    `x[t] - log Σ exp x` to the row's `free` and `x[t] - log Σ_A exp x` to its `allowed`. For `allowed`, x contains the
    biases of labels, as when the token was chosen.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._wanted = [(index, row) for index, row in enumerate(rows) if row.admit.logprobs]
        self._indices = [index for index, _ in self._wanted]
        self._all = torch.empty(0)

    def see_all(self, logits: Tensor) -> None:
        """Note the sums of all logits; float32 [rows, vocabulary], before any token is forbidden."""
        if self._wanted:
            self._all = logits[self._indices].logsumexp(dim=-1)

    def add(self, logits: Tensor, tokens: Sequence[int | None]) -> None:
        """Add the chosen `tokens` to their rows, None for a row that failed; logits with -inf where forbidden."""
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
    """The rows of one step that ask for the shares of labels where they part, which biases are made of.

    Without such rows a step costs nothing more.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._wanted = [(index, row) for index, row in enumerate(rows) if row.admit.partings]

    def see(self, logits: Tensor) -> None:
        """Add the shares to rows whose labels part now; logits float32 [rows, vocabulary], masked, without biases."""
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
    """Softmax over the allowed tokens, by token; masked [vocabulary]. Empty where these are many."""
    tokens = masked.isfinite().nonzero().flatten()
    if len(tokens) > _FEW:
        return {}
    return dict(zip(tokens.tolist(), masked[tokens].softmax(dim=0).tolist(), strict=True))
