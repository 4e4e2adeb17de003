"""From output rules to grammars, which say what tokens may come next in a row. llguidance compiles all but labels."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import Final, assert_never

import llguidance
import llguidance.hf
import msgspec
from cachetools import LRUCache
from tokenizers import decoders
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from guideway.schemas.failures import Refusal
from guideway.schemas.json_schema.places import MOST_DIGITS
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.workers.engine.faults import unsatisfiable
from guideway.workers.engine.text.aside import Calls, here
from guideway.workers.engine.text.compiled import Compiled, Spelling
from guideway.workers.engine.text.grammar import Grammar, empty_bitmask
from guideway.workers.engine.text.grammar_trial import grammar_trial
from guideway.workers.engine.text.json_grammar import Digits, Habits, JsonWatch, json_source
from guideway.workers.engine.text.label_form import OneOf, labelled
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.engine.text.spelled import Spelled

_LIMITS: Final = llguidance.LLParserLimits(verbose_errors=False)
"""With verbose errors llguidance quotes the grammar's state, and with it the text."""
_KEPT_BYTES: Final = 64 * 2**20
_MATCHER_BYTES: Final = 60_000
_SOURCE_BYTES: Final = 40
_REFUSAL_BYTES: Final = 1000
"""Estimates, rather too large: of a compiled grammar, for each byte of its source, and of a refusal."""


