"""The form of a result as a grammar: which tokens may come next, per row. Grammars are llguidance's."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, assert_never

import llguidance
import llguidance.hf
import llguidance.numpy
import msgspec
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import GRAMMAR_OPTIONS, Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.workers.engine.faults import refusal_of

_LIMITS: Final = llguidance.LLParserLimits(verbose_errors=False)
"""Otherwise errors quote the grammar's state, and with it the text."""
_KEPT: Final = 256
_REASON_CHARS: Final = 300


class Grammar:
    """One row's place in its grammar."""

    def __init__(self, start: Any, tokenizer: Any) -> None:
        """start: a matcher at the beginning of the grammar; it is copied and never moved."""
        self._start = start
        self._matcher = start.deep_copy()
        self._tokenizer = tokenizer

    def fork(self) -> Grammar:
        """Another place, at the beginning."""
        return Grammar(self._start, self._tokenizer)

    def accept(self, token_id: int) -> None:
        """Go on by a token that the mask allowed.

        Raises: Refusal `output_unsatisfiable` if the grammar turns out too complex to follow.
        """
        self._matcher.consume_token(token_id)
        self._check()

    def fill(self, bitmask: np.ndarray[Any, Any], index: int) -> None:
        """Set bit t of bitmask[index] if token t may come next; an end token may where the text is complete.

        bitmask int32 [rows, ⌈vocabulary / 32⌉]. Raises as `accept` does.
        """
        llguidance.numpy.fill_next_token_bitmask(self._matcher, bitmask, index)
        self._check()

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is a whole word of the grammar."""
        return bool(self._matcher.is_accepting())

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can come."""
        return bool(self._matcher.is_stopped())

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, byte for byte as the grammar counts it: a tokenizer's own decoding may drop spaces."""
        return str(self._tokenizer.decode_str(list(token_ids)))

    def derives(self, text: str) -> bool:
        """Whether `text` is a whole word of the grammar."""
        # A fresh copy: `reset` of a matcher that went through a label's tokens forgets to accept it again.
        matcher = self._start.deep_copy()
        return bool(matcher.consume_tokens(self._tokenizer.tokenize_str(text)) and matcher.is_accepting())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise unsatisfiable(self._matcher.get_error())


class Grammars:
    """Compiled grammars by output rule, least recently used out first; owner of llguidance's view of the tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, vocabulary: int, eos_ids: Iterable[int]) -> None:
        """vocabulary: logits per position, which may be more than the tokenizer has tokens."""
        # An empty list is refused; None leaves the tokenizer's own.
        ends = sorted(eos_ids) or None
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=ends)
        self._vocabulary = vocabulary
        self._compiled: OrderedDict[bytes, Grammar] = OrderedDict()

    def start(self, rule: OutputRule, words: Sequence[str]) -> Grammar | None:
        """A new place at the beginning of the rule's grammar; None for free text.

        words: what to label, for `word_labels`.
        Raises: Refusal `output_unsatisfiable` if no text can satisfy the rule, or the grammar is not understood.
        """
        if isinstance(rule, Text):
            return None
        key = msgspec.json.encode((rule, words if isinstance(rule, WordLabels) else ()))
        if key not in self._compiled:
            self._compiled[key] = self._compile(source(rule, words, self._tokenizer.tokenize_str))
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return self._compiled[key].fork()

    def bytes_of(self, token_ids: Sequence[int]) -> bytes:
        """What tokens stand for; the name of a special one."""
        return bytes(self._tokenizer.decode_bytes(list(token_ids)))

    def _compile(self, grammar_source: str) -> Grammar:
        # Errors come back as values and are raised below; without this they are printed as well, with the grammar.
        matcher = llguidance.LLMatcher(self._tokenizer, grammar_source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise unsatisfiable(matcher.get_error())
        grammar = Grammar(matcher, self._tokenizer)
        # A grammar without any word compiles; it is found out when its first token is asked for.
        try:
            grammar.fork().fill(empty_bitmask(1, self._vocabulary), 0)
        except Refusal as refusal:
            raise unsatisfiable("no text matches it") from refusal
        return grammar


Tokenize = Callable[[str], Sequence[int]]


def source(rule: OutputRule, words: Sequence[str], tokenize: Tokenize) -> str:
    """The rule in llguidance's grammar format.

    Labels stand in it as the tokens in which the model has learnt to write them. As characters, `p` of `positive`
    would do for a first token and settle the label, though the model means nothing by it: on the demo's data that
    takes the bare model from 0.70 to 0.49.
    """
    match rule:
        case Text():
            raise ValueError("free text has no grammar")
        case Choice(labels):
            return _lark(_one_of(labels, tokenize))
        case Boolean(spelling):
            return _lark(_one_of(spelling.split("/"), tokenize))
        case Number(decimals, negative):
            fraction = rf"(\.[0-9]{{1,{decimals}}})?" if decimals else ""
            return _regex(f"{'-?' if negative else ''}(0|[1-9][0-9]{{0,14}}){fraction}")
        case WordLabels(labels):
            return _labelled(words, labels, tokenize)
        case Json(schema):
            return _json(schema)
        case Regex(pattern):
            return _regex(pattern)
    assert_never(rule)


def unsatisfiable(reason: str) -> Refusal:
    """The refusal of an output rule, with llguidance's reason in one line."""
    reason = " ".join(reason.replace("<non-verbose/>", "").split())[:_REASON_CHARS]
    return Refusal(FailureCode.OUTPUT_UNSATISFIABLE, f"the output rule cannot be satisfied ({reason}): change the rule")


