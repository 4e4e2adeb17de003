"""What a row needs of its grammar, however it is made, and the grammars of all rows in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from guideway.schemas.failures import Refusal
from guideway.workers.engine.faults import refusal_of


class Grammar(Protocol):
    """One row's place in the form that its text must have."""

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
        """Whether the text so far is a whole text of the grammar."""

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can come."""

    @property
    def fewest_tokens(self) -> int:
        """A lower bound of the number of tokens of a whole text; 0 where none is known."""

    @property
    def nbytes(self) -> int:
        """About how many bytes of memory all places of this grammar share."""

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, as the rule declares it."""

    def ids(self, text: str) -> list[int] | None:
        """The tokens in which the model writes `text`; None if it is no whole text of the grammar."""

    def derives(self, text: str) -> bool:
        """Whether `text` is a whole text of the grammar."""


def empty_bitmask(rows: int, vocabulary: int) -> np.ndarray[Any, Any]:
    """int32 [rows, ⌈vocabulary / 32⌉] of zeros: no token is allowed. For `Grammar.fill`."""
    return np.zeros((rows, (vocabulary + 31) // 32), dtype=np.int32)


class BatchedGrammar:
    """The grammars of the rows that one step sees; None for a row of free text."""

    def __init__(self, grammars: Sequence[Grammar | None]) -> None:
        self._grammars = [(row, grammar) for row, grammar in enumerate(grammars) if grammar is not None]
        self._leaning: list[tuple[int, int, float]] = []
        """(row, token, bias) of the step that was masked last."""

    def mask_(self, logits: Tensor) -> dict[int, Refusal]:
        """logits[i, t] = -inf where row i's grammar does not allow token t next; logits [rows, vocabulary], in place.

        Returns the rows whose grammar cannot be followed any further, each with its refusal; no token is allowed there.
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
            except BaseException as error:  # a panic in Rust as well: it concerns this row only
                failed[row] = refusal_of(error, id="its grammar")
                bitmask[index] = 0
        bits = np.unpackbits(bitmask.view(np.uint8), axis=1, count=logits.shape[1], bitorder="little")
        forbidden = torch.from_numpy(bits).to(logits.device) == 0
        rows = torch.tensor([row for row, _ in self._grammars], device=logits.device)
        logits[rows] = logits[rows].masked_fill_(forbidden, -torch.inf)
        return failed

    def lean_(self, logits: Tensor) -> None:
        """logits[i, t] += the bias of token t for row i's labels; logits [rows, vocabulary], masked, in place.

        An `-inf` stays `-inf`: no bias allows a token.
        """
        if self._leaning:
            rows, tokens, biases = (list(column) for column in zip(*self._leaning, strict=True))
            logits[rows, tokens] += torch.tensor(biases, dtype=logits.dtype, device=logits.device)
