"""From the logits of a step to the next token of each row: grammars, labels' biases, sampling, probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.likelihood.logprobs import BatchedLogprobs, BatchedPartings
from guideway.workers.engine.likelihood.told import BatchedTokenLogprobs, BatchedWalks
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.text.grammar import BatchedGrammar
from guideway.workers.engine.text.sampling import BatchedSampler


class NextTokens:
    """Owner of what the rows of one step choose their tokens with; made anew only when other rows choose."""

    def __init__(self) -> None:
        self._see([])

    def choose(self, rows: list[Row], logits: Tensor) -> dict[Row, list[int] | Refusal]:
        """The next tokens of each of `rows`, or why it has none; logits float32 [rows, vocabulary], changed in place.

        A row that took in a draft stands there several times, for its next token and for those after the draft's. It
        gets them up to the first that is not of the draft.

        A row is refused with `output_unsatisfiable` where its grammar cannot be followed, `guidance_damaged` or
        `engine_failed` where its logits are not finite.
        """
        if rows != self._rows or any(self._drafted):
            self._see(rows)
        self._logprobs.see_all(logits)
        failed = self._grammars.mask_(logits)
        self._partings.see(logits)
        self._grammars.lean_(logits)
        places = [len(row.token_ids) + drafted for row, drafted in zip(rows, self._drafted, strict=True)]
        chosen = self._sampler.choose(logits, places)
        found, walks, told = _fetched(
            chosen, self._walks.gathered(logits), self._token_logprobs.gathered(logits, chosen)
        )
        tokens = [int(token) if token >= 0 else None for token in found]
        self._walks.hear(walks, tokens)
        self._token_logprobs.hear(told, tokens)
        self._logprobs.add(logits, tokens)
        outcomes: dict[Row, list[int] | Refusal] = {}
        for i, (row, drafted, token) in enumerate(zip(rows, self._drafted, tokens, strict=True)):
            if not drafted:
                outcomes[row] = failed.get(i) or (_not_finite(row) if token is None else [token])
                continue
            before, is_wrong = outcomes[row], token is None or i in failed
            # What is wrong after a draft is found by the step that comes there.
            if isinstance(before, list) and not is_wrong and before == [*row.draft[:drafted]]:
                before.append(int(found[i]))
        return outcomes

    def _see(self, rows: list[Row]) -> None:
        self._rows = rows
        self._drafted = _drafted(rows)
        drafts = [row.draft[:drafted] for row, drafted in zip(rows, self._drafted, strict=True)]
        self._grammars = BatchedGrammar([row.grammar for row in rows], drafts)
        self._sampler = BatchedSampler([row.sampler for row in rows])
        self._logprobs = BatchedLogprobs(rows)
        self._partings = BatchedPartings(rows)
        self._walks = BatchedWalks(rows)
        self._token_logprobs = BatchedTokenLogprobs(rows)


def _drafted(rows: Sequence[Row]) -> list[int]:
    """After how many tokens of its row's draft each of them chooses: 0, 1, … where a row stands there several times."""
    found: list[int] = []
    for i, row in enumerate(rows):
        found.append(found[-1] + 1 if i and rows[i - 1] is row else 0)
    return found


def _fetched(tokens: Tensor, *others: Tensor | None) -> list[Sequence[float]]:
    """The numbers of all tensors, each flat; the device is waited for once, and most steps have tokens only."""
    there = [one for one in others if one is not None]
    if not there:
        return [tokens.tolist(), *([] for _ in others)]
    # A float of 64 bits holds any token and any logit exactly.
    numbers = torch.cat([one.double() for one in (tokens, *there)]).tolist()
    found: list[Sequence[float]] = []
    at = 0
    for one in (tokens, *others):
        end = at + (len(one) if one is not None else 0)
        found.append(numbers[at:end])
        at = end
    return found


def _not_finite(row: Row) -> Refusal:
    if not row.admit.artefacts:
        return Refusal(
            FailureCode.ENGINE_FAILED,
            "the model's output is not a finite number: declare the model with a dtype of a wider range (bfloat16 or "
            "float32), and look whether its weights are whole",
        )
    return Refusal(
        FailureCode.GUIDANCE_DAMAGED,
        "the model's output under this guidance is not a finite number: train the guidance again, with smaller steps",
    )
