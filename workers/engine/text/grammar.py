"""What a row needs of its grammar, however it is made, and the grammars of all rows in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from guideway.schemas.failures import Refusal
from guideway.workers.engine.faults import refusal_of, unsatisfiable
from guideway.workers.engine.kernels import native
from guideway.workers.engine.kernels.native_choice import mask_


class Grammar(Protocol):
    """One row's place in the form that its text must have."""

    def fork(self) -> Grammar:
        """Another place, at the beginning."""

    def restart(self) -> None:
        """Go back to the beginning."""

    def accept(self, token_id: int) -> None:
        """Go on by a token that the mask allowed.

        Raises: Refusal `output_unsatisfiable` if the grammar turns out too complex to follow.
        """

    def fill(self, bitmask: np.ndarray[Any, Any], index: int) -> None:
        """Set bit t of bitmask[index] if token t may come next; an end token may where the text is complete.

        bitmask int32 [rows, ⌈vocabulary / 32⌉]. Raises as `accept` does.
        """

    @property
    def forced(self) -> Sequence[int]:
        """The tokens that come next in any case, as many as the grammar tells at once: where it has one, the mask
        allows no other. Empty where there is a choice, or the text may end.
        """

    def draft(self, worth: float) -> Sequence[int]:
        """Tokens that probably come next, where `forced` has none. Either their characters come in any case, and the
        model chooses how they are divided; or a value may end here, and so often does that they pay. Empty else.

        worth: a draft that comes true makes up for so many tokens that are computed for nothing.
        """

    def ahead(self, token_id: int) -> Grammar:
        """Another place, after the first token of the draft; only the masks of the draft's further tokens are asked of
        it."""

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
    def certain(self) -> str | None:
        """The beginning of the text that stays whatever comes; None: what the tokens' bytes say."""

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

    def __init__(self, grammars: Sequence[Grammar | None], drafts: Sequence[Sequence[int]] | None = None) -> None:
        """drafts: after how many tokens of its draft each row chooses, mostly none; of None no row has one."""
        each = zip(grammars, drafts or [()] * len(grammars), strict=True)
        self._grammars = [(row, grammar, draft) for row, (grammar, draft) in enumerate(each) if grammar is not None]
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
        place: Grammar | None = None
        for index, (row, grammar, draft) in enumerate(self._grammars):
            try:
                # The places after a row's draft come one after the other.
                place = _place(grammar, draft, place)
                place.fill(bitmask, index)
                self._leaning += [(row, token, more) for token, more in place.biases.items()]
            except BaseException as error:  # a panic in Rust as well: it concerns this row only
                failed[row] = refusal_of(error, id="its grammar")
                place = None
                bitmask[index] = 0
        rows = [row for row, _, _ in self._grammars]
        if logits.device.type == "cpu" and (kernels := native.kernels()) is not None:
            mask_(kernels, logits, rows, bitmask)
            return failed
        bits = np.unpackbits(bitmask.view(np.uint8), axis=1, count=logits.shape[1], bitorder="little")
        forbidden = torch.from_numpy(bits).to(logits.device) == 0
        logits[rows] = logits[rows].masked_fill_(forbidden, -torch.inf)
        return failed

    def lean_(self, logits: Tensor) -> None:
        """logits[i, t] += the bias of token t for row i's labels; logits [rows, vocabulary], masked, in place.

        An `-inf` stays `-inf`: no bias allows a token.
        """
        if self._leaning:
            rows, tokens, biases = (list(column) for column in zip(*self._leaning, strict=True))
            logits[rows, tokens] += torch.tensor(biases, dtype=logits.dtype, device=logits.device)


def _place(grammar: Grammar, draft: Sequence[int], before: Grammar | None) -> Grammar:
    """The place of a row after these tokens of its draft. before: the place one token before, if there is one."""
    if not draft:
        return grammar
    if len(draft) == 1:
        return grammar.ahead(draft[0])
    if before is None:
        raise unsatisfiable("the draft cannot be followed")
    before.accept(draft[-1])
    return before
