"""Checks that the workers' grammar library accepts an output rule, if the library is installed."""

from __future__ import annotations

from typing import Final, assert_never

from guideway.schemas.json_schema.keywords import prepared
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels

_REASON_CHARS: Final = 300


def check_satisfiable(rule: OutputRule) -> None:
    """Raises ValueError, with the library's reason in one line.

    Does nothing if the library is not installed: it comes with guideway[worker]. Workers check again.
    """
    try:
        # Imported late: a producer needs no grammars, and `guideway send` must start fast.
        from llguidance import LLMatcher, LLParserLimits
    except ImportError:
        return
    match rule:
        case Json(schema):
            source, what = LLMatcher.grammar_from_json_schema(prepared(schema)), "output.schema"
        case Regex(pattern):
            source, what = LLMatcher.grammar_from_regex(pattern), "output.pattern"
        case Text() | Choice() | Boolean() | Number() | WordLabels():
            return
        case _:
            assert_never(rule)
    # Otherwise the reason quotes the grammar as well.
    if reason := LLMatcher.validate_grammar(source, limits=LLParserLimits(verbose_errors=False)):
        raise ValueError(f"{what} cannot be satisfied ({' '.join(reason.split())[:_REASON_CHARS]}): change it")
