"""The report of a run: all that happened, in one file that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.training.evaluation.test_comparison import RULE, evaluation

from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.evaluation.report import keep_evaluation, write_report
from guideway.training.runs.events import Evaluated, MethodStarted, PromptScored, Resumed, RunStarted, Step, Stopped
from guideway.training.runs.folder import Run, RunFolder
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import Data
from guideway.training.runs.task_methods import LoraMethod, SoftPromptMethod

FINGERPRINT = "sha256:" + "7" * 64


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of two methods, one of which has ended."""
    task = Task(
        namespace="shop",
        endpoint="mood",
        description="how <customers> feel",
        model_sizes=["small"],
        data=Data(train="rows.jsonl", origin="made up"),
        output=RULE,
        methods=[SoftPromptMethod(), LoraMethod()],
    )
    made = RunFolder(tmp_path / "run")
    made.create(
        Run(
            id="r1",
            task=task,
            folder=str(tmp_path),
            instruction="",
            data_digest="sha256:" + "d" * 64,
            eval_digest="sha256:" + "e" * 64,
            code_version="0.0",
        )
    )
    of: dict[str, Any] = {"size": "small", "method": "soft-prompt"}
    made.append(
        RunStarted(
            at=1,
            run="r1",
            address="/shop/mood",
            train_rows=9,
            validation_rows=2,
            eval_rows=4,
            methods=["soft-prompt", "lora"],
            sizes=["small"],
        )
    )
    made.append(PromptScored(at=2, size="small", prompt="Say & tell.", source="task", metric="accuracy", value=0.5))
    made.append(MethodStarted(at=3, trainable_parameters=11520, fingerprint=FINGERPRINT, **of))
    for step in (1, 2, 3, 4, 2, 3):
        if step == 2 and made_steps(made) == 4:
            made.append(Resumed(at=4, step=1, **of))
        made.append(
            Step(
                at=4,
                step=step,
                of=4,
                loss=1 / step,
                learning_rate=0.01,
                tokens=100,
                tokens_per_s=50,
                elapsed_s=2.0 * step,
                left_s=0,
                **of,
            )
        )
    made.append(Evaluated(at=5, step=3, loss=0.4, best=True, **of))
    made.append(
        Stopped(
            at=6, rule="converged", step=3, best_step=3, validation_loss=0.4, elapsed_s=6, artefact_bytes=46_200, **of
        )
    )
    return made


def made_steps(folder: RunFolder) -> int:
    return sum(isinstance(event, Step) for event in folder.events())


class Seen(HTMLParser):
    """What a page refers to and shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_else_and_holds_everything(folder: RunFolder) -> None:
    for label, right in (("bare", "1000"), ("text-prompt", "1100"), ("soft-prompt", "1111")):
        keep_evaluation(folder, "small", evaluation(label, right * 20, texts="<&>" * 26 + "xy"))
    page = write_report(folder).read_text("utf-8")
    seen = Seen(page)
    assert not seen.references
    assert not {"script", "link", "img", "iframe"} & set(seen.tags)
    assert not re.search(r"url\(|@import|https?://", page)
    assert seen.tags.count("svg") == 4
    assert "soft-prompt reaches accuracy 1.000 on 80 held-out rows, +0.750" in seen.text
    assert "better than the bare model" in seen.text
    assert "converged" in seen.text
    assert "46,200" in seen.text
    assert "Say & tell." in seen.text
    assert "how <customers> feel" in seen.text
    assert FINGERPRINT in seen.text


def test_the_card_tells_the_same(folder: RunFolder) -> None:
    for label, right in (("bare", "1000"), ("soft-prompt", "1111")):
        keep_evaluation(folder, "small", evaluation(label, right * 20))
    write_report(folder)
    card = (folder.path / "README.md").read_text("utf-8")
    assert "# /shop/mood" in card
    assert re.search(r"\| soft-prompt \| 1\.000 \[.*\] \| \+0\.750 \[.*\] \| – \| – \|", card)
    assert "| soft-prompt | converged | 3 | 0.1 | 11,520 | 46,200 |" in card
    assert "made up" in card


def test_it_is_about_what_would_be_published(folder: RunFolder) -> None:
    """The method of the lowest validation loss, not the one that the evaluation rows would choose."""
    for label, right in (("bare", "1000"), ("soft-prompt", "1110"), ("lora", "1111")):
        keep_evaluation(folder, "small", evaluation(label, right * 20))
    soft_prompt = next(event for event in folder.events() if isinstance(event, Stopped))
    folder.append(msgspec.structs.replace(soft_prompt, method="lora", validation_loss=0.5))
    seen = Seen(write_report(folder).read_text("utf-8"))
    for text in (seen.text, (folder.path / "README.md").read_text("utf-8")):
        assert "soft-prompt reaches accuracy 0.750" in text
        assert "lora reaches" not in text
    for heading in ("Which label for which", "How sure, and how often right"):
        assert f"{heading}: soft-prompt" in seen.text
    assert "Rows that soft-prompt answers otherwise" in seen.text


def test_an_event_that_cannot_be_written_is_a_refusal(folder: RunFolder) -> None:
    event = next(folder.events())
    (folder.path / "events.jsonl").unlink()
    (folder.path / "events.jsonl").mkdir()
    with pytest.raises(Refusal, match="cannot be written") as caught:
        folder.append(event)
    assert caught.value.code is FailureCode.INVALID_SETTING


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path, folder: RunFolder) -> None:
    page = write_report(folder).read_text("utf-8")
    assert "Nothing has been evaluated yet." in page
    with pytest.raises(Refusal, match="holds no run"):
        write_report(RunFolder(tmp_path / "elsewhere"))
