"""A namespace made by the command: its team applies, sends, receives and deletes with rights of its own only.

The steward and the endpoint service run as processes with logins of their own. There is no worker: what the endpoint
service answers by itself is answer enough.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.secured.cluster import SecuredCluster

from guideway import BlockingClient, Cluster, Failed, FailureCode

ENDPOINT = "kind: endpoint/v1\nnamespace: {}\nname: round\nmodel_size: small\noutput: {{type: boolean}}\n"


class Machine:
    """Commands and services of guideway on this machine, each with a login."""

    def __init__(self, home: Path, secured: SecuredCluster) -> None:
        self._home, self._secured = home, secured

    def _started(self, principal: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "guideway", *arguments],
            env=self._secured.environ(principal) | {"GUIDEWAY_HOME": str(self._home), "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, principal: str, *arguments: str, code: int = 0) -> str:
        """What the command says."""
        process = self._started(principal, *arguments)
        said, _ = process.communicate(timeout=90)
        assert process.returncode == code, said
        return said

    @contextlib.contextmanager
    def service(self, principal: str, *arguments: str) -> Iterator[None]:
        """Until the end of the block; ended by its process id."""
        process = self._started(principal, *arguments, "--no-restart")
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGTERM)
            try:
                process.communicate(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def test_a_team_works_in_its_namespace_and_in_no_other(
    secured: SecuredCluster, unique_name: str, tmp_path: Path
) -> None:
    ns, other, machine = unique_name, f"{unique_name}0", Machine(tmp_path, secured)
    machine.run("admin", "services", "create")
    machine.run("admin", "apply", "--with-small")
    for one in (ns, other):
        secured.add_principal(one)
        machine.run("admin", "namespaces", "create", one, "--principal", f"User:{one}")
    mine, theirs = tmp_path / "mine.yaml", tmp_path / "theirs.yaml"
    mine.write_text(ENDPOINT.format(ns), encoding="utf-8")
    theirs.write_text(ENDPOINT.format(other), encoding="utf-8")
    with machine.service("gw-steward", "steward"), machine.service("gw-endpoints", "endpoints"):
        machine.run(ns, "apply", "-f", str(mine))
        cluster = Cluster.from_environ(secured.environ(ns))
        assert cluster is not None
        with BlockingClient(cluster) as client:
            answer = client.submit(f"/{ns}/round", {"text": "Is it?", "colour": "red"}, timeout_s=60)
        assert isinstance(answer, Failed)
        assert answer.code is FailureCode.UNKNOWN_FIELD

        for arguments in (("apply", "-f", str(theirs)), ("delete", "endpoint", f"{other}/round")):
            assert "not_allowed" in machine.run(ns, *arguments, code=1)
        assert other not in machine.run(ns, "get")

        machine.run(ns, "delete", "endpoint", f"{ns}/round")
        ends_at, told = time.monotonic() + 60, list[tuple[str, str]]()
        while ("deleted", f"User:{ns}") not in told:
            # The steward tells of it when it has read it.
            assert time.monotonic() < ends_at, told
            lines = map(json.loads, machine.run("admin", "audit", ns, "--json").splitlines())
            told = [(one["action"], one["principal"]) for one in lines if one["service"] == "steward"]
        assert told == [("applied", f"User:{ns}"), ("deleted", f"User:{ns}")]
