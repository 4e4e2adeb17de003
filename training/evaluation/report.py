"""A run's report: report.html, which needs no other file, and README.md, the model card."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import msgspec
from markupsafe import Markup

from guideway.catalogue.documents.yaml_text import as_yaml
from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.data.archived import said
from guideway.training.evaluation import charts
from guideway.training.evaluation.agreement import is_agreement
from guideway.training.evaluation.comparison import Changed, Comparison, Line, changed, compare
from guideway.training.evaluation.intervals import Estimate, few_rows
from guideway.training.evaluation.scoring import Evaluation
from guideway.training.publishing.decision import method_of
from guideway.training.runs.events import (
    Evaluated,
    MethodStarted,
    PromptScored,
    RunEvent,
    RunStarted,
    Step,
    Stopped,
    as_it_stands,
)
from guideway.training.runs.folder import Run, RunFolder, write_whole
from guideway.training.runs.task import BARE, PRESENT, REFERENCES, TEXT_PROMPT

EVALUATION: Final = "evaluation.json"
_SMOOTHED_STEPS: Final = 10
_CHANGED_ROWS: Final = 12
_COLOURS: Final = 8


@dataclass(frozen=True)
class Training:
    """The training of one method, as its events tell it."""

    label: str
    colour: int
    started: MethodStarted | None
    stopped: Stopped | None
    losses: list[tuple[float, float]]
    """(step, mean loss of the last steps)"""
    validation: list[tuple[float, float]]
    """(step, validation loss)"""
    tokens_per_s: float
    """The mean over its steps."""
    steps: int


@dataclass(frozen=True)
class SizeReport:
    """Everything about one model size."""

    size: str
    comparison: Comparison | None
    chosen: Line | None
    """The line of the comparison that would be published."""
    trainings: list[Training]
    prompts: list[PromptScored]

    folds: int = 0
    """How many folds the rows were reported on by; 0: rows were kept out."""

    @property
    def said_of_few(self) -> str:
        """What a small number of rows means for differences; empty for many rows."""
        return few_rows(self.comparison.rows) if self.comparison else ""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the base model; empty if nothing was trained."""
        return next((one.started.fingerprint for one in self.trainings if one.started), "")


def keep_evaluation(folder: RunFolder, size: str, evaluation: Evaluation) -> None:
    """Write SIZE/LABEL/evaluation.json."""
    place = folder.method(size, evaluation.label)
    place.mkdir(parents=True, exist_ok=True)
    write_whole(place / EVALUATION, msgspec.json.encode(evaluation))


def kept_evaluations(folder: RunFolder, size: str) -> list[Evaluation]:
    """All evaluations of a model size, in order of their labels."""
    files = sorted((folder.path / size).glob(f"*/{EVALUATION}"))
    return [msgspec.json.decode(file.read_bytes(), type=Evaluation) for file in files]


def write_report(folder: RunFolder) -> Path:
    """Write report.html and README.md into the run's folder, for the run so far. Returns the path of the page.

    Raises: Refusal `invalid_setting` if there is no run, or its folder cannot be written.
    """
    run = folder.run()
    sizes = [size_report(folder, run, size) for size in run.task.model_sizes]
    page = folder.path / "report.html"
    try:
        write_whole(page, _render("report.html.jinja", run, sizes).encode())
        write_whole(folder.path / "README.md", _render("model_card.md.jinja", run, sizes).encode())
    except OSError as error:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the report cannot be written into {folder.path} ({error.strerror}): make it writable, or free some space",
        ) from None
    return page


def size_report(folder: RunFolder, run: Run, size: str) -> SizeReport:
    """The report of one model size, from the run's events and evaluations."""
    events = list(as_it_stands(folder.events()))
    evaluations = kept_evaluations(folder, size)
    comparison = compare(evaluations) if evaluations else None
    chosen = method_of(events, run.task, size, [one.label for one in evaluations])
    return SizeReport(
        size=size,
        comparison=comparison,
        chosen=comparison.line(chosen) if comparison else None,
        trainings=[
            _training(events, size, method.label, colour % _COLOURS)
            for colour, method in enumerate(run.task.methods, start=1)
        ],
        prompts=sorted(
            (one for one in events if isinstance(one, PromptScored) and one.size == size), key=lambda one: -one.value
        ),
        folds=next((one.folds for one in events if isinstance(one, RunStarted)), 0),
    )


