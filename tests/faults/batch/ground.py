"""A batch job's whole road on one Apache Kafka, each part in processes that may be killed: all are started again.

Three endpoints, one of them of another namespace, share a model size whose engine is fake: it answers with a digest of
the text, and notes what it begins (`fake_engine.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec
from tests.faults.bench import ROOT
from tests.faults.fake_engine import FINGERPRINT, answer_to
from tests.faults.kafka.cluster import KafkaCluster
from tests.faults.worker_process import Config

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.generation import Generation
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.output import Text

SIZE: Final = "fake"
OURS, THEIRS = "night", "lender"
ENDPOINTS: Final = (f"/{OURS}/mood", f"/{OURS}/topic", f"/{THEIRS}/parts")
"""What the rows of a file go to, in turn."""


class Kept:
    """A process that is started again whenever it has ended, as a supervisor does it."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._command, self._environ, self._log = command, environ, log
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = self._start()
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._keeper is not None
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper
        self.kill()
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, to it and to its children, which would else go on for a moment."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environ, cwd=ROOT, start_new_session=True
            )

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            while (code := self._process.poll()) is None:
                await asyncio.sleep(0.05)
            if self.has_done(code):
                return
            await asyncio.sleep(0.3)
            self._process = self._start()

    def has_done(self, code: int) -> bool:
        """Whether it is not to be started again."""
        return False


class Client(Kept):
    """`guideway batch run`: it ends by itself, with its output written."""

    out: Path

    def has_done(self, code: int) -> bool:
        # Killed behind its last act, it finds its output there, and refuses to write it again.
        return code == 0 or self.out.exists()

    @property
    def has_ended(self) -> bool:
        return self._keeper is not None and self._keeper.done()

    async def done(self, timeout_s: float) -> None:
        """Wait until it has ended well. Raises TimeoutError."""
        assert self._keeper is not None
        await asyncio.wait_for(asyncio.shield(self._keeper), timeout_s)


class Ground:
    """`async with Ground(...)`: services and workers run; a `client` is to be started."""

    def __init__(
        self, folder: Path, kafka: KafkaCluster, *, workers: int = 2, batchers: int = 2, **config: Any
    ) -> None:
        """config: of the workers, beside their model size and where they are."""
        self.folder, self.kafka = folder, kafka
        self.executed = folder / "executed"
        where = {"KAFKA_BOOTSTRAP_SERVERS": kafka.cluster.brokers, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        self._environ = {**os.environ, **where, "GUIDEWAY_HOME": str(folder), "EXECUTED_LOG": str(self.executed)}
        self._environ |= {"GUIDEWAY_STORE": str(folder / "store"), "GUIDEWAY_LOG_FORMAT": "json"}
        self.services = [self._kept("endpoints", "endpoints", "--no-restart")]
        self.batchers = [self._kept(f"batcher-{number}", "batcher", "--no-restart") for number in range(batchers)]
        self.workers = [self._worker(number, config) for number in range(workers)]

    def _kept(self, name: str, *arguments: str, of: type[Kept] = Kept) -> Any:
        return of(name, [sys.executable, "-m", "guideway", *arguments], self._environ, self.folder / f"{name}.log")

    def _worker(self, number: int, given: Mapping[str, Any]) -> Kept:
        where = {"brokers": self.kafka.cluster.brokers, "folder": str(self.folder)}
        config = Config(**{"size": SIZE, "lanes": ("batch",), **where, **given})
        path = self.folder / f"worker-{number}.json"
        path.write_bytes(msgspec.json.encode(config))
        command = [sys.executable, "-m", "tests.faults.worker_process", str(path)]
        return Kept(f"worker-{number}", command, self._environ, path.with_suffix(".log"))

    async def __aenter__(self) -> Ground:
        await applied(self.kafka.internal)
        self._stack = contextlib.AsyncExitStack()
        for one in (*self.services, *self.workers, *self.batchers):
            await self._stack.enter_async_context(one)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def client(self, file: Path, out: Path) -> Client:
        """Whoever has the file answered, in the namespace `OURS`."""
        arguments = ["batch", "run", str(file), "-o", str(out), "--namespace", OURS]
        found: Client = self._kept("client", *arguments, of=Client)
        found.out = out
        return found

    def said(self, name: str) -> str:
        """The end of a process's log."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""


async def applied(cluster: Cluster) -> None:
    """The topics of the two namespaces and of the model size, and what the catalogue says of them."""
    model = Model(name=SIZE, namespace="public", source="fake", fingerprint=FINGERPRINT, partitions=4)
    endpoints = [
        Endpoint(
            namespace=address.split("/")[1],
            name=address.split("/")[2],
            model_size=SIZE,
            output=Text(),
            generation=Generation(max_tokens=16),
            access=[OURS],
        )
        for address in ENDPOINTS
    ]
    manifests: list[Manifest] = [model, *endpoints]
    await make_topics(cluster, [*topics.wanted(manifests), *topics.batches(OURS)])
    async with CatalogueFollower(cluster) as reader:
        await publish(cluster, plan_changes(reader.catalogue, manifests))


def text_of(number: int) -> str:
    """Of a row: most take less than a tenth of a second, one in ten takes half a second."""
    return f"n={number} ms={500 if number % 10 == 7 else 20 + number % 60}"


def write_rows(file: Path, count: int, text_of: Callable[[int], str] = text_of) -> None:
    """A file of so many rows, to the endpoints in turn."""
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            row = {"id": f"r{number}", "endpoint": ENDPOINTS[number % len(ENDPOINTS)], "text": text_of(number)}
            lines.write(json.dumps(row) + "\n")


class Found(msgspec.Struct):
    """What the output says of the rows of a file."""

    lost: list[str]
    doubled: list[str]
    wrong: list[str]
    """Rows with another answer than the engine's, or with none."""

    @property
    def is_right(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)


def found_in(out: Path, count: int) -> Found:
    """Compare an output with the rows of `write_rows`."""
    times: dict[str, int] = {}
    wrong = []
    for line in out.read_text("utf-8").splitlines():
        row = json.loads(line)
        times[row["id"]] = times.get(row["id"], 0) + 1
        number = int(row["id"][1:])
        endpoint = ENDPOINTS[number % len(ENDPOINTS)]
        if row.get("endpoint") != endpoint or row["samples"][0]["value"] != answer_to(text_of(number)):
            wrong.append(line[:300])
    wanted = {f"r{number}" for number in range(count)}
    return Found(
        lost=sorted(wanted - times.keys()),
        doubled=sorted(id_ for id_, seen in times.items() if seen > 1),
        wrong=wrong,
    )


async def until(condition: Any, timeout_s: float, what: str) -> None:
    """Wait until `condition()` holds. Raises AssertionError, which says what did not come."""
    ends_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at, f"{what} did not come within {timeout_s:.0f} s"
        await asyncio.sleep(0.05)
