"""A row's place in a grammar of characters, which llguidance has compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import llguidance.numpy
import numpy as np

from guideway.schemas.failures import Refusal
from guideway.workers.engine.faults import unsatisfiable
from guideway.workers.engine.text.json_grammar import End, Habits, JsonWatch, Place
from guideway.workers.engine.text.prompt import PromptLayout

_MOST_DRAFTED: Final = 16
"""What is longer is taken in as a prompt is, once its beginning is chosen: others need not wait for it."""


class Spelling(NamedTuple):
    """How the model begins its answers."""

    layout: PromptLayout
    lead: str
    """The white space with which an answer begins, where the model begins it so, and which is no part of its value."""


class Compiled:
    """A row's place in a grammar of characters, by llguidance. Implements `Grammar`."""

    fewest_tokens = 0

    def __init__(
        self,
        start: Any,
        tokenizer: Any,
        spelling: Spelling,
        nbytes: int,
        watch: Callable[[], JsonWatch] | None = None,
        habits: Habits | None = None,
    ) -> None:
        """start: a matcher at the beginning of the grammar; copied and never moved. watch: makes one, for JSON. habits:
        of the model with this grammar, shared by all its places.
        """
        self._start = start
        self._matcher = start.deep_copy()
        self._tokenizer = tokenizer
        self._spelling = spelling
        self.nbytes = nbytes
        self._new_watch = watch
        self._watch = watch and watch()
        self._habits = habits or Habits()
        self._awaited: tuple[Place, End] | None = None
        """How the value ends that the text ends in, if it ends here."""

    def fork(self) -> Compiled:
        """Another place, at the beginning."""
        return Compiled(self._start, self._tokenizer, self._spelling, self.nbytes, self._new_watch, self._habits)

    def restart(self) -> None:
        """Go back to the beginning."""
        self._matcher = self._start.deep_copy()
        self._watch = self._new_watch and self._new_watch()
        self._awaited = None

    def accept(self, token_id: int) -> None:
        """Go on by a token that the mask allowed.

        Raises: Refusal `output_unsatisfiable` if the grammar turns out too complex to follow; `output_incomplete` or
        `output_unreadable` if a value in JSON grows without an end.
        """
        data = bytes(self._tokenizer.decode_bytes([token_id]))
        self._learn(token_id, data)
        self._matcher.consume_token(token_id)
        self._check()
        if self._watch is not None:
            self._watch.see(data)

    def fill(self, bitmask: np.ndarray[Any, Any], index: int) -> None:
        """Set bit t of bitmask[index] if token t may come next; int32 [rows, ⌈vocabulary / 32⌉].

        Raises: Refusal `output_unsatisfiable` if the grammar turns out too complex to follow.
        """
        llguidance.numpy.fill_next_token_bitmask(self._matcher, bitmask, index)
        self._check()
        if self._watch is not None and (kept := self._watch.kept) is not None:
            narrowed = bitmask[index] & kept
            # A `multipleOf` of many digits may ask for more than a float can tell.
            if narrowed.any():
                bitmask[index] = narrowed

    def look_ahead(self, bitmask: np.ndarray[Any, Any]) -> None:
        """Find out what may come first where there is a choice, after what comes in any case, and lose this place.

        The library keeps it for all places of the grammar. Of many values it takes as long as a third of a step.
        """
        left = _MOST_DRAFTED
        while left > 0 and (forced := self._matcher.compute_ff_tokens()[:left]):
            left -= self._matcher.try_consume_tokens(forced) or left
        if left < _MOST_DRAFTED:
            llguidance.numpy.fill_next_token_bitmask(self._matcher, bitmask, 0)

    @property
    def forced(self) -> Sequence[int]:
        """The tokens in which the library writes the bytes that come in any case, as far as what follows them cannot
        change how they are divided; empty where there is a choice.
        """
        return [*self._matcher.compute_ff_tokens()]

    def draft(self, worth: float) -> Sequence[int]:
        """What comes in any case, divided as the model did it last, else as the tokenizer does. In a value that may
        end: its end, and what then comes in any case.
        """
        if data := bytes(self._matcher.compute_ff_bytes()):
            return self._divided(data)
        if self._watch is None or not self._watch.ends:
            return ()
        place = self._watch.place
        if (end := self._habits.end(place)) is None:
            if (end := self._end()) is None:
                return ()
            self._habits.keep(place, end)
        ids = end.token_ids
        if not ids or self._matcher.validate_tokens([*ids]) < len(ids):
            return ()
        self._awaited = place, end
        # Of a division that was never seen, the tokenizer's guess is mostly wrong.
        probability = self._habits.probability(place) if self._habits.token(end.data) is not None else 0
        return ids if probability * worth > (1 - probability) * len(ids) else ()

    def _end(self) -> End | None:
        """How the value ends that the text ends in; None where it cannot end yet."""
        found: list[bytes] = []
        for byte in self._watch.ends if self._watch else b"":
            end, after = bytes([byte]), self._matcher.deep_copy()
            if after.try_consume_tokens(self._tokenizer.tokenize_bytes(end)):
                found.append(end + bytes(after.compute_ff_bytes()))
        if not found:
            return None
        # A quote alone is seldom a token: what comes next is mostly one with it.
        if len(found) > 1 or found == [b'"']:
            return End(b"", ())
        return End(found[0], self._divided(found[0]))

    def _divided(self, data: bytes) -> list[int]:
        """The tokens that probably write `data` and what then comes in any case. Those with which the text would end
        are left out, as nothing is chosen after them. Empty where they are many.
        """
        ids: list[int] = []
        after, chosen = self._matcher.deep_copy(), 0
        while data:
            token = self._habits.token(data)
            if token is None or not after.validate_tokens([token]):
                token = self._tokenizer.tokenize_bytes(data)[0]
            if not after.try_consume_tokens([token]):
                break
            chosen = len(ids)
            ids.append(token)
            # What is forced after it was never a choice.
            while forced := after.compute_ff_tokens():
                ids += forced
                after.consume_tokens(forced)
            if len(ids) > _MOST_DRAFTED:
                return []
            data = bytes(after.compute_ff_bytes())
        return ids[:chosen] if after.is_stopped() else ids

    def _learn(self, token_id: int, data: bytes) -> None:
        """Note what the model has written where its token was probable; data: of the token."""
        awaited, self._awaited = self._awaited, None
        if awaited is None:
            certain = bytes(self._matcher.compute_ff_bytes())
        else:
            place, (certain, ids) = awaited
            # While the division is unknown, it is no draft's fault that it did not come true.
            if self._habits.token(certain) is not None:
                self._habits.hear(place, ended=token_id == ids[0])
        if data and certain.startswith(data):
            self._habits.wrote(certain, token_id)

    def ahead(self, token_id: int) -> Compiled:
        """Another place, after the first token of the draft."""
        other = Compiled(self._matcher, self._tokenizer, self._spelling, self.nbytes)
        other._watch = self._watch and self._watch.copy()
        other.accept(token_id)
        return other

    biases: Final[Mapping[int, float]] = {}
    parting: Final[Sequence[tuple[Sequence[int], Sequence[str]]]] = ()
    certain: Final = None

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is a whole text of the grammar."""
        return bool(self._matcher.is_accepting())

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can come."""
        return bool(self._matcher.is_stopped())

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, byte for byte as the grammar counts it: a tokenizer's own decoding may drop spaces."""
        return str(self._tokenizer.decode_str(list(token_ids))).removeprefix(self._spelling.lead)

    def ids(self, text: str) -> list[int] | None:
        """The tokens in which the model writes `text`; None if it is no whole text of the grammar."""
        ids = self._spelling.layout.answer_ids(text)
        # The tokenizer may change the form of letters; the text would then come back in another form than declared.
        return ids if self._takes(ids) and self.text(ids) == text and self._has_an_end(text) else None

    def derives(self, text: str) -> bool:
        """Whether `text` is a whole text of the grammar, in whatever tokens."""
        return self._takes(self._tokenizer.tokenize_str(self._spelling.lead + text))

    def _has_an_end(self, text: str) -> bool:
        if self._new_watch is not None:
            try:
                self._new_watch().see(text.encode())
            except Refusal:
                return False
        return True

    def _takes(self, ids: Sequence[int]) -> bool:
        # A fresh copy: `reset` of a matcher that went through a label's tokens forgets to accept it again.
        matcher = self._start.deep_copy()
        return bool(matcher.consume_tokens(list(ids)) and matcher.is_accepting())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise unsatisfiable(self._matcher.get_error())
