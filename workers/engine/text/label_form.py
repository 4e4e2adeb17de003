"""Forms that list what may be written: labels, and labels after known words, in the tokens that the model writes.

In a grammar of characters, `p` would do as the first token of `positive` and decide for that label, though the model
means nothing by it: on the demo's data the bare model's accuracy falls from 0.70 to 0.49.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine.text.label_biases import edges

Tokenize = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""The tokens of each text."""

_TOKEN_BYTES: Final = 16
_STEP_BYTES: Final = 200
"""About how many bytes of memory Python takes for one token, and for one label or piece."""


class Way(NamedTuple):
    """Labels that begin with the same tokens, and how many of their tokens are written."""

    labels: Sequence[str]
    tokens: int
    ended: str | None = None
    """The label that ends here, where others go on."""


class Known(NamedTuple):
    """A piece of the text that is given."""

    text: str
    ids: Sequence[int]

    @property
    def nbytes(self) -> int:
        """About how many bytes of memory it takes."""
        return _STEP_BYTES + 8 * len(self.ids)


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
        # As little as possible is done here, since it holds the interpreter; the rest is done when rows need it.
        known: dict[tuple[int, ...], str] = {}
        for label, ids in self.ids.items():
            if not ids:
                raise unspellable(f"label {_named(label)} is nothing to this model's tokenizer: rename it")
            if (same := known.setdefault(tuple(ids), label)) != label:
                raise unspellable(
                    f"labels {_named(same)} and {_named(label)} are the same to this model's tokenizer: keep one"
                )
        self.first = Way(list(self.ids), 0)
        self.first_tokens = {ids[0] for ids in self.ids.values()}
        self.nbytes = sum(_STEP_BYTES + _TOKEN_BYTES * len(ids) + len(label) for label, ids in self.ids.items())
        self.fewest_tokens = min(len(ids) for ids in self.ids.values())

    def next(self, way: Way) -> set[int]:
        """The tokens that may come next."""
        if not way.tokens:
            return self.first_tokens
        return {ids[way.tokens] for label in way.labels if len(ids := self.ids[label]) > way.tokens}

    def after(self, way: Way, token_id: int) -> tuple[Way, str | None]:
        """The labels that go on after one more token, and the one that ends with it."""
        at = way.tokens
        begun = [label for label in way.labels if len(ids := self.ids[label]) > at and ids[at] == token_id]
        ended = next((label for label in begun if len(self.ids[label]) == at + 1), None)
        return Way([label for label in begun if label != ended], at + 1, ended), ended

    def biases(self, way: Way) -> dict[int | None, float]:
        """The biases of the tokens of `next(way)`; under None, of what comes after the label that ends there."""
        if self._biases is None:
            return {}
        if not way.tokens and self._at_first is not None:
            return self._at_first
        found = edges(self._biases, self.branches(way), way.ended)
        if not way.tokens:
            self._at_first = found
        return found

    def branches(self, way: Way) -> dict[int, list[str]]:
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
    """The form `word/LABEL word/LABEL …`, with single spaces.

    first: makes the tokens of what a text begins with. rest: makes the tokens of what follows.

    Raises: Refusal `output_unsatisfiable` without words, and as `OneOf` does.
    """
    if not words:
        raise unspellable("there are no words to label: send some")
    one_of = OneOf(labels, rest, biases)
    texts = [f"{words[0]}/", *(f" {word}/" for word in words[1:])]
    ids = [*first(texts[:1]), *rest(texts[1:])]
    return [step for text, tokens in zip(texts, ids, strict=True) for step in (Known(text, tokens), one_of)]


def unspellable(why: str) -> Refusal:
    """The refusal `output_unsatisfiable` for a form, or a token in it, that is not possible."""
    return Refusal(FailureCode.OUTPUT_UNSATISFIABLE, why)


def _named(label: str) -> str:
    """Letters that look alike are told apart by their numbers."""
    return repr(label) if label.isascii() else ascii(label)
