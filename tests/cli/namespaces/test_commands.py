"""`guideway namespaces`, `services` and `audit` as people run them, on a cluster that denies everything by default."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.secured.cluster import SecuredCluster


def guideway(home: Path, environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "guideway", *arguments],
        env=environ | {"GUIDEWAY_HOME": str(home), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_a_namespace_from_beginning_to_end(secured: SecuredCluster, unique_name: str, tmp_path: Path) -> None:
    ns, admin = unique_name, secured.environ("admin")

    def run(*arguments: str, code: int = 0) -> str:
        done = guideway(tmp_path, admin, *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("services", "create")
    printed = run("namespaces", "create", ns, "--principal", f"User:{ns}", "--print", "kafka-acls")
    assert f"--allow-principal User:{ns} --operation Read --operation Write --topic gw.{ns}.call.v1" in printed
    assert ns not in run("namespaces", "list", "--json")

    assert f"granted User:{ns}: write on topic gw.{ns}.call.v1" in run(
        "namespaces", "create", ns, "--principal", f"User:{ns}"
    )
    assert "all is there already" in run("namespaces", "create", ns)
    shown = json.loads(run("namespaces", "show", ns, "--json"))
    assert (shown["team"], shown["lacks"], shown["holds_rights"]) == ([f"User:{ns}"], [], True)
    assert f"User:{ns}" in run("namespaces", "list")

    assert "say --yes where nobody can be asked" in run("namespaces", "delete", ns, code=1)
    assert f"took away User:{ns}: write on topic gw.{ns}.call.v1" in run(
        "namespaces", "delete", ns, "--yes", "--topics"
    )
    assert "has no namespace" in run("namespaces", "show", ns, code=1)
    run("audit")


@pytest.mark.parametrize(
    "arguments",
    [
        ("namespaces", "list"),
        ("namespaces", "create", "shop", "--principal", "User:team-a"),
        ("namespaces", "delete", "shop"),
        ("services", "create"),
        ("audit",),
    ],
)
def test_a_team_is_told_that_this_is_an_administrators(
    secured: SecuredCluster, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = guideway(tmp_path, secured.environ("team-a"), *arguments)
    assert done.returncode == 1
    assert "an administrator" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_service_changes_its_login(secured: SecuredCluster, tmp_path: Path, unique_name: str) -> None:
    admin, new = secured.environ("admin"), f"User:{unique_name}-trainer"
    guideway(tmp_path, admin, "services", "create")
    last = guideway(tmp_path, admin, "services", "delete", "--principal", "User:gw-trainer", "--yes")
    assert (last.returncode, "nobody could run as trainer" in last.stderr) == (1, True), last.stderr
    both = ("--trainer", "User:gw-trainer", "--trainer", new)
    assert guideway(tmp_path, admin, "services", "create", *both).returncode == 0
    gone = guideway(tmp_path, admin, "services", "delete", "--principal", new, "--yes")
    assert f"took away {new}: read on group gw.trainers" in gone.stdout, gone.stderr
    assert "no service of ours" in guideway(tmp_path, admin, "services", "delete", "--principal", new, "--yes").stderr
