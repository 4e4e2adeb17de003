"""The command line without a broker: help that teaches, refusals in one line, settings, the demo's choice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guideway.cli.demo import EXAMPLES, Plan, most_mixed
from guideway.cli.supervise import FINAL_CODES
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.workers.messages import BatchReport, RowReport


def guideway(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "guideway", *arguments],
        env={"PATH": "", "GUIDEWAY_HOME": str(home), "COLUMNS": "120", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [
        "apply",
        "get",
        "describe",
        "delete",
        "send",
        "cancel",
        "tail",
        "dlq",
        "endpoints",
        "worker",
        "studio",
        "doctor",
        "demo",
    ],
)
def test_every_command_has_help(tmp_path: Path, command: str) -> None:
    run = guideway(tmp_path, command, "--help")
    assert run.returncode == 0
    assert "Usage" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["get"], "broker_unreachable", "guideway broker up"),
        (["send", "/public/x", "hi"], "broker_unreachable", "KAFKA_BOOTSTRAP_SERVERS"),
        (["apply", "-f", "nowhere"], "invalid_manifest", "no file or folder nowhere"),
        (["send", "/public/x"], "invalid_setting", "nothing to send"),
        (["send", "/public/x", "-f", "pyproject.toml", "--id", "a"], "invalid_setting", "--id names one event"),
        (["cancel", "/public/x", "a"], "broker_unreachable", "guideway broker up"),
        (["get", "things"], "invalid_setting", "endpoints, guidance or models"),
        (["worker", "--no-restart", "--lanes", "fast"], "invalid_setting", "interactive, batch"),
    ],
)
def test_refusals_are_one_line_with_what_to_change(tmp_path: Path, arguments: list[str], code: str, hint: str) -> None:
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"} if "worker" in arguments else {}
    run = guideway(tmp_path, *arguments, **environ)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"{code}: ")
    assert hint in line


def test_refusals_are_json_where_json_was_asked_for(tmp_path: Path) -> None:
    run = guideway(tmp_path, "get", "--json")
    assert (run.returncode, json.loads(run.stdout)["code"]) == (1, "broker_unreachable")


def test_a_supervised_process_that_is_refused_is_not_started_again(tmp_path: Path) -> None:
    run = guideway(tmp_path, "endpoints")
    assert run.returncode == 1
    assert run.stderr.count("broker_unreachable") == 1


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    settings = Settings.from_environ({"GUIDEWAY_HOME": str(tmp_path), "GUIDEWAY_STORE": "s3://bucket/artefacts"})
    assert settings.store == "s3://bucket/artefacts"
    assert settings.model_cache == tmp_path / "models"
    with pytest.raises(Refusal) as caught:
        settings.brokers()
    assert caught.value.code is FailureCode.BROKER_UNREACHABLE
    assert Settings.from_environ({"KAFKA_BOOTSTRAP_SERVERS": "a:1"}).brokers() == "a:1"


def test_the_demo_shows_the_most_mixed_batch() -> None:
    def batch(step: int, *namespaces: str) -> BatchReport:
        rows = [RowReport(request_id="r", namespace=one, endpoint="e", guidance=[one]) for one in namespaces]
        return BatchReport(step=step, rows=rows)

    chosen = most_mixed([batch(1, "a", "a", "a"), batch(2, "a", "b"), batch(3, "b", "c", "a"), batch(4)])
    assert chosen is not None
    assert chosen.step == 3
    assert most_mixed([]) is None


def test_the_demos_plan_names_endpoints_and_rows_that_exist() -> None:
    import msgspec
    import yaml

    from guideway.catalogue.files import read
    from guideway.schemas.manifests import Endpoint

    plan = msgspec.convert(yaml.safe_load((EXAMPLES / "demo" / "plan.yaml").read_text()), Plan)
    known = {one.address for _, one in read(EXAMPLES / "demo" / "manifests") if isinstance(one, Endpoint)}
    named = {one.endpoint for one in plan.questions}
    named |= {endpoint for one in plan.comparisons for endpoint in (one.guided, one.bare)}
    assert named <= known
    assert len(known) >= 9
    assert all((EXAMPLES / "data" / one.data).is_file() for one in plan.comparisons)


def test_a_bug_of_ours_ends_in_another_code_than_a_refusal(tmp_path: Path) -> None:
    """The supervisor restarts after the one and not after the other."""
    (tmp_path / "broker").write_text("a file where a folder belongs")
    run = guideway(tmp_path, "broker", "up")
    assert run.returncode == 70
    assert run.returncode not in FINAL_CODES


def test_a_supervised_process_has_its_time_to_end(tmp_path: Path) -> None:
    """SIGTERM is passed on, and what takes the child two seconds is not cut short."""
    child = tmp_path / "guideway.py"
    child.write_text(
        "import signal, sys, time, pathlib\n"
        "def end(*_):\n"
        "    time.sleep(2); pathlib.Path('ended').write_text('x'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "pathlib.Path('ready').write_text('x')\n"
        "time.sleep(60)\n"
    )
    program = (
        "import sys, guideway.cli.supervise as s, subprocess\n"
        f"s._start = lambda arguments: subprocess.Popen([sys.executable, {str(child)!r}])\n"
        "sys.exit(s.supervise([]))\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    supervisor.terminate()
    assert supervisor.wait(20) == 0
    assert (tmp_path / "ended").exists()
