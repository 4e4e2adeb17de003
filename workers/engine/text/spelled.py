"""A form that lists what may be written: labels, and labels after known words. Each text stands in it as the tokens in
which the model writes it.

As characters, `p` of `positive` would do for a first token and settle the label, though the model means nothing by it:
on the demo's data that takes the bare model from 0.70 to 0.49.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.text.label_biases import edges

Tokenize = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""The tokens of each text."""

_TOKEN_BYTES: Final = 16
_STEP_BYTES: Final = 200
"""Of Python objects for one token, and for one label or piece, about."""


class _Way(NamedTuple):
    """Labels that begin alike, and how many of their tokens are written."""

    labels: Sequence[str]
    tokens: int
    ended: str | None = None
    """The label that ends here, where others go on."""


class Known(NamedTuple):
    """A piece of the text that is given."""

    text: str
    ids: Sequence[int]


class OneOf:
    """A place where one of several labels stands; not to be changed once it is made."""

    def __init__(self, labels: Iterable[str], tokenize: Tokenize, biases: Mapping[str, float] | None = None) -> None:
        """biases: what is added to each label's log-likelihood, of all labels; see `label_biases.py`.

        Raises: Refusal `output_unsatisfiable` for labels that the model's tokenizer does not tell apart.
        """
        labels = list(labels)
        if biases is not None and (missing := [label for label in labels if label not in biases]):
            raise Refusal(FailureCode.INTERNAL_ERROR, f"label {_named(missing[0])} has no bias: report it")
        self._biases = biases
        self._at_first: dict[int | None, float] | None = None
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
        return _Way([label for label in begun if label != ended], at + 1, ended), ended

    def biases(self, way: _Way) -> dict[int | None, float]:
        """What is added to the logits of `next(way)`; under None, to what comes after the label that ends there."""
        if self._biases is None:
            return {}
        if not way.tokens and self._at_first is not None:
            return self._at_first
        found = edges(self._biases, self.branches(way), way.ended)
        if not way.tokens:
            self._at_first = found
        return found

    def branches(self, way: _Way) -> dict[int, list[str]]:
        """The labels that go on, by the next token."""
        found: dict[int, list[str]] = {}
        for label in way.labels:
            if len(ids := self.ids[label]) > way.tokens:
                found.setdefault(ids[way.tokens], []).append(label)
        return found


def labelled(
    words: Sequence[str],
    labels: Iterable[str],
    first: Tokenize,
    rest: Tokenize,
    biases: Mapping[str, float] | None = None,
) -> Sequence[Known | OneOf]:
    """`word/LABEL word/LABEL …`, with single spaces. first: tokens of what the text begins with; rest: of what follows.

    Raises: Refusal `output_unsatisfiable` without words, and as `OneOf` does.
    """
    if not words:
        raise _refused("there are no words to label: send some")
    one_of = OneOf(labels, rest, biases)
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
    bias: float = 0.0
    """Added to what comes next, which ends a label where others went on."""


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
        for step, at, *_ in self._places:
            piece = self._piece(step)
            if isinstance(piece, OneOf) and isinstance(at, _Way):
                allowed |= piece.next(at)
            elif isinstance(piece, Known) and isinstance(at, int):
                allowed.add(piece.ids[at])
        bits = np.zeros(bitmask.shape[1] * 32, dtype=np.uint8)
        bits[list(allowed)] = 1
        bitmask[index] = np.packbits(bits, bitorder="little").view(np.int32)

    @property
    def biases(self) -> dict[int, float]:
        """What is added to the logits of tokens that may come next; nothing where labels have no biases."""
        found: dict[int, float] = {}
        for step, at, _, bias in self._places:
            piece = self._piece(step)
            if isinstance(piece, OneOf) and isinstance(at, _Way):
                own = {token: more for token, more in piece.biases(at).items() if token is not None}
            elif isinstance(piece, Known) and isinstance(at, int):
                own = {piece.ids[at]: bias}
            else:
                own = dict.fromkeys(self._eos_ids, bias)
            for token, more in own.items():
                # Two ways to one token are rare: the one that is more likely counts.
                found[token] = max(more, found.get(token, -math.inf))
        return {token: more for token, more in found.items() if more}

    @property
    def parting(self) -> Sequence[tuple[Sequence[int], Sequence[str]]]:
        """Where labels part with the next token: which tokens lead to which of them; empty elsewhere."""
        here = [(self._piece(place.step), place.at) for place in self._places]
        among = [(piece, at) for piece, at in here if isinstance(piece, OneOf) and isinstance(at, _Way)]
        if len(among) != 1:
            return []
        piece, way = among[0]
        branches: list[tuple[Sequence[int], Sequence[str]]] = [
            ([token], labels) for token, labels in piece.branches(way).items()
        ]
        if way.ended is not None:
            others = {at.ids[place] for at, place in here if isinstance(at, Known) and isinstance(place, int)}
            ends = sorted({*(self._eos_ids if self.is_complete else ()), *others} - piece.next(way))
            if not ends:
                return []
            branches.append((ends, [way.ended]))
        return branches if len(branches) > 1 else []

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

    def _begun(self, step: int, chosen: tuple[Any, ...], bias: float = 0.0) -> list[_Place]:
        """Where a text stands that has all before `step`. bias: of what comes next."""
        match self._piece(step):
            case None:
                return [_Place(step, 0, chosen, bias)]
            case Known(_, ids):
                return [_Place(step, 0, chosen, bias)] if ids else self._begun(step + 1, chosen, bias)
            case OneOf() as labels:
                return [_Place(step, labels.first, chosen)]

    def _after(self, places: Iterable[_Place], token_id: int) -> list[_Place]:
        """Where a text can stand that has one more token."""
        following: list[_Place] = []
        for step, at, chosen, _ in places:
            piece = self._piece(step)
            if isinstance(piece, OneOf) and isinstance(at, _Way):
                way, ended = piece.after(at, token_id)
                if way.labels:
                    following.append(_Place(step, way, chosen))
                if ended is not None:
                    bias = piece.biases(way).get(None, 0.0) if way.labels else 0.0
                    following += self._begun(step + 1, (chosen, ended), bias)
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
