"""The command line without a broker: help that teaches, refusals in one line, settings, the demo's choice."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.cli import app
from guideway.cli.demo.demo import EXAMPLES
from guideway.cli.demo.plan import DemoPlan
from guideway.cli.demo.report import most_mixed
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.usecases.supervise import EXIT_UNAVAILABLE, FINAL_CODES
from guideway.workers.messages.from_engine import BatchReport, RowReport


def guideway(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "guideway", *arguments],
        # The same code as here, wherever it lies.
        env={
            "PATH": "",
            "GUIDEWAY_HOME": str(home),
            "COLUMNS": "120",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [
        "apply",
        "diff",
        "schema",
        "get",
        "describe",
        "delete",
        "sets",
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
        (["get", "things"], "invalid_setting", "endpoint, guidance, model, set, alias"),
        (["sets", "list"], "broker_unreachable", "guideway broker up"),
        (["sets", "create", "team/facts", "nowhere.txt"], "document_unreadable", "no file or folder nowhere.txt"),
        (["sets", "create", "Facts", "pyproject.toml"], "invalid_setting", "write NAMESPACE/NAME"),
        (["sets", "create", "team/facts", "pyproject.toml"], "document_unreadable", "of no known type"),
        (["worker", "--no-restart", "--lanes", "fast"], "invalid_setting", "interactive, batch"),
        (["apply", "-f", "x" * 300], "invalid_manifest", "cannot be read: File name too long"),
        (["dlq", "replay", "/public/x", "--offset", "0:" + "9" * 5000], "invalid_setting", "PARTITION:OFFSET"),
        (["trainer", "--no-restart", "--jobs", "/dev/null/x"], "broker_unreachable", "guideway broker up"),
    ],
)
def test_refusals_are_one_line_with_what_to_change(tmp_path: Path, arguments: list[str], code: str, hint: str) -> None:
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"} if "worker" in arguments else {}
    run = guideway(tmp_path, *arguments, **environ)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"{code}: ")
    assert hint in line


@pytest.mark.parametrize("given", ["nan", "inf", "-inf", "-1", "1e300", "0"])
@pytest.mark.parametrize("option", ["--timeout", "--deadline"])
def test_a_time_that_is_none_is_wrong_usage(option: str, given: str) -> None:
    """typer's own bounds let `nan` pass."""
    result = CliRunner().invoke(app, ["send", "/public/x", "hi", option, given], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "is not in the range from 0.001 to 1e+09" in result.output


@pytest.mark.parametrize("address", ["foo://x", "s3://bucket/x"])
def test_a_store_that_cannot_be_opened_is_refused_by_the_name_of_the_setting(address: str) -> None:
    if address.startswith("s3") and importlib.util.find_spec("s3fs") is not None:
        pytest.skip("s3fs is installed")
    with pytest.raises(Refusal, match=f"GUIDEWAY_STORE is '{address}', which cannot be opened") as caught:
        ArtefactStore(address)
    assert caught.value.code is FailureCode.INVALID_SETTING


def test_refusals_are_json_where_json_was_asked_for(tmp_path: Path) -> None:
    run = guideway(tmp_path, "get", "--json")
    assert (run.returncode, json.loads(run.stdout)["code"]) == (1, "broker_unreachable")


def test_a_supervised_process_that_is_refused_is_not_started_again(tmp_path: Path) -> None:
    run = guideway(tmp_path, "endpoints")
    assert run.returncode == 1
    assert run.stderr.count("broker_unreachable") == 1


def test_what_may_heal_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    """Whoever keeps the service running starts it again."""
    run = guideway(tmp_path, "endpoints", "--no-restart", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert run.returncode == EXIT_UNAVAILABLE
    assert run.stderr.count("broker_unreachable") == 1
    assert EXIT_UNAVAILABLE not in FINAL_CODES


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    settings = Settings.from_environ({"GUIDEWAY_HOME": str(tmp_path), "GUIDEWAY_STORE": "s3://bucket/artefacts"})
    assert settings.store == "s3://bucket/artefacts"
    assert settings.model_cache == tmp_path / "models"
    with pytest.raises(Refusal) as caught:
        settings.cluster()
    assert caught.value.code is FailureCode.BROKER_UNREACHABLE
    assert Settings.from_environ({"KAFKA_BOOTSTRAP_SERVERS": "a:1"}).cluster() == Cluster("a:1")


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

    from guideway.catalogue.documents.manifest_files import read_manifests
    from guideway.schemas.manifests import Endpoint

    plan = msgspec.convert(yaml.safe_load((EXAMPLES / "demo" / "plan.yaml").read_text()), DemoPlan)
    applied = [*read_manifests(EXAMPLES / "demo" / "manifests"), *read_manifests(EXAMPLES / "demo" / "asking")]
    known = {one.manifest.address for one in applied if isinstance(one.manifest, Endpoint)}
    named = {one.endpoint for one in plan.questions}
    named |= {endpoint for one in plan.comparisons for endpoint in (one.guided, one.bare)}
    named |= {endpoint for one in plan.side_by_side for endpoint in one.endpoints}
    assert named <= known
    assert all(len(one.columns) in (0, len(one.endpoints)) for one in plan.side_by_side)
    assert len(known) >= 9
    assert all((EXAMPLES / "data" / one.data).is_file() for one in plan.comparisons)
    assert all((EXAMPLES / "data" / one.documents).is_file() for one in plan.sets)


def test_a_bug_of_ours_ends_in_another_code_than_a_refusal(tmp_path: Path) -> None:
    """The supervisor restarts after the one and not after the other; nobody reads a stack trace."""
    program = "import guideway.cli as cli\ndef app(): {}['secret']\ncli.app = app\ncli.main()"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "GUIDEWAY_HOME": str(tmp_path), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 70
    assert run.returncode not in FINAL_CODES
    (line,) = run.stderr.splitlines()
    assert line.startswith("internal_error: KeyError at ")
    details = Path(line.rpartition(" with ")[2])
    assert details.parent == tmp_path / "errors"
    assert "Traceback" in details.read_text()


@pytest.mark.parametrize(
    "bootstrap",
    [
        "127.0.0.1:70000",
        "127.0.0.1:0",
        "127.0.0.1",
        "127.0.0.1:",
        ":9092",
        "a:1,",
        ",a:1",
        "a:1;b:2",
        "http://a:9092",
        "SASL_SSL://a:9092",
        "::1:9092",
        "[::1]",
        "a b:9092",
        "a..b:9092",
        "-a:9092",
        f"{'a' * 64}:9092",
        "[x]:9092",
        "a:9092/x",
        "a:99999999999999999999",
        "ä:9092",
        "a:\u0661",
    ],
)
def test_what_is_no_broker_is_refused_by_the_name_of_the_setting(bootstrap: str) -> None:
    with pytest.raises(Refusal, match=r"KAFKA_BOOTSTRAP_SERVERS is .* is no broker: write host:port") as caught:
        Settings.from_environ({"KAFKA_BOOTSTRAP_SERVERS": bootstrap}).cluster()
    assert caught.value.code is FailureCode.INVALID_SETTING


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (" a:1 , b.example.org:65535 ", "a:1,b.example.org:65535"),
        ("[::1]:9092,[fe80::1%eth0]:9092", "[::1]:9092,[fe80::1%eth0]:9092"),
        ("broker_1:9092", "broker_1:9092"),
        ("127.0.0.1:9092", "127.0.0.1:9092"),
        ("kafka.svc.cluster.local.:9092", "kafka.svc.cluster.local.:9092"),
    ],
)
def test_brokers_may_be_written_in_several_ways(given: str, read: str) -> None:
    assert Settings.from_environ({"KAFKA_BOOTSTRAP_SERVERS": given}).cluster().brokers == read


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
def test_a_home_that_can_be_no_folder_is_refused_by_its_name(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    for command in (["get"], ["broker", "up"]) if place == "file" else (["doctor"],):
        run = guideway(tmp_path / place, *command)
        assert (run.returncode, run.stderr.count("\n")) == (1, 1)
        assert run.stderr.startswith("invalid_setting: GUIDEWAY_HOME, ")


def test_what_the_machine_does_not_give_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broker").write_text("a file where a folder belongs")
    run = guideway(tmp_path, "broker", "up")
    assert run.returncode == 74
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"invalid_setting: {tmp_path / 'broker'}: File exists")


def test_empty_settings_are_settings_that_are_not_there() -> None:
    settings = Settings.from_environ({"GUIDEWAY_HOME": "", "GUIDEWAY_STORE": " ", "KAFKA_BOOTSTRAP_SERVERS": " "})
    assert settings.store == str(settings.home / "store")
    assert settings.named is None