def _training(events: Iterable[RunEvent], size: str, label: str, colour: int) -> Training:
    ours = [
        event
        for event in events
        if isinstance(event, MethodStarted | Step | Evaluated | Stopped) and (event.size, event.method) == (size, label)
    ]
    steps = [event for event in ours if isinstance(event, Step)]
    losses = [event.loss for event in steps]
    smooth = [losses[max(0, i - _SMOOTHED_STEPS + 1) : i + 1] for i in range(len(losses))]
    return Training(
        label=label,
        colour=colour,
        started=_last(event for event in ours if isinstance(event, MethodStarted)),
        stopped=_last(event for event in ours if isinstance(event, Stopped)),
        losses=[(event.step, sum(some) / len(some)) for event, some in zip(steps, smooth, strict=True)],
        validation=[(event.step, event.loss) for event in ours if isinstance(event, Evaluated)],
        tokens_per_s=sum(event.tokens_per_s for event in steps) / len(steps) if steps else 0.0,
        steps=steps[-1].step if steps else 0,
    )


def _last(events: Iterable[Any]) -> Any:
    return next(iter([*events][-1:]), None)


def environment(package: str) -> jinja2.Environment:
    """For the pages of a package's `templates`, in the look of all reports: it escapes what it puts into HTML."""
    packages = dict.fromkeys([package, "guideway.training.evaluation"])
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(one, "templates") for one in packages]),
        autoescape=jinja2.select_autoescape(["html", "html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"estimate": _estimate, "over": _over, "shown": _shown}
    return made


def _render(template: str, run: Run, sizes: Sequence[SizeReport]) -> str:
    return (
        environment("guideway.training.evaluation")
        .get_template(template)
        .render(
            run=run,
            task=run.task,
            task_text=as_yaml(msgspec.to_builtins(run.task)),
            sizes=sizes,
            made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            references=REFERENCES,
            bare=BARE,
            text_prompt=TEXT_PROMPT,
            present=PRESENT,
            curves=_curves,
            score_chart=_score_chart,
            gain_chart=_gain_chart,
            reliability=charts.reliability,
            changed=_changed_against_bare,
            sentence=sentence,
            said=said,
            is_agreement=is_agreement,
        )
    )


def sentence(report: SizeReport) -> str:
    """The result in one sentence."""
    chosen = report.chosen
    if chosen is None:
        return "Nothing was trained, and no text prompt does better than the task's own."
    evaluation = chosen.evaluation
    name = evaluation.main.replace("_", " ")
    on = "archived rows that it has not seen" if is_agreement(evaluation.main) else "held-out rows"
    text = f"{chosen.label} reaches {name} {evaluation.score.value:.3f} on {evaluation.rows} {on}"
    if BARE in chosen.over:
        text += f", {_over(chosen.over[BARE])} over the bare model: {chosen.verdict}"
    return text + "."


def _curves(trainings: Sequence[Training]) -> Markup:
    solid = [charts.Curve(f"{one.label}: training", one.colour, one.losses) for one in trainings]
    dashed = [charts.Curve(f"{one.label}: validation", one.colour, one.validation, dashed=True) for one in trainings]
    return charts.lines([*solid, *dashed], x_label="step", y_label="loss")


def _colour(label: str, trainings: Sequence[Training]) -> int:
    return next((one.colour for one in trainings if one.label == label), 0)


def _score_chart(report: SizeReport) -> Markup:
    assert report.comparison is not None
    return charts.intervals(
        [
            charts.Bar(line.label, line.evaluation.score, _colour(line.label, report.trainings))
            for line in report.comparison.lines
        ]
    )


def _gain_chart(report: SizeReport) -> Markup:
    assert report.comparison is not None
    return charts.intervals(
        [
            charts.Bar(line.label, line.over[BARE], _colour(line.label, report.trainings))
            for line in report.comparison.lines
            if BARE in line.over
        ],
        zero=0.0,
    )


def _changed_against_bare(report: SizeReport) -> list[Changed]:
    bare = report.comparison.line(BARE) if report.comparison else None
    if bare is None or report.chosen is None:
        return []
    return changed(bare.evaluation, report.chosen.evaluation, most=_CHANGED_ROWS)


def _estimate(estimate: Estimate | None) -> str:
    return "–" if estimate is None else str(estimate)


def _over(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _shown(value: object) -> str:
    """A typed value as people read it."""
    if value is None:
        return "no result"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
