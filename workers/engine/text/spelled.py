"""A row's place in a form that lists what may be written (`label_form.py`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from guideway.workers.engine.text.label_form import Known, OneOf, Way, unspellable


class _Place(NamedTuple):
    """How far a text has come: a text may stand at several places where its tokens can be read in several ways."""

    step: int
    """Number of the step in the form; the number of all steps where the text is complete."""
    at: int | Way
    """How many tokens of a known piece are written, or what is written of a label."""
    chosen: tuple[Any, ...]
    """The labels so far, as (those before, the last one), so that texts share what they have in common."""
    bias: float = 0.0
    """The bias of what comes next, where that ends a label and other labels could have gone on."""


class Spelled:
    """One row's place in its form. Implements `Grammar`; owner of the places at which the row's text may stand."""

    def __init__(self, steps: Sequence[Known | OneOf], eos_ids: Sequence[int]) -> None:
        self._steps = steps
        self._eos_ids = eos_ids
        self._places = self._begun(0, ())

    def fork(self) -> Spelled:
        """Another place, at the beginning."""
        return Spelled(self._steps, self._eos_ids)

    def restart(self) -> None:
        """Go back to the beginning."""
        self._places = self._begun(0, ())

    def accept(self, token_id: int) -> None:
        """Go on by a token that the mask allowed. Raises: Refusal `output_unsatisfiable` for another one."""
        self._places = self._after(self._places, token_id)
        if not self._places:
            raise unspellable("the output rule does not allow this token")

    def fill(self, bitmask: np.ndarray[Any, Any], index: int) -> None:
        """Set bit t of bitmask[index] if token t may come next; an end token may where the text is complete.

        bitmask int32 [rows, ⌈vocabulary / 32⌉]. Raises as `accept` does.
        """
        if not self._places:
            raise unspellable("the output rule does not allow this token")
        allowed = np.fromiter(self._allowed(), dtype=np.int64)
        bitmask[index] = 0
        np.bitwise_or.at(bitmask[index].view(np.uint32), allowed >> 5, np.uint32(1) << (allowed & 31).astype(np.uint32))

    @property
    def forced(self) -> Sequence[int]:
        """The token that comes next in any case; empty where there is a choice, or the text may end."""
        if len(self._places) == 1:
            step, at, *_ = self._places[0]
            piece = self._piece(step)
            if isinstance(piece, Known) and isinstance(at, int):
                return [piece.ids[at]]
        allowed = self._allowed()
        return [] if self.is_complete or len(allowed) != 1 else [*allowed]

    def draft(self, worth: float) -> Sequence[int]:
        """Nothing: labels are divided in one way."""
        return ()

    def ahead(self, token_id: int) -> Spelled:
        """Another place, after this token."""
        other = Spelled(self._steps, self._eos_ids)
        other._places = self._after(self._places, token_id)
        return other

    def _allowed(self) -> set[int]:
        allowed: set[int] = {*self._eos_ids} if self.is_complete else set()
        for step, at, *_ in self._places:
            piece = self._piece(step)
            if isinstance(piece, OneOf) and isinstance(at, Way):
                allowed |= piece.next(at)
            elif isinstance(piece, Known) and isinstance(at, int):
                allowed.add(piece.ids[at])
        return allowed

    @property
    def biases(self) -> dict[int, float]:
        """What is added to the logits of tokens that may come next; empty where labels have no biases."""
        found: dict[int, float] = {}
        for step, at, _, bias in self._places:
            piece = self._piece(step)
            if isinstance(piece, OneOf) and isinstance(at, Way):
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
        among = [(piece, at) for piece, at in here if isinstance(piece, OneOf) and isinstance(at, Way)]
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
        """Whether the text so far is a whole text of the form."""
        return any(place.step == len(self._steps) for place in self._places)

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can come."""
        return all(place.step == len(self._steps) for place in self._places)

    @property
    def certain(self) -> str:
        """The pieces that are written, as far as all places at which the text may stand agree."""
        written = [self._written(place) for place in self._places]
        first, last = min(written, default=""), max(written, default="")
        # What the first and the last in order have in common, all between them have.
        return first[: next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]

    @property
    def fewest_tokens(self) -> int:
        """The number of tokens of the shortest whole text."""
        return sum(len(step.ids) if isinstance(step, Known) else step.fewest_tokens for step in self._steps)

    @property
    def nbytes(self) -> int:
        """About how many bytes of memory all places of this form share."""
        labels = {id(step): step.nbytes for step in self._steps if isinstance(step, OneOf)}
        known = sum(step.nbytes for step in self._steps if isinstance(step, Known))
        return sum(labels.values()) + known

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, as its pieces were declared: a tokenizer may write another form of the same letters.

        Empty for tokens that are no whole text.
        """
        places = self._begun(0, ())
        for id_ in token_ids:
            places = self._after(places, id_)
        whole = next((place for place in places if place.step == len(self._steps)), None)
        return "" if whole is None else self._written(whole)

    def _written(self, place: _Place) -> str:
        """The text of the pieces before this place."""
        labels: list[str] = []
        chosen = place.chosen
        while chosen:
            chosen, label = chosen
            labels.append(label)
        steps = self._steps[: place.step]
        return "".join(step.text if isinstance(step, Known) else labels.pop() for step in steps)

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
        """The places of a text that has everything before `step`. bias: of what comes next."""
        match self._piece(step):
            case None:
                return [_Place(step, 0, chosen, bias)]
            case Known(_, ids):
                return [_Place(step, 0, chosen, bias)] if ids else self._begun(step + 1, chosen, bias)
            case OneOf() as labels:
                return [_Place(step, labels.first, chosen)]

    def _after(self, places: Iterable[_Place], token_id: int) -> list[_Place]:
        """The places of a text at `places` after one more token; none if the form does not allow it."""
        following: list[_Place] = []
        for step, at, chosen, _ in places:
            piece = self._piece(step)
            if isinstance(piece, OneOf) and isinstance(at, Way):
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
