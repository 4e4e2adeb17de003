"""A worker with the fake engine, in a process that a test may harm: `python -m tests.faults.worker_process CONFIG`.

A hook acts when the test leaves a token for it in the folder (`HOOKS`); a mutation takes a step of the delivery away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.producer.sender import EndTxnHandler
from tests.delivery.simulation.mutations import MUTATIONS

from guideway import logs
from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import aiokafka_guards, transaction_guards
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.failures import Refusal
from guideway.workers.messages.to_engine import EngineSettings
from guideway.workers.settings import WorkerSettings
from guideway.workers.worker import Worker


class Config(msgspec.Struct, kw_only=True):
    """What the test decides."""

    brokers: str = ""
    client_config: str = ""
    """A client.properties with the brokers and the login, in the place of `brokers`."""
    size: str
    folder: str
    capacity: int = 128
    partition_capacity: int = 512
    session_timeout_s: float = 6.0
    flush_timeout_s: float = 20.0
    stall_s: float = 120.0
    engine_silence_s: float = 300.0
    mutation: str = ""
    lanes: tuple[str, ...] = ("interactive",)
    engine: str = "tests.faults.fake_engine"
    """The module of the engine's process."""


KILL_BEFORE_END, KILL_AFTER_END, BLOCK_LOOP = "kill-before-end", "kill-after-end", "block-loop"
HOOKS = (KILL_BEFORE_END, KILL_AFTER_END, BLOCK_LOOP)


def take_token(folder: Path, hook: str) -> bool:
    """Whether this process got one of the tokens that the test left for `hook`."""
    for token in folder.glob(f"{hook}.*"):
        with contextlib.suppress(FileNotFoundError):
            token.unlink()
            return True
    return False


def install_hooks(folder: Path) -> None:
    """Die between the last produce and EndTxn, or between EndTxn and its answer, where a token says so."""
    plain_commit: Callable[[Any], Awaitable[None]] = AIOKafkaProducer.commit_transaction
    plain_end: Callable[[Any, int], Awaitable[bool]] = transaction_guards.do_once

    async def commit(self: Any) -> None:
        if take_token(folder, KILL_BEFORE_END):
            os.kill(os.getpid(), signal.SIGKILL)
        await plain_commit(self)

    async def end(self: Any, node_id: int) -> bool:
        if isinstance(self, EndTxnHandler) and take_token(folder, KILL_AFTER_END):
            sending = asyncio.ensure_future(plain_end(self, node_id))
            await asyncio.sleep(0.002)
            os.kill(os.getpid(), signal.SIGKILL)
            await sending
        return await plain_end(self, node_id)

    AIOKafkaProducer.commit_transaction = commit
    # Where the guards take it from whenever they are installed.
    transaction_guards.do_once = end
    aiokafka_guards.install()


async def block_when_told(folder: Path) -> None:
    while True:
        await asyncio.sleep(0.2)
        if take_token(folder, BLOCK_LOOP):
            time.sleep(3600)  # noqa: ASYNC251 – that is what is tested


async def run(config: Config) -> None:
    folder = Path(config.folder)
    where = {"KAFKA_CLIENT_CONFIG": config.client_config, "KAFKA_BOOTSTRAP_SERVERS": config.brokers}
    cluster = Cluster.from_environ({name: value for name, value in where.items() if value})
    assert cluster is not None
    worker = Worker(
        WorkerSettings(
            size=config.size,
            lanes=config.lanes,
            delivery=DeliverySettings(
                cluster=cluster,
                capacity=config.capacity,
                partition_capacity=config.partition_capacity,
                session_timeout_s=config.session_timeout_s,
                flush_timeout_s=config.flush_timeout_s,
                stall_s=config.stall_s,
            ),
            engine=EngineSettings(),
            engine_program=(sys.executable, "-m", config.engine),
            engine_silence_s=config.engine_silence_s,
            store=str(folder / "store"),
            artefact_cache=ArtefactCache(folder / "cache"),
        )
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    blocking = asyncio.create_task(block_when_told(folder))
    try:
        await worker.run()
    finally:
        blocking.cancel()


def main() -> int:
    logs.configure(as_json=True)
    logs.quiet_clients()
    config = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Config)
    install_hooks(Path(config.folder))
    if config.mutation:
        MUTATIONS[config.mutation](setattr)
    try:
        asyncio.run(run(config))
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
