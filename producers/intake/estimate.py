"""About how many tokens a request will take in and generate, before any model has seen it. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.schemas.request import Request

_BYTES_A_TOKEN: Final = 4
"""Of English with today's tokenizers; other languages have fewer."""
_BOOLEAN_TOKENS: Final = 4
_NUMBER_TOKENS: Final = 16
_WORD_TOKENS: Final = 4
"""A word, its label and what stands between."""


def tokens_of(request: Request) -> int:
    """Tokens of the text and of all samples. What is generated is the most that the output rule allows, and what is
    written to see how probable labels are.

    Passages that the worker will put in are not counted, and nothing is corrected when the reply is there.
    """
    text = sum(len(part.text.encode()) for part in request.parts)
    longest = min(request.generation.max_tokens, _longest(request))
    return _tokens(text) + request.generation.samples * (longest + _weighed(request.output))


def _longest(request: Request) -> int:
    output = request.output
    match output:
        case Boolean():
            return _BOOLEAN_TOKENS
        case Choice(labels=labels):
            return max(map(_label_tokens, labels))
        case Number():
            return _NUMBER_TOKENS
        case WordLabels():
            return _WORD_TOKENS * len(request.words)
        case Text() | Json() | Regex():
            return request.generation.max_tokens


def _weighed(output: OutputRule) -> int:
    """Tokens of the labels among which the model has to look around, where their probabilities are told.

    Those that begin like no other one are told apart before anything is written.
    """
    if not isinstance(output, Choice) or not output.probabilities:
        return 0
    begin = Counter(label.encode()[0] for label in output.labels)
    return sum(_label_tokens(label) for label in output.labels if begin[label.encode()[0]] > 1)


def _label_tokens(label: str) -> int:
    return 1 + _tokens(len(label.encode()))


def _tokens(count: int) -> int:
    return -(-count // _BYTES_A_TOKEN)
