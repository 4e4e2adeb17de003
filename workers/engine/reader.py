"""What a new token means for its row: whether the row ends, and with which text."""

from __future__ import annotations

from collections.abc import Collection

from transformers import PreTrainedTokenizerBase

from guideway.schemas.reply import FinishReason
from guideway.workers.engine.row import Row
from guideway.workers.messages import Generated

_SLACK_TOKENS = 8
"""A few more tokens than the stop string can span, for special tokens and characters cut in the middle."""


class Reader:
    """Reads tokens into rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._eos_ids = frozenset(eos_ids)

    def read(self, row: Row, token_id: int) -> None:
        """Give `row` its next token; sets `row.generated` if it was the last.

        Raises: Refusal `output_unsatisfiable` if the row's grammar cannot be followed any further.
        """
        if token_id in self._eos_ids:
            row.generated = self._ended(row, "stop")
            return
        row.token_ids.append(token_id)
        if row.grammar is not None:
            row.grammar.accept(token_id)
        if row.generation.stop and self._is_stopped(row):
            row.generated = self._cut(row)
        elif row.grammar is not None and row.grammar.is_ended:
            # The end token could only confirm it: a step saved.
            row.generated = self._ended(row, "stop")
        elif len(row.token_ids) >= row.generation.max_tokens:
            row.generated = self._ended(row, "length")

    def _ended(self, row: Row, reason: FinishReason) -> Generated:
        complete = row.grammar is None or row.grammar.is_complete
        return Generated(text=self._text(row), finish_reason=reason, complete=complete, likelihood=row.likelihood)

    def _is_stopped(self, row: Row) -> bool:
        """Whether a stop string now stands at the end of the text or in it: none stood there a token ago."""
        reach = max(len(stop.encode()) for stop in row.generation.stop) + _SLACK_TOKENS
        tail = self._decode(row.token_ids[-reach:])
        return any(stop in tail for stop in row.generation.stop)

    def _cut(self, row: Row) -> Generated:
        whole = self._text(row)
        text = whole[: min(at for stop in row.generation.stop if (at := whole.find(stop)) >= 0)]
        complete = row.grammar is None or row.grammar.derives(text)
        return Generated(text=text, finish_reason="stop", complete=complete, likelihood=row.likelihood)

    def _text(self, row: Row) -> str:
        return self._decode(row.token_ids) if row.grammar is None else row.grammar.text(row.token_ids)

    def _decode(self, token_ids: list[int]) -> str:
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)
