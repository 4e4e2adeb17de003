"""`guideway studio` as it is typed: refusals in one line, and a run published, versioned, rolled back, promoted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import zeros

from guideway.infra.local_broker import RunningBroker
from guideway.schemas.output import Choice
from guideway.training.runs.events import MethodStarted, Scored, Stopped
from guideway.training.runs.folder import Run, RunFolder
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import Data
from guideway.training.runs.task_methods import SoftPromptMethod

ROOT = Path(__file__).resolve().parents[3]
FINGERPRINT = "sha256:" + "e" * 64
DIGEST = "sha256:" + "d" * 64
UNQUOTED_DATE = "2024-13-45"
"""YAML takes it for a date."""


def guideway(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key != "KAFKA_BOOTSTRAP_SERVERS"}
    return subprocess.run(
        [sys.executable, "-m", "guideway", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=inherited | {"GUIDEWAY_HOME": str(home), "PYTHONPATH": str(ROOT / "src")} | environ,
    )


def lines(run: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert run.returncode == 0, run.stdout + run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def task_file(folder: Path, **changes: Any) -> Path:
    rows = [{"text": f"text {i}", "label": ("good", "bad")[i % 2]} for i in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    document = {
        "kind": "task/v1",
        "namespace": "shop",
        "endpoint": "mood",
        "model_sizes": ["small"],
        "data": {"train": "rows.jsonl"},
        "output": {"type": "choice", "labels": ["good", "bad"]},
    }
    file = folder / "task.yaml"
    file.write_text(json.dumps(document | changes).replace(f'"{UNQUOTED_DATE}"', UNQUOTED_DATE), "utf-8")
    return file


@pytest.mark.parametrize(
    ("changes", "code", "hint"),
    [
        ({"methods": [{"form": "magic"}]}, "invalid_manifest", "magic"),
        ({"methods": [{"form": "lora"}, {"form": "lora"}]}, "invalid_manifest", "give one of them a `name`"),
        ({"methods": [{"form": "lora", "name": "bare"}]}, "invalid_manifest", "choose another name"),
        ({"methods": [{"form": "lora", "name": "m" * 60}]}, "invalid_manifest", "63 characters are the most"),
        ({"namespace": "training"}, "invalid_manifest", "reserved"),
        ({"surprise": 1}, "invalid_manifest", "surprise"),
        ({"publish": {"when": UNQUOTED_DATE}}, "invalid_manifest", "publish.when: invalid value '2024-13-45'"),
        ({"output": {"type": "json", "schema": {"x-guidance": {}}}}, "invalid_manifest", "x-guidance"),
        ({"generation": {"stop": ["oo"]}}, "invalid_manifest", "generation.stop has 'oo'"),
        ({"data": {"train": "nowhere.jsonl"}}, "invalid_data", "nowhere.jsonl"),
        (
            {"output": {"type": "choice", "labels": ["x", "y"]}},
            "invalid_data",
            "In 10 rows (1, 3, 5, 7, 9 and 5 more): its label 'good' is none of x, y",
        ),
        ({}, "broker_unreachable", "guideway broker up"),
        ({"models": "task.yaml"}, "invalid_manifest", "guideway studio"),
        ({"models": str(ROOT / "examples/demo/manifests"), "model_sizes": ["huge"]}, "unknown_model_size", "small"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], code: str, hint: str
) -> None:
    run = guideway(tmp_path, "studio", "run", str(task_file(tmp_path, **changes)))
    assert run.returncode == 1, run.stderr
    [line] = run.stderr.splitlines()
    assert line.startswith(f"{code}: ")
    assert hint in line


def test_a_store_that_cannot_be_written_is_refused_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    file = task_file(tmp_path, models=str(ROOT / "examples/demo/manifests/model.yaml"))
    run = guideway(tmp_path, "studio", "run", str(file), GUIDEWAY_STORE=str(tmp_path / "file" / "store"))
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    assert line.startswith("invalid_setting: the artefact store")
    assert "GUIDEWAY_STORE" in line


def finished_run(folder: Path, name: str, method: str, value: float, over_bare: list[float]) -> str:
    """A run's folder as training leaves it, with a soft prompt of zeros. name: of the namespace and the model size."""
    made = RunFolder(folder)
    task = Task(
        namespace=name,
        endpoint="mood",
        model_sizes=[name],
        data=Data(train="rows.jsonl"),
        instruction="Good or bad?",
        output=Choice(labels=["good", "bad"]),
        methods=[SoftPromptMethod(name=method)],
    )
    run = Run(
        id=f"run-{method}",
        task=task,
        folder=str(folder),
        instruction=task.instruction,
        data_digest=DIGEST,
        eval_digest=DIGEST,
        code_version="1",
    )
    made.create(run)
    made.append(MethodStarted(at=0, size=name, method=method, trainable_parameters=8, fingerprint=FINGERPRINT))
    made.append(
        Stopped(
            at=0,
            size=name,
            method=method,
            rule="max_steps",
            step=1,
            best_step=1,
            validation_loss=1,
            elapsed_s=1,
            artefact_bytes=1,
        )
    )
    made.append(
        Scored(
            at=0,
            size=name,
            method=method,
            metric="accuracy",
            value=value,
            low=value - 0.02,
            high=value + 0.02,
            rows=400,
            over_bare=over_bare,
        )
    )
    artefact = made.artefact(name, method)
    artefact.mkdir(parents=True)
    (artefact / "adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}))
    save_file({"prompt_embeddings": zeros(2, 4) + value}, artefact / "adapter_model.safetensors")
    return str(folder)


def test_the_report_of_a_finished_run_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finished_run(folder, "small", "soft", 0.8, [0.1, 0.05, 0.15])
    [made] = lines(guideway(tmp_path, "studio", "report", str(folder), "--json"))
    assert made == {"report": str(folder / "report.html")}
    assert "/small/mood" in (folder / "report.html").read_text("utf-8")
    assert "| soft | max steps |" in (folder / "README.md").read_text("utf-8")


def test_publish_versions_diff_rollback_promote(tmp_path: Path, broker: RunningBroker, unique_name: str) -> None:
    environ = {"KAFKA_BOOTSTRAP_SERVERS": broker.cluster.brokers}
    name = unique_name

    def studio(*arguments: str) -> subprocess.CompletedProcess[str]:
        return guideway(tmp_path, "studio", *arguments, "--json", **environ)

    def run_of(method: str, value: float, over_bare: list[float]) -> str:
        return finished_run(tmp_path / method, name, method, value, over_bare)

    model = tmp_path / "model.yaml"
    model.write_text(
        f"kind: model/v1\nnamespace: public\nname: {name}\nsource: nowhere/model\nfingerprint: {FINGERPRINT}\n", "utf-8"
    )
    assert guideway(tmp_path, "apply", "-f", str(model), **environ).returncode == 0
    address = f"/{name}/mood"

    refused = studio("publish", run_of("noise", 0.71, [0.01, -0.02, 0.04]))
    assert json.loads(refused.stdout)["code"] == "not_better"
    assert [
        (one["what"], one["version"]) for one in lines(studio("publish", run_of("first", 0.8, [0.1, 0.05, 0.15])))
    ] == [
        (f"guidance {name}/mood-first", 1),
        (f"endpoint {name}/mood", 1),
    ]
    # A candidate that is better by less than the interval stays one; a better one takes the endpoint's place.
    lines(studio("publish", run_of("second", 0.82, [0.12, 0.07, 0.17]), "--candidate"))
    assert json.loads(studio("promote", address).stdout)["code"] == "not_better"
    lines(studio("publish", run_of("third", 0.95, [0.25, 0.2, 0.3]), "--candidate"))
    lines(studio("promote", address))
    versions = lines(studio("versions", address))
    assert [one["guidance"] for one in versions] == [f"{name}/mood-first@1", f"{name}/mood-third@1"]
    assert versions[1]["lineage"]["parent"] == f"{name}/mood-first@1"
    [changed] = lines(studio("diff", address, "1", "2"))
    assert changed["guidance"] == {"old": [f"{name}/mood-first@1"], "new": [f"{name}/mood-third@1"]}
    [back] = lines(studio("rollback", address))
    assert (back["version"], back["action"]) == (3, "updated")
    [changed] = lines(studio("diff", address, "1", "3"))
    assert changed == {}
    assert json.loads(studio("rollback", address, "--to", "9").stdout)["message"].endswith("no version 9, only 1, 2, 3")
