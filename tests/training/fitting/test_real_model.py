"""SmolLM2 on real rows: training that is interrupted comes to the same as training that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from guideway.schemas.output import Choice
from guideway.training.runs.begin import begin, models_of
from guideway.training.runs.events import Evaluated, Scored, Step, Stopped, as_it_stands
from guideway.training.runs.folder import RunFolder
from guideway.training.runs.interruption import Interrupted
from guideway.training.runs.machine import Machine
from guideway.training.runs.run import carry_out
from guideway.training.runs.task import PromptSearch, Schedule, StopRules, Task
from guideway.training.runs.task_data import Data
from guideway.training.runs.task_methods import SoftPromptMethod

ROOT = Path(__file__).resolve().parents[3]


def task(rows: Path) -> Task:
    lines = (ROOT / "examples/data/uci_sentiment.train.jsonl").read_text("utf-8").split("\n")[:64]
    rows.write_text("\n".join(lines), "utf-8")
    return Task(
        namespace="reviews",
        endpoint="mood",
        model_sizes=["small"],
        models=str(ROOT / "examples/demo/manifests/model.yaml"),
        data=Data(train=str(rows), ignore_columns=["source"], folds=0),
        instruction="Say whether the review is positive or negative.",
        output=Choice(labels=["positive", "negative"]),
        prompts=PromptSearch(candidates=0),
        methods=[SoftPromptMethod(virtual_tokens=8)],
        schedule=Schedule(rows_per_step=4, evaluate_every=4),
        stop=StopRules(max_steps=8),
    )


def losses(folder: RunFolder) -> list[float]:
    return [event.loss for event in as_it_stands(folder.events()) if isinstance(event, Step | Evaluated)]


@pytest.mark.model
@pytest.mark.timeout(600)  # three short trainings; half a minute on an idle machine
def test_an_interrupted_training_comes_to_the_same(tmp_path: Path) -> None:
    made = task(tmp_path / "rows.jsonl")
    models = models_of(made, tmp_path, None)
    machine = Machine(ROOT / ".guideway" / "models")
    whole, broken = (begin(made, tmp_path, runs=tmp_path, out=tmp_path / name) for name in ("whole", "broken"))
    carry_out(whole, models, machine)
    asked = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        carry_out(broken, models, machine, should_end=lambda: next(asked))
    carry_out(broken, models, machine)
    assert losses(broken.folder) == pytest.approx(losses(whole.folder), rel=1e-3)
    [stopped] = [event for event in broken.folder.events() if isinstance(event, Stopped)]
    assert stopped.step == 8
    assert losses(whole.folder)[-1] < 0.5 * losses(whole.folder)[0]
    assert {event.method for event in broken.folder.events() if isinstance(event, Scored)} == {"bare", "soft-prompt"}
