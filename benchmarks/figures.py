"""The figures: how they are measured, their targets, and how they are written."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

clock: Callable[[], float] = time.perf_counter
"""Seconds, for all rates. `time.process_time` ignores the time that other processes take on a shared machine; it is
right with one thread only."""


def use_processor_time() -> None:
    global clock  # noqa: PLW0603
    clock = time.process_time


def now() -> float:
    return clock()


Run = Callable[[], float]
"""One turn of a contender. Returns its rate (tokens per second) or a time (seconds)."""


@dataclass(frozen=True)
class Target:
    """The target of one figure: at least, or at most, this ratio."""

    bound: float
    sense: Literal["≥", "≤"] = "≥"

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.sense == "≥" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sense} {self.bound:g}"


TARGETS: Final[Mapping[str, Target]] = {
    "plain, 16 rows, against generate": Target(2.0),
    "plain, 16 rows, against the packed products": Target(0.80),
    "plain, 32 rows, against the packed products": Target(0.75),
    "16 soft prompts against plain": Target(0.95),
    "16 prefixes against plain": Target(0.98),
    "16 LoRAs (q, v) against plain": Target(0.95),
    "16 LoRAs (all linears) against plain": Target(0.85),
    "16 LoRAs (all linears) against PEFT": Target(6.0),
    "all kinds mixed, 32 rows, against plain": Target(0.88),
    "1000 adapters, 64 resident, against 16": Target(0.85),
    "continuous against static batches": Target(1.6),
    "16 rows and 20 prompt tokens in a step, against 36 tokens at once": Target(1.1, "≤"),
    "reviews, two labels: rows/s against the packed products": Target(0.75),
    "reviews, two labels: 64 rows against 16": Target(1.0),
    "reviews, one free token, against transformers in padded batches": Target(2.5),
    "reviews, one free token, against vLLM": Target(1.15),
    "reviews, choice of two labels, against vLLM": Target(1.4),
    "16 LoRAs (all linears) against vLLM": Target(4.5),
    "int8 against bfloat16, 16 rows": Target(1.5),
    "int8, 1 row, against llama.cpp with 4 bits": Target(1.0),
    "rows of 125 that run beside one of 8,000 in room for 200,000": Target(250),
    "probabilities of 2 labels, requests/s against without": Target(0.98),
    "probabilities of 8 labels, requests/s against without": Target(0.98),
    "probabilities of 100 labels, requests/s against without": Target(0.98),
    "texts told while they are made, against at the end": Target(0.97),
    "a step with temperature against plain": Target(1.04, "≤"),
    "a step with top-p against plain": Target(1.08, "≤"),
    "a step with number against plain": Target(1.05, "≤"),
    "a step with regex against plain": Target(1.05, "≤"),
    "a step with JSON against plain": Target(1.05, "≤"),
    "words with labels: steps for each token": Target(0.45, "≤"),
    "JSON of three choices: steps for each token": Target(0.45, "≤"),
    "JSON with a free name: steps for each token": Target(0.45, "≤"),
    "p99 between tokens while a refused prompt of 20,000 tokens comes in, against nothing": Target(1.5, "≤"),
    "p99 between tokens while a prompt of 8,000 tokens comes in, against nothing": Target(1.5, "≤"),
    "p99 between tokens while a choice of 5,600 labels comes in, against nothing": Target(1.5, "≤"),
    "p99 between tokens while a schema with 5,600 values comes in, against nothing": Target(1.5, "≤"),
    "p99 between tokens while a schema with maxItems 5000 comes in, against nothing": Target(1.5, "≤"),
    "second request of a fixed prefix against the first": Target(0.15, "≤"),
    "16 rows of 16 endpoints on 4 sets of 5,000, against passages given": Target(0.95),
    "indexing, against the bare embedding model": Target(0.9),
    "p95 search in 20,000 passages, embedded": Target(50, "≤"),
    "recall@5 of definitions, by their term in a question": Target(0.95),
    "sentiment, soft-prompt: accuracy": Target(0.92),
    "sentiment, soft-prompt: training": Target(15, "≤"),
    "topics, soft-prompt: accuracy": Target(0.87),
    "topics, soft-prompt: training": Target(15, "≤"),
    "topics, lora: accuracy": Target(0.87),
    "topics, lora: training": Target(15, "≤"),
    "addresses, lora: F1 of the fields against bare": Target(2.0),
    "soft-prompt: steps/s against a plain PEFT loop": Target(1.0),
    "lora: steps/s against a plain PEFT loop": Target(1.0),
    "soft-prompt: steps/s by length against random": Target(1.3),
    "lora: steps/s by length against random": Target(1.3),
    "soft-prompt: steps/s with the shared beginning run once, against in every row": Target(1.6),
    "memory of the training process": Target(4096, "≤"),
    "worker against a bare loop": Target(0.5),
    "queue-fed against in process": Target(0.95),
    "queue-fed against in process, engine on a core of its own": Target(0.95),
    "memory with 50,000 waiting, late against early": Target(1.1, "≤"),
    "p95 beside backlog, against alone": Target(1.5, "≤"),
    "p95 beside batch-lane, against alone": Target(1.5, "≤"),
    "p95 beside long-answers, against alone": Target(1.5, "≤"),
    "p95 beside guidance-5000-times, against alone": Target(1.5, "≤"),
    "p95 beside base64, against alone": Target(1.5, "≤"),
    "p95 beside gone, against alone": Target(1.5, "≤"),
    "p95 of 2 tenants, fake engine, against alone": Target(1.5, "≤"),
    "p95 of 10 tenants, fake engine, against alone": Target(1.5, "≤"),
    "p95 of 100 tenants, fake engine, against alone": Target(1.5, "≤"),
    "p95 of 2 tenants, real model, against alone": Target(1.5, "≤"),
    "p50 added by a gateway at 100 requests/s": Target(5, "≤"),
    "memory of a gateway with 2,000 waiting connections": Target(150, "≤"),
    "openai's form against native, 1 at a time": Target(1.1, "≤"),
    "openai's form against native, 64 at a time": Target(1.1, "≤"),
    "share of tokens against weight, at the worst": Target(0.15, "≤"),
    "batch against in process, engine on a core of its own": Target(0.95),
    "batch against in process, shared cores": Target(0.85),
    "batch, fake engine, file to file": Target(5000),
    "batch, largest memory of client, batcher and service": Target(150, "≤"),
    "batch, seconds from kill -9 of the batcher to the next rows sent": Target(10, "≤"),
    "batch, rows computed again after 3 kills of the batcher": Target(500, "≤"),
    "batch, p95 of interactive requests beside a job, against alone": Target(1.2, "≤"),
}
"""Name of a figure in the JSON files → its target. The names must not change."""


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str

    @property
    def target(self) -> Target | None:
        return TARGETS.get(self.name)

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.target.is_met(self.value)


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def in_turns(runs: Mapping[str, Run], turns: int, log: Callable[[str], None]) -> dict[str, list[float]]:
    """The result of each contender, turn by turn, after one turn that does not count.

    They take turns, so that a busy machine is busy for all of them.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-1, turns):
        for name, run in runs.items():
            began = time.perf_counter()
            value = run()
            log(f"{'warm' if turn < 0 else turn}: {name}: {value:.4g} ({time.perf_counter() - began:.1f} s)")
            if turn >= 0:
                found[name].append(value)
    return found


