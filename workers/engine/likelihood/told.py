"""What replies tell of a step: the probabilities of labels, and the log-probabilities of tokens of free text.

Each has its numbers gathered on the device, so that they come from there together with the step's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guideway.schemas.output import Text
from guideway.workers.engine.likelihood.label_walk import log_sum
from guideway.workers.engine.scheduling.row import Row, Told


class BatchedWalks:
    """The rows of one step that walk through the tree of their labels (`label_walk.py`). Without them a step costs
    nothing more.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._walking = [(index, row) for index, row in enumerate(rows) if row.walk is not None]
        self._ways: list[tuple[int, Row, list[tuple[int, Sequence[str]]]]] = []

    def gathered(self, logits: Tensor) -> Tensor | None:
        """The logits of the tokens that may come next where a place is awaited, one after the other; None if none is.

        logits float32 [rows, vocabulary], masked, with the biases of labels.
        """
        self._ways = []
        rows: list[int] = []
        tokens: list[int] = []
        for index, row in self._walking:
            if row.walk is None or row.grammar is None or not row.walk.awaits(row.token_ids):
                continue
            if not (branches := row.grammar.parting):
                # It cannot be told: the row is refused when it gets its token (`stopping.py`), and no other with it.
                continue
            self._ways.append((index, row, [(len(some), labels) for some, labels in branches]))
            for some, _ in branches:
                rows += [index] * len(some)
                tokens += some
        return logits[rows, tokens] if rows else None

    def hear(self, values: Sequence[float], tokens: Sequence[int | None]) -> None:
        """Tell the walks; values: those of `gathered`, in their order. tokens: None where a row has none."""
        at = 0
        for index, row, ways in self._ways:
            odds = []
            for count, labels in ways:
                odds.append((labels, log_sum(values[at : at + count])))
                at += count
            if row.walk is not None and tokens[index] is not None:
                row.walk.tell(row.token_ids, odds)


class BatchedTokenLogprobs:
    """The rows of one step that tell the log-probabilities of their tokens. Without them a step costs nothing more.

    With x the logits of a row, before anything is forbidden or drawn, that of a token t is `x[t] - log Σ exp x`.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        asking = [(index, row, row.request.output) for index, row in enumerate(rows)]
        self._asking = [
            (index, row, rule.logprobs)
            for index, row, rule in asking
            if isinstance(rule, Text) and rule.logprobs is not None
        ]
        self._indices = [index for index, _, _ in self._asking]
        self._most = max((count for _, _, count in self._asking), default=0)

    def gathered(self, logits: Tensor, tokens: Tensor) -> Tensor | None:
        """Of each asking row: that of its token, those of the likeliest tokens, and these tokens; None without rows.

        logits float32 [rows, vocabulary]; tokens int64 [rows], -1 where a row has none. Result float64, flat.
        """
        if not self._asking:
            return None
        own = logits[self._indices]
        whole = own.logsumexp(dim=-1, keepdim=True)
        chosen = own.gather(1, tokens[self._indices].clamp(min=0)[:, None])
        best, ids = own.topk(min(self._most, own.shape[1]), dim=-1)
        return torch.cat([(chosen - whole).double(), (best - whole).double(), ids.double()], dim=1).flatten()

    def hear(self, values: Sequence[float], tokens: Sequence[int | None]) -> None:
        """Give the rows theirs; values: those of `gathered`, in their order. tokens: None where a row has none."""
        if not self._asking:
            return
        width = len(values) // len(self._asking)
        most = (width - 1) // 2
        for place, (index, row, count) in enumerate(self._asking):
            if tokens[index] is not None:
                of_row = values[place * width : (place + 1) * width]
                ids, logs = of_row[1 + most : 1 + most + count], of_row[1 : 1 + count]
                row.told.append(Told(of_row[0], [(int(id_), log) for id_, log in zip(ids, logs, strict=True)]))
