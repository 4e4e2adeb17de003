"""About how many tokens a request will take."""

from __future__ import annotations

import pytest

from guideway.producers.intake.estimate import tokens_of
from guideway.schemas.generation import Generation
from guideway.schemas.output import Boolean, Choice, Number, OutputRule, Text, WordLabels
from guideway.schemas.request import Part, ReplyAddress, Request


@pytest.mark.parametrize(
    ("output", "generation", "tokens"),
    [
        (Text(), Generation(max_tokens=100), 25 + 100),
        (Text(), Generation(max_tokens=100, samples=3), 25 + 300),
        (Boolean(), Generation(), 25 + 4),
        (Boolean(), Generation(max_tokens=2), 25 + 2),
        (Choice(labels=["a", "positively"]), Generation(), 25 + 4),
        (Choice(labels=["a", "positively"], probabilities=True), Generation(), 25 + 4),
        (Choice(labels=["a", "b1", "b2345"], probabilities=True), Generation(samples=2), 25 + 2 * (3 + 2 + 3)),
        (Number(), Generation(), 25 + 16),
        (WordLabels(labels=["N"]), Generation(), 25 + 8),
    ],
)
def test_the_text_and_the_longest_answer_count(output: OutputRule, generation: Generation, tokens: int) -> None:
    request = Request(
        id="1",
        namespace="a",
        endpoint="b",
        endpoint_version=1,
        parts=[
            Part(kind="instruction", source="endpoint", text="x" * 40),
            Part(kind="input", source="caller", text="ß" * 30),
        ],
        guidance=[],
        output=output,
        words=["two", "words"],
        generation=generation,
        reply_to=[ReplyAddress(topic="gw.a.b.out.v1")],
        deadline_ms=None,
    )
    assert tokens_of(request) == tokens