def ratio(found: Mapping[str, Sequence[float]], ours: str, theirs: str) -> float:
    """Median over the turns of ours / theirs in the same turn."""
    return statistics.median(a / b for a, b in zip(found[ours], found[theirs], strict=True))


def rates(found: Mapping[str, Sequence[float]], unit: str = "tokens/s") -> list[Figure]:
    return [Figure(name, statistics.median(values), unit) for name, values in found.items()]


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile: the smallest value such that at least `share` of `values` are not larger."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def markdown(figures: Sequence[Figure]) -> str:
    lines = ["| what | value | unit | target | met |", "|---|---|---|---|---|"]
    for figure in figures:
        met = {True: "yes", False: "**no**", None: ""}[figure.met]
        value = f"{figure.value:.0f}" if figure.value >= 100 else f"{figure.value:.3g}"
        lines.append(f"| {figure.name} | {value} | {figure.unit} | {figure.target or ''} | {met} |")
    return "\n".join(lines)


def save(figures: Sequence[Figure], file: Path) -> None:
    """Write the figures that have a target to `file`, as JSON. Figures that were not measured keep their values."""
    entries = {entry["figure"]: entry for entry in json.loads(file.read_text("utf-8"))} if file.exists() else {}
    for f in figures:
        if f.target is not None:
            known = {"figure": f.name, "value": round(f.value, 4), "unit": f.unit}
            entries[f.name] = {**known, "target": str(f.target), "met": f.met}
    ordered = [entries[name] for name in TARGETS if name in entries]
    file.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", "utf-8")