def empty_bitmask(rows: int, vocabulary: int) -> np.ndarray[Any, Any]:
    return np.zeros((rows, (vocabulary + 31) // 32), dtype=np.int32)


class BatchedGrammar:
    """The grammars of the rows that one step sees; None for a row of free text."""

    def __init__(self, grammars: Sequence[Grammar | None]) -> None:
        self._grammars = [(row, grammar) for row, grammar in enumerate(grammars) if grammar is not None]

    def mask_(self, logits: Tensor) -> dict[int, Refusal]:
        """logits[i, t] = -inf where row i's grammar does not allow token t next; logits [rows, vocabulary], in place.

        Returns the rows whose grammar cannot be followed any further, and why; nothing is allowed in them.
        """
        if not self._grammars:
            return {}
        failed: dict[int, Refusal] = {}
        bitmask = empty_bitmask(len(self._grammars), logits.shape[1])
        for index, (row, grammar) in enumerate(self._grammars):
            try:
                grammar.fill(bitmask, index)
            except BaseException as error:  # whatever it is, it is this row's
                failed[row] = refusal_of(error, id="its grammar")
                bitmask[index] = 0
        bits = np.unpackbits(bitmask.view(np.uint8), axis=1, count=logits.shape[1], bitorder="little")
        forbidden = torch.from_numpy(bits).to(logits.device) == 0
        rows = torch.tensor([row for row, _ in self._grammars], device=logits.device)
        logits[rows] = logits[rows].masked_fill_(forbidden, -torch.inf)
        return failed


def _json(schema: dict[str, Any]) -> str:
    # The owner's settings of the grammar library could make it write what is not JSON, or not of the schema.
    schema = {key: content for key, content in schema.items() if key != GRAMMAR_OPTIONS}
    # Without flexible white space a small model cannot lose itself in it.
    options = {"whitespace_flexible": False}
    try:
        return str(llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=options))
    except (ValueError, RecursionError):
        raise unsatisfiable("the schema holds a number of more than 64 bits, or is nested too deeply") from None


def _regex(pattern: str) -> str:
    return str(llguidance.LLMatcher.grammar_from_regex(pattern))


def _lark(start: str, *rules: str) -> str:
    return str(llguidance.LLMatcher.grammar_from_lark("\n".join([f"start: {start}", *rules])))


def _one_of(texts: Iterable[str], tokenize: Tokenize) -> str:
    return " | ".join(" ".join(f"<[{token}]>" for token in tokenize(text)) for text in texts)


def _labelled(words: Sequence[str], labels: Iterable[str], tokenize: Tokenize) -> str:
    """`word/LABEL word/LABEL …`, with single spaces. As a grammar of short literals: one regular expression over all
    words takes seconds for a long text."""
    if not words:
        raise unsatisfiable("there are no words to label")
    fixed = (_literal(f"{' ' if i else ''}{word}/") for i, word in enumerate(words))
    return _lark(" ".join(f"{text} label" for text in fixed), f"label: {_one_of(labels, tokenize)}")


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
