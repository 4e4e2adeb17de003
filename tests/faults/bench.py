"""A group of workers with a fake engine on a real cluster, fed and read from outside; what came of every request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.clients.administrator import administrator
from guideway.delivery.clients.kafka_client import make_consumer, make_producer
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import group_guards
from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.infra import topics
from guideway.infra.rights import held
from guideway.infra.rights.services import service_rights
from guideway.infra.rights.spaces import Services, Space, space_rights
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import FailureCode
from guideway.schemas.generation import Generation
from guideway.schemas.manifests import Endpoint, Model
from guideway.schemas.names import header
from guideway.schemas.names.addresses import PUBLIC
from guideway.schemas.names.groups import workers_group
from guideway.schemas.names.topics import dead_letter_topic, reply_topic, request_topic
from guideway.schemas.output import Text
from guideway.schemas.reply import Completed, Failed
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.schemas.wire import REPLY, REQUEST

from .fake_engine import FINGERPRINT, answer_to, told
from .worker_process import Config

ROOT = Path(__file__).resolve().parents[2]
GENERATION = Generation(max_tokens=16)
NAMESPACE, ENDPOINT = "faults", "echo"
PARTITIONS = 6
STRAGGLERS_S = 5.0
"""How long a result that should not come is waited for."""

TextOf = Callable[[int, random.Random], str]


def usual_text(number: int, chance: random.Random) -> str:
    """A request of the usual heavy tail: most take some 50 ms, some a second or two; a fifth of a second on average."""
    ms = chance.choices((chance.uniform(20, 100), chance.uniform(200, 600), chance.uniform(1000, 2000)), (80, 15, 5))
    return f"n={number} ms={ms[0]:.0f}"


@dataclass
class WorkerProcess:
    """One process of the group, started again when it ends, as a supervisor does it."""

    config: Path
    log: Path
    environ: Mapping[str, str]
    ended: list[int] = field(default_factory=list)
    """Exit codes so far."""
    _process: subprocess.Popen[bytes] | None = None
    _keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    def send(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60) -> int:
        """End it for good; returns its exit code."""
        if self._keeper is not None:
            self._keeper.cancel()
        self.send(number)
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, timeout_s)

    async def _keep(self) -> None:
        while True:
            self._process = self._spawn()
            while self._process.poll() is None:
                await asyncio.sleep(0.1)
            self.ended.append(self._process.returncode)
            await asyncio.sleep(0.5)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.faults.worker_process", str(self.config)]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self.environ, cwd=ROOT)


class Bench:
    """`async with Bench(...)`: topics made and readers running; workers are started by `start_workers`."""

    def __init__(
        self, folder: Path, clients: Cluster | Path, inside: Cluster, *, seed: int = 1, reply_partitions: int = 4
    ) -> None:
        """`clients`: cluster for the workers, perhaps through a proxy, or a client.properties of theirs, where the
        cluster holds rights; `inside`: for us, past it.
        """
        self.folder = folder
        self.clients, self.inside = clients, inside
        self._reply_partitions = reply_partitions
        self.size = f"s{os.urandom(4).hex()}"
        self.group = workers_group(self.size)
        self.requests = request_topic(self.size, "interactive")
        self.replies = reply_topic(NAMESPACE, self.size)
        self.dead = dead_letter_topic(self.requests)
        self.workers: list[WorkerProcess] = []
        self.texts: dict[str, str] = {}
        self.seen: list[tuple[float, str]] = []
        """When (`time.monotonic`) the reader that was there from the start saw a reply, and for which request."""
        self._chance = random.Random(seed)
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Bench:
        model = Model(name=self.size, namespace="public", source="fake", fingerprint=FINGERPRINT, partitions=PARTITIONS)
        endpoint = Endpoint(
            namespace=NAMESPACE,
            name=self.size,
            model_size=self.size,
            output=Text(),
            generation=GENERATION,
            partitions=self._reply_partitions,
        )
        await make_topics(self.inside, topics.wanted([model, endpoint]))
        async with CatalogueFollower(self.inside) as reader:
            # The worker takes only what agrees with the catalogue.
            await publish(self.inside, plan_changes(reader.catalogue, [model, endpoint]))
        if isinstance(self.clients, Path):
            await self._give_rights()
        self._reader = asyncio.create_task(self._read_along())
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        for worker in self.workers:
            with contextlib.suppress(Exception):
                worker.send(signal.SIGCONT)
                await worker.stop(signal.SIGKILL)

    async def _give_rights(self) -> None:
        """Those of a worker, and no others."""
        spaces = (Space(NAMESPACE, endpoints=(self.size,)), Space(PUBLIC))
        rights = service_rights(Services(), [self.size])
        rights += [right for space in spaces for right in space_rights(space, Services())]
        async with administrator(self.inside) as admin:
            await held.grant(admin, list(dict.fromkeys(rights)))

    # Feeding ---------------------------------------------------------------------------------------------------------

    async def submit(self, count: int, text_of: TextOf = usual_text, *, to: str | None = None) -> None:
        """Publish requests; returns once the cluster has them all."""
        async with make_producer(self.inside, "test", linger_ms=5) as producer:
            sent = []
            for number in range(len(self.texts), len(self.texts) + count):
                text = text_of(number, self._chance)
                id_ = f"r{number}"
                self.texts[id_] = text
                sent.append(await producer.send(to or self.requests, key=id_.encode(), value=self.request(id_, text)))
            await asyncio.gather(*sent)

    def request(self, id_: str, text: str) -> bytes:
        return REQUEST.encode(
            Request(
                id=id_,
                namespace=NAMESPACE,
                endpoint=self.size,
                endpoint_version=1,
                parts=[Part(kind="input", source="caller", text=text)],
                guidance=[],
                output=Text(),
                words=[],
                generation=GENERATION,
                reply_to=[ReplyAddress(topic=self.replies)],
                deadline_ms=None,
            )
        )

    # Workers ---------------------------------------------------------------------------------------------------------

    def start_workers(self, count: int, **config: Any) -> list[WorkerProcess]:
        """More workers of the group."""
        made = []
        for _ in range(count):
            name = f"worker-{len(self.workers)}"
            where: dict[str, Any] = (
                {"client_config": str(self.clients)}
                if isinstance(self.clients, Path)
                else {"brokers": self.clients.brokers}
            )
            values = Config(size=self.size, folder=str(self.folder), **where, **config)
            path = self.folder / f"{name}.json"
            path.write_bytes(msgspec.json.encode(values))
            environ = {**os.environ, "EXECUTED_LOG": str(self.executed_log), "PYTHONPATH": str(ROOT / "src")}
            worker = WorkerProcess(path, self.folder / f"{name}.log", environ)
            worker.start()
            self.workers.append(worker)
            made.append(worker)
        return made

    async def until_joined(self, timeout_s: float = 60) -> None:
        """Wait until every worker has partitions, and the group has been quiet for two seconds."""
        async with asyncio.timeout(timeout_s):
            before: list[int] = []
            while True:
                await asyncio.sleep(2)
                joined = [worker.log.read_text().count("partitions assigned") for worker in self.workers]
                if all(joined) and joined == before:
                    return
                before = joined

    @property
    def executed_log(self) -> Path:
        return self.folder / "executed"

    def executed(self) -> Counter[str]:
        """How often the engine began each request."""
        return Counter(self.executed_log.read_text().split()) if self.executed_log.exists() else Counter()

    def token(self, hook: str, count: int = 1) -> None:
        """Let `count` workers meet with one of `worker_process.HOOKS`."""
        for _ in range(count):
            (self.folder / f"{hook}.{os.urandom(4).hex()}").touch()

    def logs(self) -> str:
        """What all workers said."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("worker-*.log")))

    # Reading ---------------------------------------------------------------------------------------------------------

    async def _read_along(self) -> None:
        consumer = make_consumer(self.inside, "test", auto_offset_reset="earliest", metadata_max_age_ms=5_000)
        await consumer.start()
        try:
            consumer.subscribe([self.replies, self.dead])
            while True:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    self.seen += [(time.monotonic(), request_of(record)) for record in batch]
        finally:
            await consumer.stop()

    async def until_seen(self, count: int, timeout_s: float = 240) -> None:
        """Wait until so many different requests have been answered. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while len({id_ for _, id_ in self.seen}) < count:
                await asyncio.sleep(0.1)

    async def read_all(self, isolation: str = "read_committed") -> list[Any]:
        """Every record of the reply and dead-letter topics, by a reader that comes afterwards."""
        found: list[Any] = []
        async with _assigned(self.inside, isolation, self.replies, self.dead) as consumer:
            ends = await consumer.end_offsets(consumer.assignment())
            while True:
                batches = await consumer.getmany(timeout_ms=1000)
                found += [record for batch in batches.values() for record in batch]
                if not batches and all([await consumer.position(tp) >= end for tp, end in ends.items()]):
                    return found

    async def committed(self) -> dict[TopicPartition, tuple[int, int, str]]:
        """Of each request partition: its end, what the group committed, and the commit's metadata."""
        async with _assigned(self.inside, "read_committed", self.requests, group_id=self.group) as consumer:
            ends = await consumer.end_offsets(consumer.assignment())
            found = {}
            for tp, end in ends.items():
                commit = await group_guards.committed(consumer, tp)
                found[tp] = (end, commit.offset if commit else 0, commit.metadata if commit else "")
            return found

    def value_is_right(self, record: Any) -> bool:
        """Whether a reply carries what is to come of that request: the engine's answer, or a code."""
        reply = REPLY.decode(record.value)
        text = self.texts[reply.id]
        if told(text).get("do"):
            return isinstance(reply, Failed) and reply.code is FailureCode.ENGINE_FAILED
        answer = answer_to(text)
        if len(answer) > MAX_RECORD_BYTES:
            return isinstance(reply, Failed) and reply.code is FailureCode.REPLY_TOO_LARGE
        return isinstance(reply, Completed) and reply.value == answer


def request_of(record: Any) -> str:
    """Which request a record of a reply or dead-letter topic answers.

    The dead letter of a request that killed engines stands beside its reply, and counts for itself.
    """
    headers = dict(record.headers)
    if id_ := headers.get(header.REQUEST_ID):
        return str(id_.decode())
    beside = headers.get(header.DEAD_LETTER_PREFIX + "code") == FailureCode.ENGINE_FAILED.encode()
    return f"{'beside ' * beside}{(record.key or b'').decode()}"


@contextlib.asynccontextmanager
async def _assigned(
    cluster: Cluster, isolation: str, *topics: str, group_id: str | None = None
) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = make_consumer(
        cluster, "test", isolation_level=isolation, auto_offset_reset="earliest", group_id=group_id
    )
    await consumer.start()
    try:
        partitions = [
            TopicPartition(topic, number) for topic in topics for number in sorted(await _partitions(consumer, topic))
        ]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        yield consumer
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    await consumer._client.add_topic(topic)
    async with asyncio.timeout(30):
        while not (found := consumer.partitions_for_topic(topic)):
            await asyncio.sleep(0.1)
    return set(found)
