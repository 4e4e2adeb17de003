"""What a row needs of its grammar, whichever way it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np


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
