"""From the logits of a step to the next token of each row: grammars, labels' biases, sampling, log-probabilities."""

from __future__ import annotations

from torch import Tensor

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.text.grammar import BatchedGrammar
from guideway.workers.engine.text.logprobs import BatchedLogprobs, BatchedPartings
from guideway.workers.engine.text.sampling import BatchedSampler


class NextTokens:
    """Owner of what the rows of one step choose their tokens with; made anew only when other rows choose."""

    def __init__(self) -> None:
        self._see([])

    def choose(self, rows: list[Row], logits: Tensor) -> dict[Row, int | Refusal]:
        """The next token of each of `rows`, or why it has none; logits float32 [rows, vocabulary], changed in place.

        A row is refused with `output_unsatisfiable` where its grammar cannot be followed, `guidance_damaged` or
        `engine_failed` where its logits are not finite.
        """
        if rows != self._rows:
            self._see(rows)
        self._logprobs.see_all(logits)
        failed = self._grammars.mask_(logits)
        self._partings.see(logits)
        self._grammars.lean_(logits)
        tokens = self._sampler.choose(logits)
        self._logprobs.add(logits, tokens)
        outcomes = [
            failed.get(i) or (_not_finite(rows[i]) if token is None else token) for i, token in enumerate(tokens)
        ]
        return dict(zip(rows, outcomes, strict=True))

    def _see(self, rows: list[Row]) -> None:
        self._rows = rows
        self._grammars = BatchedGrammar([row.grammar for row in rows])
        self._sampler = BatchedSampler([row.sampler for row in rows])
        self._logprobs = BatchedLogprobs(rows)
        self._partings = BatchedPartings(rows)


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
