"""Steps that do several things at once: prompts beside rows that decode, short answers, rows of any length."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import torch
from benchmarks.engine_peers import products_of
from benchmarks.engine_rows import admit, admits, new_engine, text_of_length
from benchmarks.figures import Figure, Run, in_turns, now, ratio

from guideway.schemas.output import Choice
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.model.runner import Runner
from guideway.workers.engine.scheduling.chunks import StepPlan
from guideway.workers.messages.to_engine import Admit, EngineSettings

if TYPE_CHECKING:
    from benchmarks.engine import Bench

INSTRUCTION: Final = (
    "Is this review of a product, a film or a restaurant positive or negative? Answer with one word. Judge the whole "
    "text and not single words of it, and be careful where the writer means the opposite of what is said."
)
_numbers = itertools.count()


def beside(engine: Engine, short: str, *, times: int = 6) -> float:
    """Seconds of a step that takes in a prompt of `short` beside the rows that run; a text of one token is made."""
    spent = []
    for _ in range(times):
        engine.add(admit(f"beside{next(_numbers)}", short, 1))
        began = now()
        engine.step(time.time())
        spent.append(now() - began)
    return sorted(spent)[times // 2]


def decoding(base: BaseModel, text: str, rows: int) -> Engine:
    """An engine with so many rows that decode for a long time, and a seat for one more."""
    engine = new_engine(base, max_rows=rows + 1, preparer_threads=0)
    for one in admits(text, rows, 1500):
        engine.add(one)
    for _ in range(4):
        engine.step(time.time())
    return engine


def reviews(file: Path, count: int) -> list[Admit]:
    """Requests that choose one of two labels for reviews, with a fixed instruction before each."""
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()[:count]]
    found = []
    for i, text in enumerate(texts):
        one = admit(f"review{i}", text, 4, instruction=INSTRUCTION)
        request = msgspec.structs.replace(one.request, output=Choice(["positive", "negative"]))
        found.append(msgspec.structs.replace(one, request=request))
    return found


class Counted:
    """Owner of how many tokens each step of any engine took in, and how many rows got their next token."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self._run = Runner.run

    def __enter__(self) -> Counted:
        steps, run = self.steps, self._run

        def counting(runner: Runner, plan: StepPlan) -> Any:
            outcomes = run(runner, plan)
            steps.append((len(plan.decoding) + sum(plan.pieces.values()), len(outcomes)))
            return outcomes

        Runner.run = counting  # type: ignore[assignment,method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Runner.run = self._run  # type: ignore[method-assign]


def answered(engine: Engine, rows: Sequence[Admit]) -> float:
    """Rows per second, all of which wait at the start and are ready."""
    for row in rows:
        engine.add(row)
    began = now()
    while engine.has_work:
        engine.step(time.time())
    return len(rows) / (now() - began)


def only_products(model: Any, steps: Sequence[tuple[int, int]], rows: int) -> Callable[[], float]:
    """A function: rows per second if these steps computed the products of all their tokens, and nothing else."""
    forward = products_of(model)

    @torch.inference_mode()
    def measure() -> float:
        began = now()
        for tokens, ends in steps:
            forward(tokens, ends)
        return rows / (now() - began)

    return measure


def steps_group(bench: Bench) -> list[Figure]:
    """A prompt that comes in beside rows that decode."""
    short, whole = (text_of_length(bench.bare, 20), text_of_length(bench.bare, 20 + bench.rows))
    busy, idle = decoding(bench.load(), bench.text, bench.rows), new_engine(bench.load(), preparer_threads=0)
    runs: dict[str, Run] = {
        f"a step of {bench.rows} rows and 20 prompt tokens": lambda: beside(busy, short),
        f"a step of {bench.rows + 20} prompt tokens": lambda: beside(idle, whole),
    }
    found = in_turns(runs, bench.turns, print)
    mixed, alone = runs
    return [
        Figure("16 rows and 20 prompt tokens in a step, against 36 tokens at once", ratio(found, mixed, alone), "ratio")
    ]


def prompts_group(bench: Bench) -> list[Figure]:
    """Reviews with a fixed instruction, each answered by one of two labels."""
    rows = reviews(bench.args.reviews, 16 if bench.args.quick else 623)
    few, many = (new_engine(bench.load(), max_rows=count, preparer_threads=0) for count in (16, 64))
    for engine in (few, many):
        answered(engine, rows[:32])
    with Counted() as counted:
        answered(few, rows)
    runs: dict[str, Run] = {
        "reviews, 16 rows": lambda: answered(few, rows),
        "reviews, 64 rows": lambda: answered(many, rows),
        "reviews, the packed products alone": only_products(bench.bare.model, counted.steps, len(rows)),
    }
    found = in_turns(runs, bench.turns, print)
    sixteen, larger, floor = runs
    return [
        Figure("reviews, two labels: rows/s against the packed products", ratio(found, sixteen, floor), "ratio"),
        Figure("reviews, two labels: 64 rows against 16", ratio(found, larger, sixteen), "ratio"),
    ]


def room_group(bench: Bench) -> list[Figure]:
    """Rows of 125 tokens beside one of 8,000 in room for 200,000: a quarter of all, so that it fits into memory."""
    base = bench.load()
    token_bytes = new_engine(base, max_rows=1)._runner.token_bytes
    settings = EngineSettings(max_rows=257, kv_bytes=200_000 * token_bytes, max_step_tokens=16, preparer_threads=0)
    engine = Engine(bench.load(), settings, max_context_tokens=8192)
    for one in [admit("long", " more" * 7_980, 8), *(admit(str(i), " more" * 100, 8) for i in range(256))]:
        engine.add(one)
    engine.step(time.time())
    return [
        Figure("rows of 125 that run beside one of 8,000 in room for 200,000", len(engine._runner.rows) - 1, "rows")
    ]
