"""What it costs to choose tokens: sampling, grammars, forced tokens."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from benchmarks.engine_rows import admit, new_engine
from benchmarks.figures import Figure, Run, in_turns, log, now, ratio

from guideway.schemas.generation import Generation
from guideway.schemas.output import Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.workers.engine.engine import Engine
from guideway.workers.messages.to_engine import Admit

if TYPE_CHECKING:
    from benchmarks.engine import Bench

PERSON: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "maximum": 120},
        "kind": {"enum": ["cat", "dog", "mouse"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
TEXTS: Final = {"type": "array", "items": {"type": "string", "minLength": 200, "maxLength": 300}, "minItems": 2}
SENTENCE: Final = ["The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "today"]
STEADY: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "temperature": {"temperature": 0.8},
    "top-p": {"temperature": 0.8, "top_p": 0.9},
    "top-p, hot": {"temperature": 1.5, "top_p": 0.95},
    "number": {"output": Number(decimals=9)},
    "regex": {"output": Regex("[a-z]{300}")},
    "JSON": {"output": Json(TEXTS)},
    "JSON, drawn": {"output": Json(TEXTS), "temperature": 0.8},
}
"""Kinds whose rows choose at every step. Each is compared with plain rows."""
CHOICES: Final = {
    "type": "object",
    "properties": {
        "sentiment": {"enum": ["positive", "negative"]},
        "language": {"enum": ["English", "French", "German"]},
        "urgent": {"type": "boolean"},
    },
    "required": ["sentiment", "language", "urgent"],
    "additionalProperties": False,
}
FORCED: Final[dict[str, dict[str, Any]]] = {
    "words with labels": {"output": WordLabels(["noun", "verb", "adjective", "other"]), "words": SENTENCE},
    "JSON of three choices": {"output": Json(CHOICES)},
    "JSON with a free name": {"output": Json(PERSON)},
}
"""Kinds much of whose text is forced."""
_FOR_ALL: Final = 3
"""Steps at the start and at the end in which not all rows decode."""


def asked(
    text: str,
    rows: int,
    max_tokens: int,
    *,
    output: OutputRule | None = None,
    words: Sequence[str] = (),
    prefix: str = "",
    namespace: str = "bench",
    **generation: Any,
) -> list[Admit]:
    """Requests of one kind; each draws by its own id."""
    found = []
    for number in range(rows):
        one = admit(f"{prefix}{number}", text, max_tokens)
        changed = msgspec.structs.replace(
            one.request,
            namespace=namespace,
            output=output or Text(),
            words=[*words],
            generation=Generation(max_tokens=max_tokens, **generation),
        )
        found.append(msgspec.structs.replace(one, request=changed))
    return found


def step_s(engine: Engine, rows: Sequence[Admit]) -> float:
    """Median time of a step in which all of these rows choose a token, seconds."""
    for row in rows:
        engine.add(row)
    times: list[float] = []
    while engine.has_work:
        before = engine._statistics.output_tokens
        began = now()
        engine.step(time.time())
        took = now() - began
        if engine._statistics.output_tokens - before == len(rows):
            times.append(took)
    # The first of them took in the prompts.
    return statistics.median(times[_FOR_ALL:])


def steps_a_token(engine: Engine, row: Admit) -> float:
    """Steps of the model for each token of one row's text."""
    steps, tokens = engine._statistics.steps, engine._statistics.output_tokens
    engine.add(row)
    while engine.has_work:
        engine.step(time.time())
    return (engine._statistics.steps - steps) / (engine._statistics.output_tokens - tokens)


def choosing_group(bench: Bench) -> list[Figure]:
    """What sampling and grammars add to a step, and how many steps a text with forced tokens takes."""
    engine, tokens = new_engine(bench.load(), max_rows=bench.rows), 4 * bench.new_tokens

    def run(kind: dict[str, Any]) -> Run:
        return lambda: step_s(engine, asked(bench.text, bench.rows, tokens, **kind))

    found = in_turns({name: run(kind) for name, kind in STEADY.items()}, bench.turns, log)
    figures = [Figure(f"a step of plain rows, {bench.rows} rows", 1000 * statistics.median(found["plain"]), "ms")]
    for name in [*STEADY][1:]:
        figures.append(Figure(f"a step with {name} against plain", ratio(found, name, "plain"), "ratio"))
    for name, kind in FORCED.items():
        (row,) = asked(bench.text, 1, 200, **kind)
        figures.append(Figure(f"{name}: steps for each token", steps_a_token(engine, row), "ratio"))
    return figures
