"""A form that lists what may be written: labels, and labels after known words. Each text stands in it as the tokens in
which the model writes it.

As characters, `p` of `positive` would do for a first token and settle the label, though the model means nothing by it:
on the demo's data that takes the bare model from 0.70 to 0.49.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from guideway.schemas.failures import FailureCode, Refusal

Tokenize = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""The tokens of each text."""

_TOKEN_BYTES: Final = 16
_STEP_BYTES: Final = 200
"""Of Python objects for one token, and for one label or piece, about."""


class _Way(NamedTuple):
    """Labels that begin alike, and how many of their tokens are written."""

    labels: Sequence[str]
    tokens: int


class Known(NamedTuple):
    """A piece of the text that is given."""

    text: str
    ids: Sequence[int]


class OneOf:
    """A place where one of several labels stands; not to be changed once it is made."""

    def __init__(self, labels: Iterable[str], tokenize: Tokenize) -> None:
        """Raises: Refusal `output_unsatisfiable` for labels that the model's tokenizer does not tell apart."""
        labels = list(labels)
        self.ids: dict[str, Sequence[int]] = dict(zip(labels, tokenize(labels), strict=True))
        # Little is done here, for it holds the interpreter: the rest is done as far as somebody writes.
        known: dict[tuple[int, ...], str] = {}
        for label, ids in self.ids.items():
            if not ids:
                raise _refused(f"label {_named(label)} is nothing to this model's tokenizer: rename it")
            if (same := known.setdefault(tuple(ids), label)) != label:
                raise _refused(
                    f"labels {_named(same)} and {_named(label)} are the same to this model's tokenizer: keep one"
                )
        self.first = _Way(list(self.ids), 0)
        self.first_tokens = {ids[0] for ids in self.ids.values()}
        self.nbytes = sum(_STEP_BYTES + _TOKEN_BYTES * len(ids) + len(label) for label, ids in self.ids.items())
        self.fewest_tokens = min(len(ids) for ids in self.ids.values())

    def next(self, way: _Way) -> set[int]:
        """The tokens that may come next."""
        if not way.tokens:
            return self.first_tokens
        return {ids[way.tokens] for label in way.labels if len(ids := self.ids[label]) > way.tokens}

    def after(self, way: _Way, token_id: int) -> tuple[_Way, str | None]:
        """The labels that go on after one more token, and the one that ends with it."""
        at = way.tokens
        begun = [label for label in way.labels if len(ids := self.ids[label]) > at and ids[at] == token_id]
        ended = next((label for label in begun if len(self.ids[label]) == at + 1), None)
        return _Way([label for label in begun if label != ended], at + 1), ended


def labelled(words: Sequence[str], labels: Iterable[str], first: Tokenize, rest: Tokenize) -> Sequence[Known | OneOf]:
    """`word/LABEL word/LABEL …`, with single spaces. first: tokens of what the text begins with; rest: of what follows.

    Raises: Refusal `output_unsatisfiable` without words, and as `OneOf` does.
    """
    if not words:
        raise _refused("there are no words to label: send some")
    one_of = OneOf(labels, rest)
    texts = [f"{words[0]}/", *(f" {word}/" for word in words[1:])]
    ids = [*first(texts[:1]), *rest(texts[1:])]
    return [step for text, tokens in zip(texts, ids, strict=True) for step in (Known(text, tokens), one_of)]


class _Place(NamedTuple):
    """How far a text has come."""

    step: int
    """Of the form; as many as there are where the text is complete."""
    at: int | _Way
    """Tokens of the known piece that are written, or what has been written of a label."""
    chosen: tuple[Any, ...]
    """The labels so far as (those before, the last one): texts that go on differently share what they have."""


