"""Dead letters on a broker, for tests of what becomes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import as_record, make_consumer, make_producer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.replay import replayer
from guideway.delivery.replay.dead_letter_reader import DeadLetterReader
from guideway.delivery.replay.decision import Selection
from guideway.schemas.failures import FailureCode
from guideway.schemas.names.addresses import endpoint_address
from guideway.schemas.names.topics import dead_letter_topic, event_topic
from guideway.schemas.record import Headers, Record

Sent = tuple[bytes | None, bytes | None, Headers]
RECORDS: list[Sent] = [
    (b"\xff\x00key", b"text \xfe", (("h", None), ("h", b"\xff"), ("correlation_id", b"\x00"))),
    (b"k", None, ()),
    (None, b"", (("guideway_dlq_topic", b"its own"), ("guideway_dlq_code", b"its own"))),
    (b"", b"a secret", (("__connect.errors.topic", b"its own"),)),
]


class Graveyard:
    """An event topic of three partitions and its dead letters, on a broker."""

    def __init__(self, cluster: Cluster, name: str, home: Path) -> None:
        self.cluster, self.home, self.brokers = cluster, home, cluster.brokers
        self.namespace, self.address = name, endpoint_address(name, "task")
        self.topic = event_topic(name, "task")
        self.dead = dead_letter_topic(self.topic)

    def command(
        self, *arguments: str, program: tuple[str, ...] = ("-m", "guideway"), stdin: int = subprocess.DEVNULL
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *program, "dlq", *arguments],
            env={
                "PATH": "",
                # Where these sources are not the ones that are installed.
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
                "GUIDEWAY_HOME": str(self.home),
                "KAFKA_BOOTSTRAP_SERVERS": self.brokers,
            },
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def replay(self, *arguments: str) -> dict[str, Any]:
        run = self.command("replay", self.topic, "--json", *arguments)
        assert run.returncode == 0, run.stderr
        found: dict[str, Any] = json.loads(run.stdout)
        return found

    async def bury(self, records: list[Sent], code: FailureCode = FailureCode.INTERNAL_ERROR) -> None:
        """Dead letters as delivery/ writes them: each in a transaction, and an aborted one between."""
        producer = make_producer(self.cluster, "test", transactional_id=f"{self.topic}.test")
        async with started(producer, self.cluster):
            for number, (key, value, headers) in enumerate(records):
                record = Record(
                    topic=self.topic,
                    partition=2,
                    offset=number,
                    timestamp_ms=1_700_000_000_000,
                    key=key,
                    value=value,
                    headers=headers,
                )
                letter = dead_letter(record, code, "say it otherwise")
                for commit in (False, True):
                    await producer.begin_transaction()
                    await producer.send_and_wait(
                        letter.topic, key=letter.key, value=letter.value, headers=list(letter.headers)
                    )
                    await (producer.commit_transaction() if commit else producer.abort_transaction())

    async def read(self, topic: str | None = None) -> list[Record]:
        """The committed records of the event topic, once every transaction that wrote to it has ended."""
        topic = topic or self.topic
        tps = [TopicPartition(topic, number) for number in range(3 if topic == self.topic else 1)]
        # Kafka answers a commit before each partition has its marker: to here, read_committed ones wait for it.
        anything = make_consumer(self.cluster, "test", isolation_level="read_uncommitted")
        async with started(anything, self.cluster):
            ends = await anything.end_offsets(tps)
        consumer = make_consumer(self.cluster, "test", auto_offset_reset="earliest")
        async with started(consumer, self.cluster):
            consumer.assign(tps)
            await consumer.seek_to_beginning()
            found: list[Record] = []
            while any([await consumer.position(tp) < ends[tp] for tp in tps]):
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += map(as_record, batch)
            return found

    async def put_back(self, partitions: int = 3, **chosen: Any) -> replayer.Report:
        """Replay in this process, as if the event topic had so many partitions."""
        async with DeadLetterReader.connected(self.cluster) as reader:
            spans = await reader.letters.spans({self.dead: 1})
            return await replayer.replay(
                self.cluster,
                reader,
                spans,
                Selection(**chosen),
                origin=self.topic,
                origin_partitions=partitions,
                walked=lambda _: None,
            )
