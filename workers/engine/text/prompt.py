"""The final text of a request, as tokens for each of which it is known who wrote it.

Order (prefixes and then the virtual tokens of soft prompts stand before all of it, from position 0 on):

1. what the model's chat template opens with;
2. the `instruction` parts, a blank line between them: the system message. Without instruction parts there is no system
   message, not even the one that some templates put in by themselves. Templates without a system role get the
   instructions at the head of the user message, a blank line after them;
3. the user message: each `context` part under a line `### Context:`, then the `input` parts, a blank line between
   them; with context the input stands under a line `### Input:`;
4. the template's opening of the assistant's message.

A model without chat template gets `### Instruction:`, `### Context:`, `### Input:` and `### Response:`, each on a line
before what it names and a blank line between, after the model's beginning-of-text token if it has one.

It is one text, tokenised at once: the tokens are those that the model's own tokenizer makes of the rendered
conversation. Where the template strips a message of the white space around it, so does the layout.

Parts cannot change this structure. The template's tokens have names here that no text can hold
(`guarded_tokenizer.py`), so that `<|im_end|>` in a text is ten ordinary characters and never the token; and where a
part's text holds one of the markers above, each `#` of it becomes `\\#`.

The model writes its answer after all this, and `answer_ids` says in which tokens: where the template has a space
between its opening and the assistant's words, or the tokenizer puts one there, the answer begins with it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.request import Part
from guideway.workers.engine.text.aside import Calls, here
from guideway.workers.engine.text.chat_template import (
    ANSWER,
    BLANK,
    CONTEXT,
    INPUT,
    USER,
    Slot,
    answer_lead,
    chat_pieces,
    plain_pieces,
    rendered,
)
from guideway.workers.engine.text.guarded_tokenizer import GuardedTokenizer, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOOK_CHARS: Final = 4
"""Characters of a text that are looked at first, for each token that there is room for: about as many as a token has in
plain English."""
_LEAST_LIMIT: Final = 64
_ANCHORS: Final = "\n", "a"
"""Texts that the first token of the text after them seldom joins."""
_GAPS: Final = r"\s\u00ad\u200b-\u200f\u2060-\u2064\ufeff"
"""White space and invisible characters: between a marker's letters they do not make it another marker to a reader."""
_GAP: Final = f"[{_GAPS}]*"
_HASHES: Final = r"#\uff03\ufe5f"
_MARKER: Final = re.compile(
    rf"[{_HASHES}](?:[{_GAPS}{_HASHES}]*[{_HASHES}])?(?P<word>{_GAP}(?:"
    + "|".join(_GAP.join(word) for word in ("instruction", "context", "input", "response"))
    + rf"){_GAP}[:\uff1a])?",
    re.IGNORECASE,
)
"""A whole run of hashes, and the word that makes it a marker, if there is one. A run without is matched too: were each
of its hashes looked at anew, a long run would take time by the square of its length."""


class Span(NamedTuple):
    """Tokens `start` up to, not including, `end` came from one part."""

    kind: str
    """`instruction`, `context` or `input`."""
    source: str
    """`endpoint`, `caller`, or `NAMESPACE/NAME@VERSION`."""
    start: int
    end: int


@dataclass(frozen=True)
class Prompt:
    """A request's text in tokens. Tokens in no span are the layout's own."""

    token_ids: list[int]
    spans: list[Span]
    """In the order of the text, not overlapping. A token of two parts' characters is in the span of the later part, and
    one of the layout's and a part's characters in that of the part."""

    @property
    def fixed_tokens(self) -> int:
        """How many tokens stand before the first one that may differ from request to request.

        They are the layout's and the instructions', which an endpoint's version fixes.
        """
        return next((span.start for span in self.spans if span.kind != "instruction"), len(self.token_ids))


