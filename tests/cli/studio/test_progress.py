"""A run as people and programs watch it."""

from __future__ import annotations

import json

import msgspec
import pytest

from guideway.cli.studio.progress import Watch
from guideway.training.runs.events import (
    Evaluated,
    PromptScored,
    Resumed,
    RunCancelled,
    RunEvent,
    RunStarted,
    Scored,
    Scoring,
    Step,
    Stopped,
)

EVENTS: list[RunEvent] = [
    RunStarted(
        at=0,
        run="shop-mood-1",
        address="/shop/mood",
        train_rows=90,
        validation_rows=10,
        eval_rows=25,
        methods=["lora"],
        sizes=["small"],
    ),
    PromptScored(
        at=1,
        size="small",
        prompt="Good or bad?\nThe soup was cold -> bad",
        source="task",
        metric="accuracy",
        value=0.7,
        chosen=True,
    ),
    Resumed(at=1, size="small", method="lora", step=4),
    Evaluated(at=2, size="small", method="lora", step=4, loss=0.75, best=True),
    Step(
        at=3,
        size="small",
        method="lora",
        step=5,
        of=50,
        loss=0.5,
        learning_rate=0.1,
        tokens=100,
        tokens_per_s=250,
        elapsed_s=9,
        left_s=95,
    ),
    RunCancelled(at=4),
    Stopped(
        at=5,
        size="small",
        method="lora",
        rule="converged",
        step=40,
        best_step=20,
        validation_loss=0.4,
        elapsed_s=61,
        artefact_bytes=4096,
    ),
    Scored(
        at=6,
        size="small",
        method="lora",
        metric="accuracy",
        value=0.9,
        low=0.85,
        high=0.94,
        rows=25,
        over_bare=[0.2, 0.1, 0.3],
    ),
]


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch(as_json=False) as watch:
        for event in EVENTS:
            watch(event)
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "shop-mood-1: 90 rows to learn from, 10 to validate on, 25 to report on",
        "25 rows decide: a difference below 20 points says nothing",
        "small: best text prompt (accuracy 0.700): Good or bad?",
        "small/lora: goes on after step 4",
        "small/lora: 5/50  loss 0.500  validation 0.750  250 tokens/s  1:35 min left",
        "ended; the same command goes on with it",
        "small/lora: no longer better at step 40; best was step 20, validation loss 0.400; 1:01 min, 4,096 bytes",
    ]
    assert "0.900" in shown.out
    assert "+0.200 [+0.100, +0.300]" in shown.out
    assert shown.out.rstrip().endswith("25 rows decide: a difference below 20 points says nothing")


def test_folds_are_told_and_shown_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    started, scored = EVENTS[0], EVENTS[-1]
    with Watch(as_json=False) as watch:
        watch(msgspec.structs.replace(started, folds=5, eval_rows=500))
        watch(msgspec.structs.replace(scored, size="small/fold-1", value=0.111))
        watch(msgspec.structs.replace(scored, rows=500))
    shown = capsys.readouterr()
    assert "5 folds: every row is reported on by a training that has not seen it" in shown.err
    assert "0.111" not in shown.out
    assert "rows decide" not in shown.out + shown.err


def test_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch(as_json=True) as watch:
        for event in EVENTS:
            watch(event)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == [type(event).__struct_config__.tag for event in EVENTS]


def test_a_comparison_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch(as_json=False) as watch:
        watch(Scoring(at=0, size="small", method="lora", done=3, of=25))
    assert capsys.readouterr().err.splitlines() == ["small/lora: 3/25 rows answered"]


def test_in_a_pipe_each_figure_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold]soft-prompt-of-a-very-long-name-" * 4
    scored = next(one for one in EVENTS if isinstance(one, Scored))
    with Watch(as_json=False) as watch:
        watch(msgspec.structs.replace(scored, method=name))
    line = capsys.readouterr().out.splitlines()[1]
    assert name in line
    assert line.split()[0] == scored.size
