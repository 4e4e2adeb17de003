"""How long rows that decode wait for their next token while something long comes in."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks.choosing.kinds import PERSON, asked
from benchmarks.engine_rows import new_engine
from benchmarks.figures import Figure, Run, in_turns, log, quantile, ratio

from guideway.schemas.output import Choice, Json, OutputRule, Text
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine_process import prepare_process
from guideway.workers.messages.to_engine import Admit

if TYPE_CHECKING:
    from benchmarks.engine import Bench

CONTEXT_TOKENS = 8192
_NOT_YET = 3
"""Steps at the start in which not all rows decode."""


def arrivals(base: BaseModel) -> dict[str, list[Admit]]:
    """What comes in while others decode, by name: three of each, each once, since grammars are kept."""
    vocabulary = base.tokenizer.get_vocab()
    words = sorted({token[1:] for token in vocabulary if token[1:].isalpha() and token[1:].islower()})
    labels = [f"{first} {second}" for first, second in zip(words[:5600], words[5600:11_200], strict=True)]
    schema = {"type": "array", "items": PERSON, "minItems": 1, "maxItems": 5000}
    return {
        "nothing": [],
        "a short question": three("short", lambda _: Text()),
        "a refused prompt of 20,000 tokens": three("refused", lambda _: Text(), " ".join(words[:20_000])),
        "a prompt of 8,000 tokens": three("long", lambda _: Text(), " more" * 8_000),
        "a choice of 5,600 labels": three("labels", lambda k: Choice(labels[k:])),
        "a schema with 5,600 values": three("values", lambda k: Json({"enum": labels[k:]})),
        "a schema with maxItems 5000": three("schema", lambda k: Json({**schema, "maxItems": 5000 - k})),
    }


def three(name: str, rule: Callable[[int], OutputRule], text: str = "?") -> list[Admit]:
    """Three requests of another namespace, each with an output rule of its own."""
    return [one for k in range(3) for one in asked(text, 1, 8, output=rule(k), prefix=f"{name}{k}", namespace="other")]


def between_tokens_s(engine: Engine, text: str, rows: int, tokens: int, arriving: Sequence[Admit]) -> float:
    """p99 of the time between two tokens of `rows` that decode, while these requests come in one after the other.

    By the clock, whatever is asked for: it is waiting that counts.
    """
    decoding = asked(text, rows, tokens)
    for row in decoding:
        engine.add(row)
    every = max(1, (tokens - 2 * _NOT_YET) // (1 + len(arriving)))
    left = [*arriving]
    times: list[float] = []
    while any(row.id in engine._open for row in decoding):
        if left and len(times) % every == every - 1:
            engine.add(left.pop())
        began = time.perf_counter()
        engine.step(time.time())
        times.append(time.perf_counter() - began)
    for row in arriving:
        engine.cancel(row.id)
    while engine.has_work:
        engine.step(time.time())
    return quantile(times[_NOT_YET:], 0.99)


def arrivals_group(bench: Bench) -> list[Figure]:
    """Time between the tokens of rows that decode, while what is long to prepare or to take in comes in."""
    prepare_process()
    came = arrivals(bench.bare)

    def run(what: str) -> Run:
        def once() -> float:
            # A new engine each time, since it keeps grammars.
            engine = new_engine(bench.load(), max_rows=bench.rows, max_context_tokens=CONTEXT_TOKENS)
            try:
                return between_tokens_s(engine, bench.text, bench.rows - 3, 6 * bench.new_tokens, came[what])
            finally:
                gc.unfreeze()

        return once

    found = in_turns({what: run(what) for what in came}, bench.turns, log)
    return [
        Figure(f"p99 between tokens while {what} comes in, against nothing", ratio(found, what, "nothing"), "ratio")
        for what in came
        if what != "nothing"
    ]