class PromptLayout:
    """The layout of parts and answers for one tokenizer, in serving and in training. Threads may share it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, aside: Calls = here) -> None:
        """aside: makes calls that take long."""
        self._guarded = GuardedTokenizer(tokenizer, aside=aside)
        template = tokenizer.chat_template
        bare, instructed = chat_pieces(tokenizer) if template else plain_pieces(tokenizer)
        self._bare, self._instructed = (
            [self._guarded.own(piece) if isinstance(piece, str) else piece for piece in pieces]
            for pieces in (bare, instructed)
        )
        opening = self._written([Part(kind="input", source="", text="a")]).text
        before = [(opening, answer_lead(tokenizer) if template else ""), *((anchor, "") for anchor in _ANCHORS)]
        self._before_answer = [(text, self._guarded.encode(text).ids, lead) for text, lead in before]

    def encode(self, parts: Sequence[Part], *, limit: int | None = None) -> Prompt:
        """The tokens of the parts in the documented order; within one kind the order given stays.

        Raises: Refusal `text_too_long` for a text so much longer than `limit` tokens that its beginning shows it. One
        that is a little longer is encoded.
        """
        if limit is not None:
            self._refuse_hopeless(parts, max(limit, _LEAST_LIMIT))
        written = self._written(parts)
        tokens = self._guarded.encode(written.text)
        return Prompt(tokens.ids, self._spans(written, tokens))

    def _refuse_hopeless(self, parts: Sequence[Part], limit: int) -> None:
        """Look at longer and longer beginnings of the parts, until they have twice `limit` tokens or are whole.

        The tokens before a cut may differ from those of the whole text, but there are never twice as many.
        """
        look = _LOOK_CHARS * limit
        while any(len(part.text) > look for part in parts):
            if (
                sum(len(tokens.ids) for tokens in self._guarded.encode_all([part.text[:look] for part in parts]))
                > 2 * limit
            ):
                raise _hopeless(parts, limit)
            look *= 2

    def context_tokens(self, text: str) -> int:
        """How many tokens a `context` part of this text adds to a prompt."""
        added = f"{CONTEXT}{escaped(text)}{BLANK}"
        return len(self._guarded.encode(added + INPUT).ids) - len(self._guarded.encode(INPUT).ids)

    def content_ids(self, text: str) -> list[int]:
        """The tokens of a part's text by itself: none is a token of structure, and markers are escaped."""
        return self._guarded.encode(escaped(text)).ids

    def answer_ids(self, text: str) -> list[int]:
        """The tokens in which the model writes `text` as its answer, without the end token."""
        return self.answers_ids([text])[0]

    def answers_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The `answer_ids` of each text."""
        return self._after(self._before_answer, texts)

    def continued_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of pieces of an answer, each of which stands after other pieces."""
        return self._after(self._before_answer[1:], texts)

    def _after(self, before: Sequence[tuple[str, list[int], str]], texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text after the first of `before` whose own tokens stay the same with the text after it."""
        found: dict[int, list[int]] = {}
        for standing, ids, lead in [*before, ("", [], "")]:
            left = [place for place in range(len(texts)) if place not in found]
            following = self._guarded.following(standing, ids, [lead + texts[place] for place in left])
            found |= {place: tokens for place, tokens in zip(left, following, strict=True) if tokens is not None}
        return [found[place] for place in range(len(texts))]

    def _written(self, parts: Sequence[Part]) -> _Written:
        groups = {kind: [p for p in parts if p.kind == kind] for kind in ("instruction", "context", "input")}
        written = _Written()
        for piece in self._instructed if groups["instruction"] else self._bare:
            if isinstance(piece, str):
                written.own(piece)
                continue
            message = _Written()
            if piece.name == "user":
                for part in groups["context"]:
                    message.own(CONTEXT)
                    message.part(part)
                    message.own(BLANK)
                if piece.headed or groups["context"]:
                    message.own(INPUT)
            for i, part in enumerate(groups["input" if piece.name == "user" else "instruction"]):
                if i:
                    message.own(BLANK)
                message.part(part)
            written.add(message, piece)
        return written

    def _spans(self, written: _Written, tokens: Tokens) -> list[Span]:
        """Which tokens each part has."""
        ranges = [(start, end, part) for start, end, part in written.parts if end > start]
        starts = [start for start, _, _ in ranges]
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for i, (id_, (start, end)) in enumerate(zip(tokens.ids, tokens.ends, strict=True)):
            if id_ in self._guarded.reserved:
                continue  # the layout's own, whatever white space of a part it takes
            at = bisect_left(starts, max(end, start + 1)) - 1
            if at >= 0 and start < ranges[at][1]:
                first.setdefault(at, i)
                last[at] = i + 1
        spans: list[Span] = []
        for start, end, part in written.parts:
            at = bisect_left(starts, start)
            if end > start and at in first:
                spans.append(Span(part.kind, part.source, first[at], last[at]))
            else:
                # It has no token: it is empty, or white space that the template or a token takes.
                place = sum(1 for _, upto in tokens.ends if upto <= start)
                spans.append(Span(part.kind, part.source, place, place))
        return spans


def _hopeless(parts: Sequence[Part], limit: int) -> Refusal:
    longest = max(parts, key=lambda part: len(part.text))
    whose = {"instruction": "the instruction", "context": "a passage", "input": "the input"}[longest.kind]
    return Refusal(
        FailureCode.TEXT_TOO_LONG,
        f"the text would be more than twice the {limit} tokens that this model size has room for beside the answer: "
        f"shorten {whose} ({longest.source}), which has {len(longest.text)} characters",
    )


def escaped(text: str) -> str:
    """The text of a part, with every marker of the layout in it escaped."""
    return _MARKER.sub(_escaped_run, text)


def _escaped_run(run: re.Match[str]) -> str:
    return re.sub(f"([{_HASHES}])", r"\\\1", run.group()) if run["word"] else run.group()


def chat_end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The token with which the chat template ends the assistant's message; empty if there is none."""
    if not tokenizer.chat_template:
        return frozenset()
    turns = [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}]
    rest = rendered(tokenizer, turns, opening=False).partition(ANSWER)[2]
    ids = tokenizer.encode(rest, add_special_tokens=False)[:1]
    return frozenset(ids) & frozenset(tokenizer.added_tokens_decoder)


class _Written:
    """A text that is put together, with the part that each piece came from."""

    def __init__(self) -> None:
        self._pieces: list[tuple[str, Part | None]] = []

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self._pieces)

    @property
    def parts(self) -> list[tuple[int, int, Part]]:
        """(first character, one past the last, part) of each part."""
        starts = accumulate((len(text) for text, _ in self._pieces), initial=0)
        return [(at, at + len(text), part) for at, (text, part) in zip(starts, self._pieces, strict=False) if part]

    def own(self, text: str) -> None:
        self._pieces.append((text, None))

    def part(self, part: Part) -> None:
        self._pieces.append((escaped(part.text), part))

    def add(self, message: _Written, slot: Slot) -> None:
        """Add a message, without the white space around it that the template strips."""
        left, right = slot.strips
        pieces = message._pieces
        if left:
            pieces = _stripped(pieces, str.lstrip)
        if right:
            pieces = _stripped(pieces[::-1], str.rstrip)[::-1]
        self._pieces += pieces


def _stripped(pieces: Sequence[tuple[str, Part | None]], strip: Callable[[str], str]) -> list[tuple[str, Part | None]]:
    """The pieces without the white space at their beginning: the first, and the next ones while nothing is left."""
    done: list[tuple[str, Part | None]] = []
    for place, (text, part) in enumerate(pieces):
        done.append((strip(text), part))
        if done[-1][0]:
            return [*done, *pieces[place + 1 :]]
    return done
