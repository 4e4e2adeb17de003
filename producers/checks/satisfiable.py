"""Checks that the workers' grammar library accepts an output rule, if the library is installed."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final, assert_never

from guideway.schemas.json_schema.keywords import parts, prepared
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels

_REASON_CHARS: Final = 300
_MOST_PARTS: Final = 200
"""So many parts of a schema are tried alone."""
_ANY: Final = ('"kq"', "17", "[17]", '{"kq":17}', "true", "null")
"""Values of each type that hardly any rule names."""
_MEANT: Final = (
    (r"oneOf constraints are not supported.*", "one value may hold in several alternatives of `oneOf`: write `anyOf`"),
    (
        r"Resource '(?:json-schema:///)?(.*?)' is not present.*",
        r"\1 is outside of it: write what is meant under `$defs`",
    ),
)
"""Reasons of the library that advise what nobody can do here, and what to do."""


def always(_source: str) -> bool:
    """For `check_satisfiable`, where nobody waits for it but who has written the rule."""
    return True


def check_satisfiable(rule: OutputRule, compiles: Callable[[str], bool] = always) -> None:
    """Raises ValueError, with the library's reason in one line.

    compiles: of `GrammarTrial`; some rules take the library hours. Does nothing if the library is not installed: it
    comes with guideway[worker]. Workers check again.
    """
    try:
        # Imported late: a producer needs no grammars, and `guideway send` must start fast.
        from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    except ImportError:
        return
    match rule:
        case Json(schema):
            made = prepared(schema)
            source, what = LLMatcher.grammar_from_json_schema(made), "output.schema"
        case Regex(pattern):
            source, what = LLMatcher.grammar_from_regex(pattern), "output.pattern"
        case Text() | Choice() | Boolean() | Number() | WordLabels():
            return
        case _:
            assert_never(rule)

    def refused(source: str) -> str:
        # Otherwise the reason quotes the grammar as well.
        reason = " ".join(LLMatcher.validate_grammar(source, limits=LLParserLimits(verbose_errors=False)).split())
        for theirs, meant in _MEANT:
            reason = re.sub(theirs, meant, reason)
        return reason[:_REASON_CHARS]

    if not compiles(str(source)):
        raise ValueError(
            f"{what}: it takes too long, or too much memory, to find out what it allows: make it simpler, with fewer "
            "patterns for one text"
        )
    if reason := refused(source):
        if isinstance(rule, Json):
            where, reason = _innermost(rule.schema, reason, refused, compiles)
            what += where
        raise ValueError(f"{what} cannot be satisfied ({reason}): change it")
    matcher = LLMatcher(LLTokenizer("byte"), source, log_level=0)
    matcher.compute_bitmask()
    if "NoExtensionBias" in matcher.get_error() and not matcher.is_accepting():
        raise ValueError(f"{what} cannot be satisfied (no text matches it): change it")
    if isinstance(rule, Json) and all(_takes(matcher, text) for text in _ANY):
        raise ValueError(f"{what} says nothing, so that any JSON would be a result: give it `type` or more")
    if isinstance(rule, Json) and (whole := _with_all_properties(made)) is not None:
        reason = refused(LLMatcher.grammar_from_json_schema(whole))
        if reason.startswith("Unsatisfiable schema: "):
            reason = reason.removeprefix("Unsatisfiable schema: ").replace("required property", "property")
            raise ValueError(f"{what} has a property that is never written, as no value fits ({reason}): change it")


def _takes(matcher: Any, text: str) -> bool:
    matcher.reset()
    return bool(matcher.try_consume_tokens([*text.encode()]) == len(text) and matcher.is_accepting())


def _innermost(
    schema: Mapping[str, Any], reason: str, refused: Callable[[str], str], compiles: Callable[[str], bool]
) -> tuple[str, str]:
    """(place, reason) of the innermost part of a refused schema that the library refuses alone as well."""
    from llguidance import LLMatcher

    shared = {keyword: schema[keyword] for keyword in ("$defs", "definitions") if keyword in schema}
    found = ""
    for where, part, _ in islice(parts(schema), 1, _MOST_PARTS):
        if found and not where.startswith((f"{found}.", f"{found}[")):
            continue
        # Prepared part by part: it gives parts of its own to some, whose places nobody knows.
        alone = LLMatcher.grammar_from_json_schema(prepared({**shared, **part}))
        if not compiles(str(alone)):
            break
        if why := refused(alone):
            found, reason = where, why
    return found, reason


def _with_all_properties(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema with all properties required that may have a value; None where some exclude others.

    The library leaves out an optional property without a word if its schema contradicts itself.
    """
    made = copy.deepcopy({**schema})
    for _, part, joined in parts(made):
        if part.keys() & {"maxProperties", "oneOf", "allOf"} or (joined and "properties" in part):
            return None
        if isinstance(named := part.get("properties"), dict) and isinstance(part, dict):
            part["required"] = sorted({*part.get("required", []), *(one for one in named if named[one] is not False)})
    return made
