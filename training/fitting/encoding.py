"""Examples as tokens: the text that serving builds for an event, followed by the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import OutputRule, WordLabels
from guideway.schemas.request import Part
from guideway.training.data.examples import Example
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.text.grammars import Grammars
from guideway.workers.engine.text.prompt import PromptLayout, chat_end_ids

_ROWS_SHOWN: Final = 20


@dataclass(frozen=True)
class Encoded:
    """One example in tokens."""

    ids: list[int]
    """The prompt, the answer, the end."""
    answer: int
    """How many of the last ids are the answer and the end."""
    weight: float = 1.0
    """The weight of the row in the loss."""


class Encoder:
    """Encodes the rows of one task for one model. It refuses rows that training or serving could not use."""

    def __init__(
        self, base: BaseModel, *, instruction: str, output: OutputRule, max_tokens: int, answer_tokens: int
    ) -> None:
        """max_tokens: the longest row that serving takes, with answer and virtual tokens.
        answer_tokens: the longest answer that serving gives, without its end. Every row needs so much room.
        """
        self._answer_tokens = answer_tokens
        self._base = base
        self._instruction = instruction
        self._output = output
        self._max_tokens = min(max_tokens, base.context_tokens)
        self._layout = PromptLayout(base.tokenizer)
        vocabulary = base.model.get_output_embeddings().weight.shape[0]
        self._grammars = Grammars(base.tokenizer, vocabulary=vocabulary, eos_ids=base.eos_ids, layout=self._layout)
        ends: list[int] = [*chat_end_ids(base.tokenizer), base.tokenizer.eos_token_id]
        self._end = ends[0]
        """The tokens that end the assistant's message in the chat template, if there is one."""

    def encode(self, rows: Sequence[Example], *, virtual_tokens: int = 0) -> list[Encoded]:
        """The rows in tokens. Raises: Refusal `invalid_data` for answers that serving cannot give, or rows too long."""
        encoded: list[Encoded] = []
        refused: list[tuple[int, Refusal]] = []
        for row in rows:
            try:
                encoded.append(self._encode(row, virtual_tokens))
            except Refusal as refusal:
                refused.append((row.number, refusal))
        if refused:
            (_, first), *others = refused
            numbers = ", ".join(str(number) for number, _ in others[:_ROWS_SHOWN])
            more = f"; similar: {len(others)} more ({numbers}{', …' if len(others) > _ROWS_SHOWN else ''})"
            raise Refusal(first.code, first.message + (more if others else ""))
        return encoded

    def _encode(self, row: Example, virtual_tokens: int) -> Encoded:
        parts = [*row.context, Part(kind="input", source="caller", text=row.text)]
        if self._instruction:
            parts.insert(0, Part(kind="instruction", source="endpoint", text=self._instruction))
        prompt = self._layout.encode(parts).token_ids
        answer = self._answer_ids(row)
        if (excess := len(answer) - 1 - self._answer_tokens) > 0:
            raise Refusal(
                FailureCode.INVALID_DATA,
                f"row {row.number}: its answer is {excess} tokens longer than the {self._answer_tokens} of the task's "
                "generation.max_tokens, so that serving could never give it: raise that, or shorten the answer",
            )
        longest = max(len(answer), self._answer_tokens)
        if (excess := len(prompt) + longest + virtual_tokens - self._max_tokens) > 0:
            raise Refusal(
                FailureCode.INVALID_DATA,
                f"row {row.number} is {excess} tokens longer than the {self._max_tokens} that the model size takes, "
                f"{virtual_tokens} virtual tokens and room for {longest} of an answer included: shorten it, remove it, "
                "or lower the task's generation.max_tokens",
            )
        return Encoded([*prompt, *answer], len(answer))

    def _answer_ids(self, row: Example) -> list[int]:
        words = row.text.split() if isinstance(self._output, WordLabels) else []
        grammar = self._grammars.start(self._output, words)
        ids = self._layout.answer_ids(row.answer) if grammar is None else grammar.ids(row.answer)
        if ids is None:
            raise Refusal(
                FailureCode.INVALID_DATA,
                f"row {row.number}: its answer is not of the task's output type, so that serving could never give it: "
                "correct it, or the task's output",
            )
        return [*ids, self._end]
