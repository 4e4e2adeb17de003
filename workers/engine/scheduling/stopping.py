"""A row gets a new token: whether it ends, and with which text. Then the answer of a request whose rows have ended."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence

import msgspec
from transformers import PreTrainedTokenizerBase

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Regex, Text
from guideway.schemas.reply import FinishReason
from guideway.workers.engine.faults import unsatisfiable
from guideway.workers.engine.likelihood.label_walk import LabelWalk, Move
from guideway.workers.engine.scheduling.chunks import tokens_of_a_step
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.text.incomplete import ENDED, ran_out, stopped
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished, Generated, SampleFailure, TextToken

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

    def begin(self, row: Row, rows: int) -> int:
        """Give `row`, which has no token yet, those that it begins with in any case. Returns how many these are, and
        raises, as `accept` does. rows: as for `accept_all`.
        """
        if row.walk is None:
            given = self._follow(row)
            row.draft = self._draft(row, rows)
            return given
        if row.sampler.draws:
            return self._go_on(row, row.walk, self._follow(row))
        return 0 if row.walk.awaits(row.token_ids) else self._walk(row, row.walk)

    def accept_all(self, row: Row, token_ids: Sequence[int], rows: int) -> tuple[int, int]:
        """Give `row` the tokens that a step chose for it: the next one, and those after the tokens of its draft.

        Returns how many of them it got, and how many came in any case. Raises: as `accept`. rows: how many share a
        step.
        """
        row.draft = ()
        chosen = forced = 0
        begun = row.total_tokens
        for at, token_id in enumerate(token_ids, begun):
            if row.generated is not None:
                break
            # What has come in any case was chosen as well, as far as the step went: the masks allowed nothing else.
            if at == row.total_tokens:
                forced += self.accept(row, token_id)
                chosen += 1
            else:
                assert row.token_ids[at - row.prompt_tokens] == token_id, "what is forced is what a mask allows"
        # Then more of the draft may be in the cache than the row has got; its last token is always taken in again.
        row.cached_tokens = min(row.cached_tokens, row.total_tokens - 1)
        row.draft = self._draft(row, rows)
        return chosen, forced

    def accept(self, row: Row, token_id: int) -> int:
        """Give `row` its next token, and those that then come in any case; sets `row.generated` if it has the last one.

        Returns how many tokens it got besides `token_id`, for which the model is not asked. It takes them in with the
        next step, all at once.

        Raises: Refusal `output_unsatisfiable` if the row's grammar cannot be followed any further;
        `output_incomplete` or `output_unreadable` if its JSON grows without an end.
        """
        if row.walk is None:
            self._write(row, token_id)
            return self._follow(row)
        if row.walk.awaits(row.token_ids):
            raise unsatisfiable("a label holds a token that ends a text: rename it")
        if row.sampler.draws and row.walk.drawn is None:
            self._write(row, token_id)
            return self._go_on(row, row.walk, self._follow(row))
        # The first move takes the place of the token, which nobody reads.
        return self._walk(row, row.walk) - 1

    def _go_on(self, row: Row, walk: LabelWalk, given: int) -> int:
        """Let the walk go on if the row's text is drawn. Returns how many tokens it then got, `given` before."""
        if row.generated is None or row.generated.failure is not None:
            return given
        walk.drawn, row.generated = row.generated, None
        return given + self._walk(row, walk)

    def _follow(self, row: Row) -> int:
        """Give the row what its grammar leaves no choice about, as if it were chosen token by token."""
        given = 0
        # Whoever asks how likely a text is, is told of all its tokens: then the model is asked for each.
        while row.generated is None and row.grammar is not None and not row.admit.logprobs:
            if not (run := row.grammar.forced):
                break
            for token_id in run:
                if row.generated is None:
                    self._write(row, token_id)
                    given += 1
        return given

    def _draft(self, row: Row, rows: int) -> Sequence[int]:
        """What the row probably writes next, with room for one more token; empty where each token is asked for."""
        if row.generated is not None or row.grammar is None or row.walk is not None:
            return ()
        if row.admit.logprobs or row.admit.partings:
            return ()
        draft = row.grammar.draft(tokens_of_a_step(rows))
        return draft if len(draft) < row.most_left else ()

    def _write(self, row: Row, token_id: int) -> None:
        if token_id in self._eos_ids:
            whole = row.grammar is None or row.grammar.is_complete
            row.generated = _generated(row, self._text(row), "stop", "" if whole else ENDED, self._tokens(row))
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
            row.generated = _generated(row, text, "length", cut, self._tokens(row))

    def _walk(self, row: Row, walk: LabelWalk) -> int:
        """Let the row see the next place where labels part; sets `row.generated` if it has seen all. Returns how many
        tokens it has written for that, at least 1 so that the end counts as one.
        """
        moves = 0
        while (move := walk.next(row.token_ids)) is not None:
            self._move(row, move)
            moves += 1
            if walk.awaits(row.token_ids):
                return moves
        told = walk.probabilities
        text = walk.drawn or _generated(row, next(iter(told)), "stop")
        row.token_ids = [*walk.ids[text.text]]
        row.generated = msgspec.structs.replace(text, probabilities=told)
        return max(1, moves)

    def _move(self, row: Row, move: Move) -> None:
        assert row.grammar is not None, "labels have a grammar"
        if move.kept < len(row.token_ids):
            row.taken_back += len(row.token_ids) - move.kept
            del row.token_ids[move.kept :]
            row.grammar.restart()
            for id_ in row.token_ids:
                row.grammar.accept(id_)
        # Where the place is seen again after its last token, that one is taken in again.
        row.cached_tokens = min(row.cached_tokens, row.total_tokens)
        row.token_ids.append(move.token)
        row.grammar.accept(move.token)

    def _is_first_space_dropped(self) -> bool:
        """Whether the tokenizer begins every text with a space that is no part of it, as SentencePiece may."""
        tokens = self._tokenizer.encode(" a", add_special_tokens=False)
        decoded = str(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
        return self._bytes_of(tokens) == f" {decoded}".encode()

    def _is_stopped(self, row: Row) -> bool:
        """Whether the last token has completed a stop string, at the end of the text or with more behind it."""
        reach = max(len(stop.encode()) for stop in row.generation.stop) + _SLACK_TOKENS
        tail = self.bytes_from(row, max(0, len(row.token_ids) - reach))
        return any(stop.encode() in tail for stop in row.generation.stop)

    def _cut(self, row: Row) -> Generated:
        whole = self.bytes_from(row)
        found = [(at, stop) for stop in row.generation.stop if (at := whole.find(stop.encode())) >= 0]
        at, stop = min(found, key=lambda place: place[0])
        text = _whole_characters(whole[:at])
        if row.grammar is None or (isinstance(row.request.output, Regex) and row.grammar.derives(text)):
            return _generated(row, text, "stop", tokens=self._tokens(row, len(text)))
        # The beginning of a label, a number or JSON is another value than the one that the model had begun.
        return _generated(row, text, "stop", stopped(stop))

    def _text(self, row: Row) -> str:
        return _whole_characters(self.bytes_from(row)) if row.grammar is None else row.grammar.text(row.token_ids)

    def _tokens(self, row: Row, chars: int | None = None) -> list[TextToken] | None:
        """The row's tokens with their parts of its text, if it tells them; those of its first `chars` characters."""
        rule = row.request.output
        if not isinstance(rule, Text) or rule.logprobs is None:
            return None
        characters = codecs.getincrementaldecoder("utf-8")("replace")
        lead, left = self._free_lead, chars
        found: list[TextToken] = []
        # The end token is told as well, and has no text.
        for id_, told in zip(row.token_ids, row.told, strict=False):
            if left == 0:
                break
            data = b"" if id_ in self._special_ids else self._bytes_of([id_])
            if data:
                data, lead = data.removeprefix(lead), b""
            part = characters.decode(data)[:left]
            left = None if left is None else left - len(part)
            top = [(self._bytes_of([other]).decode(errors="replace"), log) for other, log in told.top]
            found.append(TextToken(text=part, logprob=told.logprob, top=top))
        return found

    def bytes_from(self, row: Row, start: int = 0) -> bytes:
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


def _generated(
    row: Row, text: str, reason: FinishReason, incomplete: str = "", tokens: list[TextToken] | None = None
) -> Generated:
    """incomplete: why the text is not a whole word of the row's grammar, or may have been meant to go on."""
    failure = SampleFailure(code=FailureCode.OUTPUT_INCOMPLETE, message=incomplete) if incomplete else None
    return Generated(
        text=text,
        finish_reason=reason,
        failure=failure,
        logprobs=row.logprobs,
        partings=row.partings,
        tokens=tokens,
    )


def _whole_characters(data: bytes) -> str:
    """The text, without a character at its end that was cut."""
    # Told that more may come, the decoder keeps back what is not a whole character yet.
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)
