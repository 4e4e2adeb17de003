"""What a row needs of its grammar, whichever way it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from guideway.schemas.failures import Refusal
from guideway.workers.engine.faults import refusal_of


class Grammar(Protocol):
    """One row's place in the form that its text is to have."""

    def fork(self) -> Grammar:
        """Another place, at the beginning."""

    def accept(self, token_id: int) -> None:
        """Go on by a token that the mask allowed.

        Raises: Refusal `output_unsatisfiable` if the grammar turns out too complex to follow.
        """

    def fill(self, bitmask: np.ndarray[Any, Any], index: int) -> None:
        """Set bit t of bitmask[index] if token t may come next; an end token may where the text is complete.

        bitmask int32 [rows, ⌈vocabulary / 32⌉]. Raises as `accept` does.
        """

    @property
    def biases(self) -> Mapping[int, float]:
        """What is added to the logits of tokens that may come next; empty for most grammars."""

    @property
    def parting(self) -> Sequence[tuple[Sequence[int], Sequence[str]]]:
        """Where labels part with the next token: which tokens lead to which of them; empty elsewhere."""

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is a whole word of the grammar."""

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can come."""

    @property
    def fewest_tokens(self) -> int:
        """Of a whole text, as far as it is known."""

    @property
    def nbytes(self) -> int:
        """Of memory that all places of this grammar share, about."""

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, as the rule declares it."""

    def ids(self, text: str) -> list[int] | None:
        """The tokens in which the model writes `text`; None if it is no whole word of the grammar."""

    def derives(self, text: str) -> bool:
        """Whether `text` is a whole word of the grammar."""


def empty_bitmask(rows: int, vocabulary: int) -> np.ndarray[Any, Any]:
    return np.zeros((rows, (vocabulary + 31) // 32), dtype=np.int32)


class BatchedGrammar:
    """The grammars of the rows that one step sees; None for a row of free text."""

    def __init__(self, grammars: Sequence[Grammar | None]) -> None:
        self._grammars = [(row, grammar) for row, grammar in enumerate(grammars) if grammar is not None]
        self._leaning: list[tuple[int, int, float]] = []
        """(row, token, what is added) of the step that was masked last."""

    def mask_(self, logits: Tensor) -> dict[int, Refusal]:
        """logits[i, t] = -inf where row i's grammar does not allow token t next; logits [rows, vocabulary], in place.

        Returns the rows whose grammar cannot be followed any further, and why; nothing is allowed in them.
        """
        if not self._grammars:
            return {}
        failed: dict[int, Refusal] = {}
        self._leaning = []
        bitmask = empty_bitmask(len(self._grammars), logits.shape[1])
        for index, (row, grammar) in enumerate(self._grammars):
            try:
                grammar.fill(bitmask, index)
                self._leaning += [(row, token, more) for token, more in grammar.biases.items()]
            except BaseException as error:  # whatever it is, it is this row's
                failed[row] = refusal_of(error, id="its grammar")
                bitmask[index] = 0
        bits = np.unpackbits(bitmask.view(np.uint8), axis=1, count=logits.shape[1], bitorder="little")
        forbidden = torch.from_numpy(bits).to(logits.device) == 0
        rows = torch.tensor([row for row, _ in self._grammars], device=logits.device)
        logits[rows] = logits[rows].masked_fill_(forbidden, -torch.inf)
        return failed

    def lean_(self, logits: Tensor) -> None:
        """logits[i, t] += what row i's labels have for token t; logits [rows, vocabulary], masked, in place.

        It changes no `-inf`: what is not allowed stays so.
        """
        if self._leaning:
            rows, tokens, biases = (list(column) for column in zip(*self._leaning, strict=True))
            logits[rows, tokens] += torch.tensor(biases, dtype=logits.dtype, device=logits.device)
