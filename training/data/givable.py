"""Whether the grammar of an output rule could write an example's answer: asked before any model is loaded. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, assert_never

import msgspec

from guideway.schemas.json_schema.keywords import prepared
from guideway.schemas.output import GRAMMAR_OPTIONS, Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels

_SHOWN: Final = 30


def check_givable(answer: str, text: str, rule: OutputRule) -> None:
    """Raises ValueError, which says what to change, for an answer that serving could never give to this text.

    answer: as `spelled`. It says nothing of JSON and patterns where the grammar library is not installed, or does not
    compile them at once; training asks again with the model.
    """
    match rule:
        case Text() | Choice() | Boolean() | Number():
            return
        case WordLabels(labels):
            _check_words(answer, text.split(), labels)
        case Json() | Regex():
            matcher = _matcher(msgspec.json.encode(rule))
            if matcher is not None:
                _check_written(answer, matcher)
        case _:
            assert_never(rule)


def _check_words(answer: str, words: list[str], labels: list[str]) -> None:
    pairs = answer.split(" ")
    for number, (word, pair) in enumerate(zip(words, pairs, strict=False), 1):
        if not pair.startswith(f"{word}/"):
            raise ValueError(
                f"word {number} of its text is {word!r:.40}, and its answer has {pair!r:.40} there: label each word of "
                "the text, in order"
            )
        if pair.removeprefix(f"{word}/") not in labels:
            raise ValueError(f"{pair!r:.60} has none of the task's labels: correct it, or the task's labels")
    if len(words) != len(pairs):
        raise ValueError(f"its text has {len(words)} words, and its answer labels {len(pairs)}: label each one")


def _check_written(answer: str, matcher: Any) -> None:
    data = answer.encode()
    matcher.reset()
    taken = matcher.try_consume_tokens([*data])
    if taken == len(data) and matcher.is_accepting():
        return
    begins = data[:taken].decode(errors="ignore")
    where = f"from {data[taken:].decode(errors='replace')[:_SHOWN]!r} on, behind {begins[-_SHOWN:]!r}"
    raise ValueError(
        "its answer is not of the task's output type, so that serving could never give it: "
        f"{where if taken < len(data) else 'it ends too early'}; correct it, or the task's output"
    )


@lru_cache(maxsize=8)
def _matcher(rule: bytes) -> Any:
    """The grammar of bytes of a JSON Schema or a pattern, as workers have it; None where it cannot be had at once."""
    try:
        # Imported late: who only asks for a task needs no grammars.
        from llguidance import LLMatcher, LLParserLimits, LLTokenizer

        from guideway.workers.engine.text.grammar_trial import grammar_trial
    except ImportError:
        return None
    match msgspec.json.decode(rule, type=OutputRule):
        case Json(schema):
            own = prepared({key: content for key, content in schema.items() if key != GRAMMAR_OPTIONS})
            source = LLMatcher.grammar_from_json_schema(own, overrides={"whitespace_flexible": False})
        case Regex(pattern):
            source = LLMatcher.grammar_from_regex(pattern)
        case _:
            return None
    if not grammar_trial().compiles(str(source)):
        return None
    matcher = LLMatcher(LLTokenizer("byte"), source, log_level=0, limits=LLParserLimits(verbose_errors=False))
    return None if matcher.is_error() else matcher
