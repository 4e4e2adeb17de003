"""The example clients, which have docs/wire.md and no code of ours: how each is run."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from guideway.infra.apache_kafka import java
from guideway.schemas.failures import Refusal

CLIENTS: Final = ("kcat", "confluent-kafka", "faststream", "kafkajs", "spring")
_HERE: Final = Path(__file__).resolve().parents[2] / "examples" / "clients"


def command_of(client: str) -> list[str]:
    """How an example client is run; skips where what it needs is missing."""
    match client:
        case "kcat":
            if shutil.which("kcat") is None:
                pytest.skip("kcat is not installed (Debian: apt-get install kcat)")
            return [str(_HERE / "kcat.sh")]
        case "confluent-kafka":
            return [sys.executable, str(_HERE / "confluent_client.py")]
        case "faststream":
            if find_spec("faststream") is None:
                pytest.skip("faststream is not installed (pip install 'faststream[kafka]')")
            return [sys.executable, str(_HERE / "faststream_client.py")]
        case "kafkajs":
            node = shutil.which("node")
            if node is None or not (_HERE / "kafkajs" / "node_modules" / "kafkajs").is_dir():
                pytest.skip("node or kafkajs is not installed (npm install in examples/clients/kafkajs)")
            return [node, str(_HERE / "kafkajs" / "client.mjs")]
        case "spring":
            return _spring()
    raise ValueError(client)


def _spring() -> list[str]:
    libraries, home = os.environ.get("GUIDEWAY_SPRING_CALLER"), os.environ.get("KAFKA_HOME")
    if not libraries or not home:
        pytest.skip("set KAFKA_HOME, and GUIDEWAY_SPRING_CALLER to a folder with Spring's jars in libs/")
    try:
        program = java(os.environ)
    except Refusal as refusal:
        pytest.skip(refusal.message)
    if not Path(program).resolve().with_name("javac").exists():
        pytest.skip("the Java here has no compiler: install a JDK")
    path = os.pathsep.join([f"{libraries}/libs/*", f"{home}/libs/*"])
    return [program, "-XX:TieredStopAtLevel=1", "-cp", path, str(_HERE / "spring" / "SpringClient.java")]
