"""One or three Apache Kafka brokers on 127.0.0.1 that a test may kill, stop, pause and start.

    with KafkaCluster.up(folder, brokers=3) as cluster:
        cluster.kill(2)
        cluster.start(2)

Each broker has two addresses for clients: CLIENT, which can be advertised as the port of a proxy in front of it, and
INTERNAL, for the brokers among themselves and for readers that no fault of the network is to touch.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from guideway.delivery.connection.cluster import Cluster
from guideway.infra import apache_kafka
from guideway.infra.processes import HOST, Process, end, is_free, kill
from guideway.infra.starting import await_answer
from guideway.schemas.failures import FailureCode, Refusal

HEAP_OF_SEVERAL_MB: Final = 320
NO_KAFKA: Final = "set KAFKA_HOME to an unpacked Apache Kafka (https://kafka.apache.org/downloads) to run this on it"

_BELOW_EPHEMERAL: Final = range(15_000, 32_000)


@dataclass
class KafkaCluster:
    """A running cluster; owns its processes. Methods wait for what they do: call them with `asyncio.to_thread`."""

    folder: Path
    home: Path
    properties: Mapping[int, Mapping[str, str]]
    client_ports: Mapping[int, int]
    """Where the brokers listen for clients: where a proxy connects to."""
    internal_ports: Mapping[int, int]
    advertised_ports: Mapping[int, int]
    environ: Mapping[str, str]
    format_options: Sequence[str] = ()
    """Options of `kafka-storage format`."""
    quick: bool = True
    """Whether brokers start quickly and run slowly: without the compiler that pays off after minutes, and by which Java
    encrypts in hardware."""
    _cluster_id: str = field(default_factory=apache_kafka.new_cluster_id)
    _processes: dict[int, Process] = field(default_factory=dict)

    @classmethod
    def up(
        cls,
        folder: Path,
        brokers: int = 3,
        settings: Mapping[str, str] | None = None,
        *,
        advertise: Mapping[int, int] | None = None,
        environ: Mapping[str, str] | None = None,
        format_options: Sequence[str] = (),
        listener: str = "",
        quick: bool = True,
    ) -> KafkaCluster:
        """Start brokers 1 to `brokers` in an empty folder; returns once each of them lists them all.

        `settings` are broker properties beside or instead of `node_settings`. `advertise` says for each broker to which
        port of 127.0.0.1 clients are sent; by default to the broker itself. `listener`, `NAME://127.0.0.1:PORT`, is a
        further address of an only broker.
        Raises Refusal: INVALID_SETTING without a KAFKA_HOME or Java, BROKER_UNREACHABLE when a broker does not come up.
        """
        environ = os.environ if environ is None else environ
        if not environ.get("KAFKA_HOME"):
            raise Refusal(FailureCode.INVALID_SETTING, NO_KAFKA)
        home = Path(environ["KAFKA_HOME"]).resolve()
        apache_kafka.check_home(home)
        ids = range(1, brokers + 1)
        ports = steady_ports(3 * brokers, taken=(advertise or {}).values())
        client, internal, control = (dict(zip(ids, ports[i::3], strict=True)) for i in range(3))
        advertised = dict(advertise or client)
        properties = {
            broker: node_settings(broker, folder / f"broker-{broker}", client, internal, control, advertised)
            | dict(settings or {})
            for broker in ids
        }
        if listener:
            for name in ("listeners", "advertised.listeners"):
                properties[1][name] += f",{listener}"
        cluster = cls(folder, home, properties, client, internal, advertised, environ, format_options, quick)
        try:
            cluster.start(*ids, listing=tuple(ids))
        except BaseException:
            cluster.down()
            raise
        return cluster

    @property
    def brokers(self) -> tuple[int, ...]:
        """The ids of all brokers, whether they run or not."""
        return tuple(self.properties)

    @property
    def cluster(self) -> Cluster:
        """Where clients connect: the advertised ports."""
        return Cluster(_addresses(self.advertised_ports))

    @property
    def internal(self) -> Cluster:
        """The brokers themselves, past any proxy, whose answers lead past it too."""
        return Cluster(_addresses(self.internal_ports))

    def pid(self, broker: int) -> int | None:
        """The process id of a broker that runs or is paused, or None."""
        process = self._processes.get(broker)
        return process.pid if process is not None and process.alive else None

    def start(self, *brokers: int, listing: tuple[int, ...] = ()) -> None:
        """Start brokers that do not run; returns once each answers and lists itself, and those in `listing`.

        Where most brokers are down, none answers alone: name all of them in one call.
        Raises Refusal(BROKER_UNREACHABLE) after 90 s.
        """
        idle = [broker for broker in brokers if self.pid(broker) is None]
        with ThreadPoolExecutor() as threads:
            list(threads.map(self._launch, idle))
        for broker in idle:
            await_answer(
                self._processes[broker],
                self.internal_ports[broker],
                log=self._place(broker) / apache_kafka.LOG,
                what=f"broker {broker}",
                timeout_s=apache_kafka.START_TIMEOUT_S,
                listing={broker, *listing},
            )

    def stop(self, broker: int) -> None:
        """End a broker by SIGTERM, so that it hands its partitions over; by SIGKILL after 30 s."""
        if broker in self._processes:
            end(self._processes.pop(broker))

    def kill(self, broker: int) -> None:
        """End a broker by SIGKILL."""
        if broker in self._processes:
            kill(self._processes.pop(broker))

    def pause(self, broker: int) -> None:
        """SIGSTOP: the broker keeps its connections and says nothing. Returns when each of its threads stands."""
        self._signal(broker, signal.SIGSTOP)
        until = time.monotonic() + 10
        while not all(_stands(thread) for thread in Path(f"/proc/{self.pid(broker)}/task").iterdir()):
            assert time.monotonic() < until, f"broker {broker} does not stop"
            time.sleep(0.01)

    def resume(self, broker: int) -> None:
        """SIGCONT: a paused broker goes on where it was."""
        self._signal(broker, signal.SIGCONT)

    def down(self) -> None:
        """End all brokers at once. Their logs and records stay in the folder."""
        for broker in self.brokers:
            self.kill(broker)

    def __enter__(self) -> KafkaCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _place(self, broker: int) -> Path:
        return self.folder / f"broker-{broker}"

    def _launch(self, broker: int) -> None:
        heap_mb = apache_kafka.HEAP_MB if len(self.brokers) == 1 else HEAP_OF_SEVERAL_MB
        self._processes[broker] = apache_kafka.launch(
            self._place(broker),
            self.home,
            self.properties[broker],
            environ=self.environ,
            java_options=(f"-Xmx{heap_mb}m", *(["-XX:TieredStopAtLevel=1"] if self.quick else [])),
            cluster_id=self._cluster_id,
            format_options=self.format_options,
        )

    def _signal(self, broker: int, signum: int) -> None:
        if (pid := self.pid(broker)) is None:
            raise ValueError(f"broker {broker} does not run")
        os.kill(pid, signum)


def _stands(thread: Path) -> bool:
    """Whether a thread is stopped, or gone."""
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "TtX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def node_settings(
    broker: int,
    place: Path,
    client: Mapping[int, int],
    internal: Mapping[int, int],
    control: Mapping[int, int],
    advertised: Mapping[int, int],
) -> dict[str, str]:
    """A broker's properties: those of guideway's own broker but for what a cluster needs, and what tests must not ease.

    The last four are the ports of all brokers.
    """
    copies, in_sync = str(min(3, len(client))), str(min(2, len(client)))
    shared = apache_kafka.settings(client[broker], control[broker], place / "data")
    # Guarantees have to hold on Kafka's own 4096.
    del shared["offset.metadata.max.bytes"]
    addresses = f"CLIENT://{HOST}:{{}},INTERNAL://{HOST}:{internal[broker]}"
    return shared | {
        "node.id": str(broker),
        "controller.quorum.voters": ",".join(f"{node}@{HOST}:{port}" for node, port in control.items()),
        "listeners": addresses.format(client[broker]) + f",CONTROLLER://{HOST}:{control[broker]}",
        "advertised.listeners": addresses.format(advertised[broker]),
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INTERNAL",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "8",
        # A killed broker is missed, and may register again, once its session is over: 9 s by default.
        "broker.session.timeout.ms": "5000",
        "broker.heartbeat.interval.ms": "500",
    }


def steady_ports(count: int, taken: Collection[int] = ()) -> list[int]:
    """`count` free ports, none of those `taken`, that no outgoing connection is given: a broker that was killed finds
    its own again.
    """
    # A client that tries a dead broker's ephemeral port again and again can even end up connected to itself.
    found: set[int] = set()
    while len(found) < count:
        port = random.choice(_BELOW_EPHEMERAL)
        if port not in taken and is_free(port):
            found.add(port)
    return list(found)


def _addresses(ports: Mapping[int, int]) -> str:
    return ",".join(f"{HOST}:{port}" for port in ports.values())
