"""What weights of 8 bits cost in accuracy, with guidance trained on them: `python -m benchmarks.accuracy.eight_bits`.

The studio trains a soft prompt for each task, type of weights and seed, by few steps. The engine that serves evaluates
it, on the type that it was trained on. What is done stands in the folder of the runs, and is not done again. The table
has the differences over the same rows, of all seeds together.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from guideway.schemas.manifests import Model
from guideway.training.evaluation.comparing import methods
from guideway.training.evaluation.evaluator import Evaluator
from guideway.training.runs.begin import Begun, begin, models_of
from guideway.training.runs.events import RunEvent, Step, Stopped
from guideway.training.runs.interruption import never
from guideway.training.runs.machine import Machine, load_model
from guideway.training.runs.task import Task, read_task
from guideway.training.runs.task_methods import SoftPromptMethod
from guideway.training.runs.train_method import train_method

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples" / "studio"
TASKS: Final = ("sentiment", "topics")
DTYPES: Final = ("bfloat16", "int8")
_RESAMPLES: Final = 4000


def short_task(name: str, seed: int, steps: int) -> Task:
    """An example's task with its soft prompt alone, by so many steps; it is looked at when they are over."""
    task = read_task(EXAMPLES / f"{name}.yaml")
    method = next(method for method in task.methods if isinstance(method, SoftPromptMethod))
    return msgspec.structs.replace(
        task,
        methods=[method],
        data=msgspec.structs.replace(task.data, max_validation_rows=16),
        schedule=msgspec.structs.replace(task.schedule, seed=seed, evaluate_every=steps),
        stop=msgspec.structs.replace(task.stop, max_steps=steps, max_minutes=None, patience=None),
    )


def trained(name: str, dtype: str, seed: int, options: argparse.Namespace) -> tuple[Begun, Model]:
    """A run whose soft prompt is trained, and the model that it is for."""
    task = short_task(name, seed, options.steps)
    begun = begin(task, EXAMPLES, runs=options.runs, out=options.runs / f"{name}-{dtype}-{seed}-{options.steps}")
    (model,) = models_of(task, EXAMPLES, None).values()
    if dtype != model.dtype:
        # It is another model, with a fingerprint of its own.
        model = msgspec.structs.replace(model, dtype=dtype, fingerprint=None)
    (method,) = task.methods
    if not (begun.folder.artefact("small", method.label) / "adapter_model.safetensors").is_file():
        train_method(
            method,
            load_model(model, Machine(options.cache), dtype),
            begun,
            size="small",
            model=model,
            device="cpu",
            prompt=begun.run.instruction,
            tell=_say,
            should_end=never,
        )
    return begun, model


def answers(begun: Begun, model: Model, options: argparse.Namespace) -> list[bool]:
    """Whether each row of the evaluation is answered right."""
    file = begun.folder.path / "right.json"
    if not file.is_file():
        base = load_model(model, Machine(options.cache), model.dtype)
        evaluator = Evaluator(base, max_context_tokens=model.max_context_tokens)
        (subject,) = methods(begun, "small")
        found = evaluator.evaluate(subject, begun.examples.eval, latency=False)
        file.write_text(json.dumps([answer.is_right for answer in found.answers]), "utf-8")
    return [bool(right) for right in json.loads(file.read_text("utf-8"))]


def difference(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The mean of ours - theirs, each [seeds, rows], and its 95 % interval over other seeds and other rows (percentile
    bootstrap of both)."""
    each = ours.astype(np.float64) - theirs
    seeds, rows = each.shape
    random = np.random.default_rng(0)
    drawn = [
        each[random.integers(0, seeds, seeds)][:, random.integers(0, rows, rows)].mean() for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(each.mean()), float(low), float(high)


def line(what: str, right: dict[str, NDArray[np.bool_]]) -> str:
    """A line of the table; right: by type of weights, [seeds, rows]."""
    each = [" ".join(f"{share:.3f}" for share in right[dtype].mean(axis=1)) for dtype in DTYPES]
    means = [f"{right[dtype].mean():.3f}" for dtype in DTYPES]
    value, low, high = difference(right["int8"], right["bfloat16"])
    return f"| {what} | {means[0]} ({each[0]}) | {means[1]} ({each[1]}) | {value:+.3f} [{low:+.3f}, {high:+.3f}] |"


def _say(event: RunEvent) -> None:
    match event:
        case Step() if event.step % 8 == 0:
            print(f"{event.method}: step {event.step}, loss {event.loss:.3f}", flush=True)
        case Stopped():
            print(f"{event.method}: {event.step} steps in {event.elapsed_s:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path(".guideway/eight-bits"), help="folder of the runs")
    parser.add_argument("--cache", type=Path, default=Path(".guideway/models"), help="folder for the converted model")
    parser.add_argument("--steps", type=int, default=24, help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processor-minutes", type=float, default=15.0, help="none is begun after so much time of it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[list[bool]]]] = {name: {dtype: [] for dtype in DTYPES} for name in TASKS}
    for seed in range(1, options.seeds + 1):
        for name in TASKS:
            if time.process_time() > 60 * options.processor_minutes:
                break
            for dtype in DTYPES:
                began = time.process_time()
                right = answers(*trained(name, dtype, seed, options), options)
                found[name][dtype].append(right)
                gc.collect()
                share, spent = sum(right) / len(right), time.process_time() - began
                print(f"{name}, {dtype}, seed {seed}: {share:.3f} ({spent:.0f} s of processor time)", flush=True)
    arrays = {name: {dtype: np.array(rows) for dtype, rows in of.items()} for name, of in found.items() if of["int8"]}
    print("| task | bfloat16: mean (each seed) | int8 | difference, 95 % interval |")
    print("|---|---|---|---|")
    for name, of in arrays.items():
        print(line(f"{name}, {of['int8'].shape[1]} rows", of))


if __name__ == "__main__":
    main()
