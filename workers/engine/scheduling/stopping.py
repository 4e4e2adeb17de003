"""A row gets a new token: whether it ends, and with which text. Then the answer of a request whose rows have ended."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence

from transformers import PreTrainedTokenizerBase

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Regex
from guideway.schemas.reply import FinishReason
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.text.incomplete import ENDED, ran_out, stopped
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished, Generated, SampleFailure

_SLACK_TOKENS = 8
"""Looked at beyond the tokens that a stop string can span, because special tokens have no text."""


class Stopping:
    """Gives rows their tokens, and decides which rows end with them. It keeps nothing of a row."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: Collection[int],
        bytes_of: Callable[[Sequence[int]], bytes],
        *,
        lead: str = "",
    ) -> None:
        """eos_ids: the tokens that end a text. bytes_of: the bytes of tokens; a tokenizer's own decoding loses runs of
        tokens where one of them cuts a character. lead: white space before a text of a grammar, no part of it.
        """
        self._tokenizer = tokenizer
        self._eos_ids = frozenset(eos_ids)
        self._bytes_of = bytes_of
        self._special_ids = frozenset(id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special)
        self._lead = lead.encode()
        self._free_lead = b" " if self._is_first_space_dropped() else b""

    def accept(self, row: Row, token_id: int) -> None:
        """Give `row` its next token; sets `row.generated` if it was the last.

        Raises: Refusal `output_unsatisfiable` if the row's grammar cannot be followed any further;
        `output_incomplete` or `output_unreadable` if its JSON grows without an end.
        """
        if token_id in self._eos_ids:
            whole = row.grammar is None or row.grammar.is_complete
            row.generated = _generated(row, self._text(row), "stop", "" if whole else ENDED)
            return
        row.token_ids.append(token_id)
        if row.grammar is not None:
            row.grammar.accept(token_id)
        if row.generation.stop and self._is_stopped(row):
            row.generated = self._cut(row)
        elif row.grammar is not None and row.grammar.is_ended:
            # Only the end token could come next: not to ask for it saves a step.
            row.generated = _generated(row, self._text(row), "stop")
        elif len(row.token_ids) >= row.generation.max_tokens:
            # Where the grammar allows more, the model may have meant more: 12 of 125, New of New York.
            text = self._text(row)
            cut = "" if row.grammar is None else ran_out(text, row.request.output, row.generation.max_tokens)
            row.generated = _generated(row, text, "length", cut)

    def _is_first_space_dropped(self) -> bool:
        """Whether the tokenizer begins every text with a space that is no part of it, as SentencePiece may."""
        tokens = self._tokenizer.encode(" a", add_special_tokens=False)
        decoded = str(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
        return self._bytes_of(tokens) == f" {decoded}".encode()

    def _is_stopped(self, row: Row) -> bool:
        """Whether the last token has completed a stop string, at the end of the text or with more behind it."""
        reach = max(len(stop.encode()) for stop in row.generation.stop) + _SLACK_TOKENS
        tail = self._bytes(row, max(0, len(row.token_ids) - reach))
        return any(stop.encode() in tail for stop in row.generation.stop)

    def _cut(self, row: Row) -> Generated:
        whole = self._bytes(row)
        found = [(at, stop) for stop in row.generation.stop if (at := whole.find(stop.encode())) >= 0]
        at, stop = min(found, key=lambda place: place[0])
        text = _whole_characters(whole[:at])
        if row.grammar is None or (isinstance(row.request.output, Regex) and row.grammar.derives(text)):
            return _generated(row, text, "stop")
        # The beginning of a label, a number or JSON is another value than the one that the model had begun.
        return _generated(row, text, "stop", stopped(stop))

    def _text(self, row: Row) -> str:
        return _whole_characters(self._bytes(row)) if row.grammar is None else row.grammar.text(row.token_ids)

    def _bytes(self, row: Row, start: int = 0) -> bytes:
        """The text from the token at `start` on."""
        data = self._bytes_of([id_ for id_ in row.token_ids[start:] if id_ not in self._special_ids])
        if start > 0:
            return data
        return data.removeprefix(self._free_lead if row.grammar is None else self._lead)


def failed(refusal: Refusal) -> Generated:
    """The result of a sample that could not be run to its end."""
    failure = SampleFailure(code=refusal.code, message=refusal.message)
    return Generated(text="", finish_reason="stop", failure=failure)


def told(id_: str, rows: Sequence[Row]) -> Finished | Refused:
    """The answer of a request whose `rows` have all ended, by its attempt's id; Refused if none of them got a text."""
    samples = [row.generated for row in rows if row.generated is not None]
    failures = [one.failure for one in samples if one.failure is not None]
    if len(failures) == len(rows) and all(one.code is not FailureCode.OUTPUT_INCOMPLETE for one in failures):
        return Refused(id=id_, code=failures[0].code, message=failures[0].message)
    output_tokens = sum(len(row.token_ids) for row in rows)
    return Finished(id=id_, samples=samples, prompt_tokens=rows[0].prompt_tokens, output_tokens=output_tokens)


def _generated(row: Row, text: str, reason: FinishReason, incomplete: str = "") -> Generated:
    """incomplete: why the text is not a whole word of the row's grammar, or may have been meant to go on."""
    failure = SampleFailure(code=FailureCode.OUTPUT_INCOMPLETE, message=incomplete) if incomplete else None
    return Generated(text=text, finish_reason=reason, failure=failure, logprobs=row.logprobs, partings=row.partings)


def _whole_characters(data: bytes) -> str:
    """The text, without a character at its end that was cut."""
    # Told that more may come, the decoder keeps back what is not a whole character yet.
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)
