"""The clients of examples/ say how they are used where they are used otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.rooms import ROOT

_CLIENTS = ROOT / "examples" / "clients"


@pytest.mark.parametrize("arguments", [["a:1", "/shop/mood"], ["a:1", "/shop/mood", "text", "soon"]])
@pytest.mark.parametrize("client", ["confluent_client.py", "faststream_client.py", "grpc_python/client.py", "rest.sh"])
def test_wrong_usage_is_told_as_that(client: str, arguments: list[str]) -> None:
    command = ["bash" if client.endswith(".sh") else sys.executable, str(_CLIENTS / client), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, "Traceback" in run.stderr) == (64, False)
    assert client.rpartition("/")[2] in run.stderr
