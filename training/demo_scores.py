"""Scores the demo's artefacts on held-out rows, with the engine and the grammars that serve."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from guideway.schemas.generation import Generation
from guideway.schemas.output import Choice
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.training.demo_recipes import RECIPES, Recipe, Task
from guideway.training.demo_report import Scores
from guideway.training.demo_rows import read
from guideway.workers.engine import base_model
from guideway.workers.engine.engine import Engine
from guideway.workers.messages import Admit, Artefact, EngineSettings, Finished

DTYPE = torch.bfloat16
"""In which the demo serves."""


def score(folder: Path, out: Path, data: Path) -> Scores:
    """Accuracy on every held-out row per artefact: bare, guided by it, and together with the one it was trained on."""
    engine = Engine(
        base_model.load(folder, dtype=DTYPE, device="cpu"), EngineSettings(max_rows=32), max_context_tokens=1024
    )
    recipes = {recipe.name: recipe for recipe in RECIPES if (out / recipe.name).is_dir()}
    bare: dict[str, float] = {}
    found: Scores = {}
    for name, recipe in recipes.items():
        task = recipe.task
        if task.data not in bare:
            bare[task.data] = accuracy(engine, task, data, [])
        artefact = artefact_of(recipe, out)
        found[name] = {"bare": bare[task.data], "guided": accuracy(engine, task, data, [artefact])}
        if recipe.together_with:
            other = artefact_of(recipes[recipe.together_with], out)
            found[name]["together"] = accuracy(engine, task, data, [other, artefact])
        print(name, found[name], flush=True)
    return found


def artefact_of(recipe: Recipe, out: Path) -> Artefact:
    """The artefact as a worker gives it to the engine."""
    return Artefact(name=recipe.name, form=recipe.form, digest=recipe.name, folder=str(out / recipe.name))


def accuracy(engine: Engine, task: Task, data: Path, artefacts: Sequence[Artefact]) -> float:
    """Share of the held-out rows whose label is right."""
    rows = read(data, task, "eval")
    for number, row in enumerate(rows):
        engine.add(Admit(id=str(number), request=request_of(task, row["text"]), artefacts=list(artefacts)))
    labels: dict[str, str] = {}
    while len(labels) < len(rows):
        for message in engine.step(time.time()):
            if isinstance(message, Finished):
                labels[message.id] = message.samples[0].text
    right = [bool(labels[str(number)] == row["label"]) for number, row in enumerate(rows)]
    return round(sum(right) / len(rows), 4)


def request_of(task: Task, text: str) -> Request:
    """What the endpoint service makes of an event with this text."""
    return Request(
        id="row",
        namespace="training",
        endpoint="score",
        endpoint_version=1,
        parts=[
            Part(kind="instruction", source="endpoint", text=task.instruction),
            Part(kind="input", source="caller", text=text),
        ],
        guidance=[],
        output=Choice(labels=list(task.labels)),
        words=[],
        generation=Generation(),
        reply_to=[ReplyAddress(topic="none")],
        deadline_ms=None,
    )
