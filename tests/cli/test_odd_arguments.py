"""Whatever is given to a command, it ends in a result, a refusal or a line on its usage; never in a stack trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from guideway.cli import app
from guideway.schemas.failures import Refusal
from guideway.usecases.unforeseen import refusal_of

COMMANDS = [
    "apply -f",
    "apply --dry-run -f",
    "diff -f",
    "topics apply -f",
    "get",
    "describe",
    "describe endpoint",
    "delete",
    "delete endpoint",
    "send",
    "send /t/e",
    "send /t/e x --timeout",
    "send /t/e x --deadline",
    "send /t/e -f",
    "cancel",
    "cancel /t/e",
    "tail",
    "tail /t/e -n",
    "dlq show",
    "dlq show x --code",
    "dlq replay x --offset",
    "sets show",
    "sets create t/f",
    "sets create t/f ok.txt --max-chars",
    "sets alias t/f",
    "sets delete",
    "sets eval t/f",
    "studio submit",
    "studio publish",
    "studio report",
    "studio evaluate",
    "studio versions",
    "studio diff /t/e 1",
    "studio rollback /t/e --to",
    "studio promote",
    "studio cancel",
]
ODD = [
    "",
    "-",
    "t/e@",
    "t/e@x",
    "t/e@" + "9" * 5000,
    "9" * 5000,
    "-1",
    "nan",
    "\u0663",
    "\u00b2:\u00b2",
    "[/red]",
    "\x1b[31m",
    "\udcff",
    "x" * 300,
    "{" * 5000,
    "/dev/null",
    "folder",
    "binary",
    "task.yaml",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_argument_ends_in_a_stack_trace(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "ok.txt").write_text("A text.")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "task.yaml").write_text("kind: task/v1\nnamespace: t\nendpoint: &e e\nmodel_sizes: [*e]\ndata: {}\n")
    monkeypatch.setenv("GUIDEWAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    for odd in ODD:
        found = CliRunner().invoke(app, [*command.split(), odd], input="").exception
        if isinstance(found, UnicodeEncodeError):
            assert "surrogates" in found.reason, odd
        elif isinstance(found, OSError):
            assert refusal_of(found) is not None, odd
        else:
            assert isinstance(found, SystemExit | Refusal | None), (odd, found)
    assert os.getcwd() == str(tmp_path)
