"""`guideway replay` on a running system: killed and taken up again, with the studio's figures, seen by nobody else."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.kafka.conftest import DEMO, ROOT, System

from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.catalogue.entries import Identity
from guideway.delivery.clients.span_reader import SpanReader
from guideway.infra.local_broker import RunningBroker
from guideway.schemas.names.addresses import CALL
from guideway.schemas.names.topics import reply_topic
from guideway.schemas.output import Choice
from guideway.settings import Settings
from guideway.training.evaluation.metrics import paired_difference
from guideway.training.evaluation.scoring import Evaluation, evaluation_of
from guideway.training.replays.comparison import Compared
from guideway.training.runs.task import BARE, PRESENT, Task
from guideway.training.runs.task_data import Data
from guideway.usecases.apply import apply_manifests
from guideway.usecases.lookup import catalogue_of
from guideway.usecases.studio.run_studio import evaluate

pytestmark = [pytest.mark.broker, pytest.mark.model, pytest.mark.timeout(300)]
RULE = Choice(["positive", "negative"])
INSTRUCTION = "Say whether the review is positive or negative."
ROWS = 24


@pytest.fixture(scope="module")
def system(broker: RunningBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The demo's endpoints of the namespace `reviews`, served."""
    home = tmp_path_factory.mktemp("home")
    models = ROOT / ".guideway" / "models"
    models.mkdir(parents=True, exist_ok=True)
    (home / "models").symlink_to(models)
    made = System(broker.cluster, broker.kind, Settings(home=home, store=str(home / "store"), named=broker.cluster))
    manifests = [one for name in ("model", "reviews") for one in read_manifests(DEMO / f"{name}.yaml")]
    asyncio.run(apply_manifests(made.settings, manifests))
    try:
        made.start("endpoints")
        made.start("worker")
        yield made
    finally:
        made.stop()


@pytest.fixture
def evaluated(system: System, tmp_path: Path) -> tuple[Path, Evaluation, Evaluation]:
    """(rows, the studio's evaluation of the bare model on them, and of the soft prompt).

    Without rows whose labels are about equally probable: in bfloat16 the rows beside them may decide.
    """
    data = ROOT / "examples" / "data"
    lines = (data / "uci_sentiment.eval.jsonl").read_text().splitlines()[:ROWS]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    task = Task(
        namespace="reviews",
        endpoint="sentiment",
        model_sizes=["small"],
        data=Data(train=str(data / "uci_sentiment.train.jsonl"), eval="all.jsonl", ignore_columns=["source"]),
        instruction=INSTRUCTION,
        output=RULE,
    )
    made = evaluate(system.settings, task, tmp_path, size="small")
    both = [line.evaluation for label in (BARE, PRESENT) if (line := made.line(label))]
    clear = [n for n in range(ROWS) if all(abs(e.answers[n].label_shares[0] - 0.5) > 0.05 for e in both)]
    assert len(clear) > ROWS // 2
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(lines[n] for n in clear))
    bare, soft = (evaluation_of(e.label, RULE, [e.answers[n] for n in clear], rows_per_s=1, latency=None) for e in both)
    return rows, bare, soft


def test_a_killed_replay_goes_on_and_says_what_the_studio_says(
    system: System, tmp_path: Path, evaluated: tuple[Path, Evaluation, Evaluation]
) -> None:
    rows, bare, soft = evaluated
    out = tmp_path / "replay"
    command = ["replay", "/reviews/sentiment-bare", "--from", str(rows), "--out", str(out), "--json"]
    command += ["--with", "guidance=reviews/sentiment-soft-prompt", "--in-flight", "4"]
    seen = asyncio.run(_replies(system))

    first = subprocess.Popen(
        [sys.executable, "-m", "guideway", *command], env=system.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    answers, until = out / "answers.jsonl", time.monotonic() + 100
    while not (answers.exists() and answers.read_bytes().count(b"\n") >= 4):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < until, "no answers"
        time.sleep(0.05)
    first.kill()
    first.communicate()
    kept = answers.read_bytes().rpartition(b"\n")[0].splitlines()

    done = system.command(*command)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    lines = answers.read_bytes().splitlines()
    assert lines[: len(kept)] == kept, "what was answered is not asked again"
    assert len(lines) == len({(one["side"], one["number"]) for one in map(json.loads, lines)}) == 2 * bare.rows

    made = msgspec.convert({name: one for name, one in told.items() if name not in ("question", "report")}, Compared)
    for name in ("accuracy", "macro_f1", "balanced_accuracy", "answered", "prompt_tokens", "output_tokens"):
        figure = made.figure(name)
        assert figure is not None
        assert (figure.now, figure.new) == (bare.figures[name], soft.figures[name]), name
    assert made.score is not None
    assert made.score.difference == paired_difference(soft.counts, bare.counts)
    assert Path(told["report"]).read_text().startswith("<!doctype html>")

    # Nothing of it is left, and nobody else was answered.
    catalogue = asyncio.run(catalogue_of(system.settings))
    assert not [one for one in catalogue.owned("endpoint", "reviews") if "-replay-" in one.name]
    assert catalogue.latest(Identity("endpoint", "reviews", "sentiment-bare")) is not None
    assert asyncio.run(_replies(system)) == seen


async def _replies(system: System) -> int:
    """How many records stand on the endpoint's own reply topic and that of the general address."""
    topics = {reply_topic("reviews", name): 1 for name in ("sentiment-bare", CALL)}
    async with SpanReader.connected(system.cluster, "test") as reader:
        return sum(map(len, (await reader.spans(topics)).values()))