class Spelled:
    """One row's place in its form."""

    def __init__(self, steps: Sequence[Known | OneOf], eos_ids: Sequence[int]) -> None:
        self._steps = steps
        self._eos_ids = eos_ids
        self._places = self._begun(0, ())

    def fork(self) -> Spelled:
        """Another place, at the beginning."""
        return Spelled(self._steps, self._eos_ids)

    def accept(self, token_id: int) -> None:
        """Go on by a token that the mask allowed. Raises: Refusal `output_unsatisfiable` for another one."""
        self._places = self._after(self._places, token_id)
        if not self._places:
            raise _refused("the output rule does not allow this token")

    def fill(self, bitmask: np.ndarray[Any, Any], index: int) -> None:
        """Set bit t of bitmask[index] if token t may come next; an end token may where the text is complete.

        bitmask int32 [rows, ⌈vocabulary / 32⌉]. Raises as `accept` does.
        """
        if not self._places:
            raise _refused("the output rule does not allow this token")
        allowed: set[int] = {*self._eos_ids} if self.is_complete else set()
        for step, at, _ in self._places:
            piece = self._piece(step)
            if isinstance(piece, OneOf) and isinstance(at, _Way):
                allowed |= piece.next(at)
            elif isinstance(piece, Known) and isinstance(at, int):
                allowed.add(piece.ids[at])
        bits = np.zeros(bitmask.shape[1] * 32, dtype=np.uint8)
        bits[list(allowed)] = 1
        bitmask[index] = np.packbits(bits, bitorder="little").view(np.int32)

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is a whole word of the form."""
        return any(place.step == len(self._steps) for place in self._places)

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can come."""
        return all(place.step == len(self._steps) for place in self._places)

    @property
    def fewest_tokens(self) -> int:
        """Of a whole text."""
        return sum(len(step.ids) if isinstance(step, Known) else step.fewest_tokens for step in self._steps)

    @property
    def nbytes(self) -> int:
        """Of memory that all places of this form share, about."""
        labels = {id(step): step.nbytes for step in self._steps if isinstance(step, OneOf)}
        known = sum(_STEP_BYTES + 8 * len(step.ids) for step in self._steps if isinstance(step, Known))
        return sum(labels.values()) + known

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, as its pieces were declared: a tokenizer may write another form of the same letters.

        Empty for tokens that are no whole text.
        """
        places = self._begun(0, ())
        for id_ in token_ids:
            places = self._after(places, id_)
        whole = next((place.chosen for place in places if place.step == len(self._steps)), None)
        if whole is None:
            return ""
        labels: list[str] = []
        while whole:
            whole, label = whole
            labels.append(label)
        return "".join(step.text if isinstance(step, Known) else labels.pop() for step in self._steps)

    def ids(self, text: str) -> list[int] | None:
        """The tokens in which the model writes `text`; None if it is no whole text of the form."""
        ids: list[int] = []
        for number, step in enumerate(self._steps):
            if isinstance(step, Known):
                if not text.startswith(step.text):
                    return None
                ids += step.ids
                text = text.removeprefix(step.text)
            else:
                label = text if number == len(self._steps) - 1 else text.partition(" ")[0]
                if label not in step.ids:
                    return None
                ids += step.ids[label]
                text = text.removeprefix(label)
        return None if text else ids

    def derives(self, text: str) -> bool:
        """Whether `text` is a whole text of the form."""
        return self.ids(text) is not None

    def _piece(self, step: int) -> Known | OneOf | None:
        return self._steps[step] if step < len(self._steps) else None

    def _begun(self, step: int, chosen: tuple[Any, ...]) -> list[_Place]:
        """Where a text stands that has all before `step`."""
        match self._piece(step):
            case None:
                return [_Place(step, 0, chosen)]
            case Known(_, ids):
                return [_Place(step, 0, chosen)] if ids else self._begun(step + 1, chosen)
            case OneOf() as labels:
                return [_Place(step, labels.first, chosen)]

    def _after(self, places: Iterable[_Place], token_id: int) -> list[_Place]:
        """Where a text can stand that has one more token."""
        following: list[_Place] = []
        for step, at, chosen in places:
            piece = self._piece(step)
            if isinstance(piece, OneOf) and isinstance(at, _Way):
                way, ended = piece.after(at, token_id)
                if way.labels:
                    following.append(_Place(step, way, chosen))
                if ended is not None:
                    following += self._begun(step + 1, (chosen, ended))
            elif isinstance(piece, Known) and isinstance(at, int) and piece.ids[at] == token_id:
                more = at + 1 < len(piece.ids)
                following += [_Place(step, at + 1, chosen)] if more else self._begun(step + 1, chosen)
        # Two ways to the same place go on alike: the first is kept, so that there are few however long the text.
        found = {
            (place.step, place.at if isinstance(place.at, int) else place.at.tokens): place
            for place in reversed(following)
        }
        return list(found.values())


def _refused(why: str) -> Refusal:
    return Refusal(FailureCode.OUTPUT_UNSATISFIABLE, why)


def _named(label: str) -> str:
    """Letters that look alike are told apart by their numbers."""
    return repr(label) if label.isascii() else ascii(label)
