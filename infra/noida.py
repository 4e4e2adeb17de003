"""noida-db, the stand-in where no Kafka is there: one binary in a wheel, which keeps records in memory."""

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
    """The program inside the installed wheel `noida-db`, or None where it is not installed."""
    spec = find_spec("noida_db")
    for place in (spec and spec.submodule_search_locations) or []:
        if (found := Path(place, "noida-db")).is_file():
            return found
    return None


def start(folder: Path, *, environ: Mapping[str, str], progress: Progress) -> Started:
    """Start noida-db's Kafka service, empty, on a free port.

    The binary itself is started: the console script only waits for it, and ending the script would leave it behind.
    Raises Refusal: INVALID_SETTING where the wheel is not installed, BROKER_UNREACHABLE when it does not come up.
    """
    if (program := binary()) is None:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            "there is no broker to start: `pip install guideway[local]` for noida-db, set KAFKA_HOME to an unpacked "
            "Apache Kafka, or KAFKA_BOOTSTRAP_SERVERS to a cluster that runs",
        )
    # Installers do not keep the execute bit of package data.
    if not os.access(program, os.X_OK):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    # It would find its old topics again, but not surely all of them: better none.
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
    """Remove what it saved."""
    shutil.rmtree(folder, ignore_errors=True)