class Grammars:
    """Compiled grammars by output rule, least recently used out first; owner of llguidance's view of the tokenizer.

    Threads may share it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocabulary: int,
        eos_ids: Iterable[int],
        layout: PromptLayout | None = None,
        aside: Calls = here,
        max_bytes: int = _KEPT_BYTES,
    ) -> None:
        """vocabulary: logits per position, which may be more than the tokenizer has tokens. layout: of `tokenizer`.
        aside: makes calls that take long. max_bytes: of what is kept of compiled grammars; one that is larger is
        compiled each time.
        """
        # An empty list is refused; None leaves the tokenizer's own.
        ends = sorted(eos_ids)
        self._tokenizer = llguidance.hf.from_tokenizer(
            _decodable(tokenizer), n_vocab=vocabulary, eos_token=ends or None
        )
        self._ends = ends or [self._tokenizer.eos_token]
        self._vocabulary = vocabulary
        self._digits = Digits(self.bytes_of, vocabulary=vocabulary)
        self._punctuation: dict[bytes, int] = {}
        """How the model begins what grammars leave no choice about, whatever the grammar."""
        layout = layout or PromptLayout(tokenizer)
        self._spelling = Spelling(layout, self._lead(layout))
        self._aside = aside
        self._trial = grammar_trial(beside_steps=aside is not here)
        self._turn = Lock()
        self._kept: LRUCache[bytes, Grammar | Refusal] = LRUCache(max_bytes, getsizeof=_nbytes)
        """Each rule, by its hash → its grammar at the beginning, or the refusal of it."""

    def start(
        self, rule: OutputRule, words: Sequence[str], biases: Mapping[str, float] | None = None
    ) -> Grammar | None:
        """A new place at the beginning of the rule's grammar; None for free text.

        words: those to label, for `word_labels`. biases: of all its labels, or none (`label_biases.py`).
        Raises: Refusal `output_unsatisfiable` if no text can satisfy the rule, or the grammar is not understood.
        """
        if isinstance(rule, Text):
            return None
        try:
            own = words if isinstance(rule, WordLabels) else ()
            key = hashlib.sha256(msgspec.json.encode((rule, own, biases or None))).digest()
        except RecursionError:
            raise unsatisfiable("the schema is nested too deeply") from None
        with self._turn:
            known = self._kept.get(key)
        if known is None:
            # Without the lock: two threads may compile the same grammar, but neither waits for the other.
            try:
                known = self._made(rule, words, biases or None)
            except Refusal as refusal:
                known = refusal
            with self._turn:
                if _nbytes(known) <= self._kept.maxsize:
                    self._kept[key] = known
        if isinstance(known, Refusal):
            raise Refusal(known.code, known.message)
        return known.fork()

    @property
    def lead(self) -> str:
        """The white space that the text of each grammar begins with, and that is no part of its value."""
        return self._spelling.lead

    def bytes_of(self, token_ids: Sequence[int]) -> bytes:
        """The bytes that tokens stand for; of a special token, its name."""
        return bytes(self._tokenizer.decode_bytes(list(token_ids)))

    def _made(self, rule: OutputRule, words: Sequence[str], biases: Mapping[str, float] | None) -> Grammar:
        layout = self._spelling.layout
        match rule:
            case Text():
                raise ValueError("free text has no grammar")
            case Choice(labels):
                return Spelled([OneOf(labels, layout.answers_ids, biases)], self._ends)
            case Boolean(spelling):
                return Spelled([OneOf(spelling.split("/"), layout.answers_ids, biases)], self._ends)
            case WordLabels(labels):
                steps = labelled(words, labels, layout.answers_ids, layout.continued_ids, biases)
                return Spelled(steps, self._ends)
            case Number(decimals, negative):
                fraction = rf"(\.[0-9]{{1,{decimals}}})?" if decimals else ""
                return self._compile(_regex(f"{'-?' if negative else ''}(0|[1-9][0-9]{{0,{MOST_DIGITS}}}){fraction}"))
            case Json(schema):
                return self._compile(self._tried(json_source(schema)), lambda: JsonWatch(self._digits, schema))
            case Regex(pattern):
                return self._compile(self._tried(_regex(pattern)))
        assert_never(rule)

    def _tried(self, source: str) -> str:
        """`source`, if llguidance compiles it in time. Raises: Refusal `output_unsatisfiable` if it does not."""
        if not self._trial.compiles(source):
            raise unsatisfiable("it takes too long, or too much memory, to find out what it allows")
        return source

    def _compile(self, source: str, watch: Callable[[], JsonWatch] | None = None) -> Compiled:
        # The library lets go of the interpreter while it compiles, and while it looks for what may come first.
        return self._aside(lambda: self._compiled(_after(self._spelling.lead, source), watch))

    def _compiled(self, source: str, watch: Callable[[], JsonWatch] | None) -> Compiled:
        # Errors come back as values and are raised below; without this they are printed as well, with the grammar.
        matcher = llguidance.LLMatcher(self._tokenizer, source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise unsatisfiable(matcher.get_error())
        nbytes = _MATCHER_BYTES + _SOURCE_BYTES * len(source)
        grammar = Compiled(matcher, self._tokenizer, self._spelling, nbytes, watch, Habits(self._punctuation))
        # A grammar that no text satisfies compiles; only the request for its first token shows it.
        first, none = grammar.fork(), empty_bitmask(1, self._vocabulary)
        try:
            first.fill(none, 0)
        except Refusal as refusal:
            raise unsatisfiable("no text matches it") from refusal
        first.look_ahead(none)
        return grammar

    def _lead(self, layout: PromptLayout) -> str:
        text = self.bytes_of(layout.answer_ids("0")).decode(errors="replace")
        lead = text.removesuffix("0")
        return lead if lead.isspace() else ""


def _nbytes(known: Grammar | Refusal) -> int:
    return _REFUSAL_BYTES if isinstance(known, Refusal) else known.nbytes


def _regex(pattern: str) -> str:
    return str(llguidance.LLMatcher.grammar_from_regex(pattern))


def _decodable(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, with a decoder from which llguidance can tell what bytes a token stands for."""
    metaspace = tokenizer.backend_tokenizer.decoder
    if not isinstance(metaspace, decoders.Metaspace):
        return tokenizer
    told = copy.copy(tokenizer.backend_tokenizer)
    told.decoder = decoders.Sequence(
        [decoders.Replace(metaspace.replacement, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=told, eos_token=tokenizer.eos_token)


def _after(lead: str, source: str) -> str:
    """The grammar of what is written after `lead`."""
    if not lead:
        return source
    grammars = json.loads(source)["grammars"]
    grammars[0]["name"] = "value"
    return json.dumps({"grammars": [{"lark_grammar": f"start: {json.dumps(lead)} @value"}, *grammars]})
