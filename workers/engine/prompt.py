"""The final text of a request, as tokens of which it is known whose they are.

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

Parts cannot change this structure. They are encoded apart from the template, with special tokens not recognised, so
that `<|im_end|>` in a text is ten ordinary characters and never the token; and where a part's text holds one of the
markers above, each `#` of it becomes `\\#`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from guideway.schemas.request import Part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM: Final = "guideway0system0c7f1e9"
_USER: Final = "guideway0user0c7f1e9"
_ANSWER: Final = "guideway0answer0c7f1e9"

_BLANK: Final = "\n\n"
_INSTRUCTION: Final = "### Instruction:\n"
_CONTEXT: Final = "### Context:\n"
_INPUT: Final = "### Input:\n"
_RESPONSE: Final = "### Response:\n"

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
    """A request's text in tokens; what lies in no span is the layout's own."""

    token_ids: list[int]
    spans: list[Span]
    """In the order of the text, not overlapping."""

    @property
    def fixed_tokens(self) -> int:
        """How many tokens stand before the first one that may differ from request to request.

        Those of the layout and of instructions, which are an endpoint version's own. Each part is encoded by itself,
        so these tokens are the same whatever comes after them.
        """
        return next((span.start for span in self.spans if span.kind != "instruction"), len(self.token_ids))


class PromptLayout:
    """Lays out parts for one tokenizer. Not to be shared by threads, as the tokenizer is not."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.chat_template or ""
        added = tokenizer.added_tokens_decoder
        # The token for unknown characters is no structure, and texts may well have such characters.
        self._reserved = {
            id_: token.content
            for id_, token in added.items()
            if (token.special or token.content in str(template)) and id_ != tokenizer.unk_token_id
        }
        self._own: dict[str, list[int]] = {}
        self._bare, self._instructed = _chat_pieces(tokenizer) if template else _plain_pieces(tokenizer)

    def encode(self, parts: Sequence[Part]) -> Prompt:
        """The tokens of the parts in the documented order; within one kind the order given stays."""
        groups = {kind: [p for p in parts if p.kind == kind] for kind in ("instruction", "context", "input")}
        writer = _Writer(self)
        pieces = self._instructed if groups["instruction"] else self._bare
        for piece in pieces:
            match piece:
                case _Slot("instruction"):
                    writer.joined(groups["instruction"])
                case _Slot("user", headed):
                    for part in groups["context"]:
                        writer.own(_CONTEXT)
                        writer.part(part)
                        writer.own(_BLANK)
                    if headed or groups["context"]:
                        writer.own(_INPUT)
                    writer.joined(groups["input"])
                case str():
                    writer.own(piece)
        return Prompt(writer.token_ids, writer.spans)

    def context_tokens(self, text: str) -> int:
        """How many tokens a `context` part of this text adds to a prompt."""
        return len(self.template_ids(_CONTEXT)) + len(self.content_ids(text)) + len(self.template_ids(_BLANK))

    def template_ids(self, text: str) -> list[int]:
        """The layout's own text: special tokens are recognised. There are few such texts, each encoded once."""
        if text not in self._own:
            self._own[text] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._own[text]

    def content_ids(self, text: str) -> list[int]:
        """Text of a part: no token in it is a special one or one that the chat template uses, markers are escaped."""
        text = _MARKER.sub(_escaped, text)
        ids = self._ordinary(text)
        if self._reserved.keys().isdisjoint(ids):
            return ids
        # Added tokens that are not "special", and control tokens in a unigram vocabulary, are still found: take the
        # text apart within them.
        found = "|".join(re.escape(content) for content in sorted(self._reserved.values(), key=len, reverse=True))
        ids = []
        at = 0
        for match in re.finditer(found, text):
            ids += self._ordinary(text[at : match.start() + 1])
            at = match.start() + 1
        ids += self._ordinary(text[at:])
        return [id_ for id_ in ids if id_ not in self._reserved]

    def _ordinary(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids


def _escaped(run: re.Match[str]) -> str:
    return re.sub(f"([{_HASHES}])", r"\\\1", run.group()) if run["word"] else run.group()


def chat_end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The token with which the chat template ends the assistant's message; empty if there is none."""
    if not tokenizer.chat_template:
        return frozenset()
    turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
    rest = _render(tokenizer, turns, opening=False).partition(_ANSWER)[2]
    ids = tokenizer.encode(rest, add_special_tokens=False)[:1]
    return frozenset(ids) & frozenset(tokenizer.added_tokens_decoder)


@dataclass(frozen=True)
class _Slot:
    """Where parts go among the layout's own pieces."""

    name: str
    headed: bool = False
    """Whether the input has a heading even without context."""


_Pieces = list["str | _Slot"]


class _Writer:
    """One prompt as it grows."""

    def __init__(self, layout: PromptLayout) -> None:
        self._layout = layout
        self.token_ids: list[int] = []
        self.spans: list[Span] = []

    def own(self, text: str) -> None:
        self.token_ids += self._layout.template_ids(text)

    def part(self, part: Part) -> None:
        start = len(self.token_ids)
        self.token_ids += self._layout.content_ids(part.text)
        self.spans.append(Span(part.kind, part.source, start, len(self.token_ids)))

    def joined(self, parts: Sequence[Part]) -> None:
        for i, part in enumerate(parts):
            if i:
                self.own(_BLANK)
            self.part(part)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, opening: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening))


def _chat_pieces(tokenizer: PreTrainedTokenizerBase) -> tuple[_Pieces, _Pieces]:
    """The layout without and with instructions, from the template rendered with sentinels."""
    user = {"role": "user", "content": _USER}
    before, _, after = _render(tokenizer, [user], opening=True).partition(_USER)
    try:
        whole = _render(tokenizer, [{"role": "system", "content": _SYSTEM}, user], opening=True)
    except Exception:  # templates refuse a role by raising jinja2's TemplateError, or whatever they call raises
        whole = ""
    head, found, rest = whole.partition(_SYSTEM)
    between, found_user, tail = rest.partition(_USER)
    if not found or not found_user:
        return [before, _Slot("user"), after], [before, _Slot("instruction"), _BLANK, _Slot("user"), after]
    instructed: _Pieces = [head, _Slot("instruction"), between, _Slot("user"), tail]
    injects = before.startswith(head) and before.endswith(between) and len(before) >= len(head) + len(between)
    if not injects:
        return [before, _Slot("user"), after], instructed
    # `before` holds a system message of the template's own. Keep the beginning-of-text token and what opens the user's
    # message, which is `between` without the end of the system message: messages end alike.
    end = _render(tokenizer, [user], opening=False).partition(_USER)[2]
    if not end or not between.startswith(end):
        return [head, between, _Slot("user"), tail], instructed
    opening = between.removeprefix(end)
    bos = str(tokenizer.bos_token or "")
    begin = bos if head.startswith(bos) and not opening.startswith(bos) else ""
    return [begin, opening, _Slot("user"), after], instructed


def _plain_pieces(tokenizer: Any) -> tuple[_Pieces, _Pieces]:
    """The layout of a model without chat template."""
    first = tokenizer.encode("a")[:1]
    begin = str(tokenizer.bos_token) if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else ""
    rest: _Pieces = [_Slot("user", headed=True), _BLANK + _RESPONSE]
    return [begin, *rest], [begin + _INSTRUCTION, _Slot("instruction"), _BLANK, *rest]
