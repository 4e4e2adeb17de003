"""The cost of exactly-once delivery: the worker compared with a minimal loop, and its memory.

    python -m benchmarks.delivery --requests 10000 --turns 3

1. A worker with an engine that answers at once drains a topic. A minimal aiokafka loop does the same: it reads,
   decodes, encodes, publishes and commits in order, in transactions of the same size, without tracking, checks or an
   engine. Both write replies of the same size to the same cluster, in turns.
2. The memory of a worker while 50,000 requests wait.
3. With KAFKA_HOME and openssl: the same worker in plaintext and over SASL_SSL, on one broker and in turns.

With the real model: `python -m benchmarks.queue_fed`. It uses Apache Kafka if KAFKA_HOME is set, else noida-db.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
from collections.abc import AsyncIterator
from operator import truediv
from pathlib import Path
from typing import Any, Final

from aiokafka.structs import OffsetAndMetadata, TopicPartition
from benchmarks.figures import Figure, markdown, save
from tests.faults.bench import Bench
from tests.faults.fake_engine import FINGERPRINT, answer_to
from tests.secured.certificates import have_openssl
from tests.secured.cluster import SecuredCluster

from guideway.delivery.clients.kafka_client import make_consumer, make_producer
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import local_broker
from guideway.schemas.reply import Completed, Sample, Usage
from guideway.schemas.wire import REPLY, REQUEST

RESULTS: Final = Path(__file__).parent / "results" / "delivery.json"


def at_once(number: int, _: Any) -> str:
    return f"n={number} ms=0 " + "word " * 20


async def drained_by_worker(
    folder: Path, cluster: Cluster, requests: int, clients: Path | None = None
) -> tuple[float, float, float]:
    """(requests per second, results per transaction, processor seconds) of a worker with the fake engine.

    clients: its client.properties, where it is to log in; the cluster is then for us.
    """
    async with Bench(folder, clients or cluster, cluster, reply_partitions=1) as bench:
        await bench.submit(requests, at_once)
        (worker,) = bench.start_workers(1)
        await bench.until_seen(requests // 20)
        before_s = _processor_s(worker.pid)
        await bench.until_seen(requests)
        used_s = _processor_s(worker.pid) - before_s
        records = await bench.read_all()
        # Each transaction writes a marker after its results, in each partition that it wrote to.
        async with _ends(cluster, bench.replies, 1) as ends:
            markers = sum(ends.values()) - requests
    return _rate([record.timestamp for record in records]), requests / max(1, markers), used_s


async def drained_by_bare_loop(folder: Path, cluster: Cluster, requests: int, size: int) -> float:
    """Requests per second of a minimal exactly-once loop. size: records in a transaction."""
    async with Bench(folder, cluster, cluster, reply_partitions=1) as bench:
        await bench.submit(requests, at_once)
        consumer = make_consumer(cluster, "test", auto_offset_reset="earliest", group_id=bench.group)
        producer = make_producer(cluster, "test", transactional_id=f"bare-{bench.size}", retry_backoff_ms=20)
        consumer.subscribe([bench.requests])
        await consumer.start()
        await producer.start()
        stamps: list[int] = []
        while len(stamps) < requests:
            batches = await consumer.getmany(timeout_ms=50, max_records=size)
            records = [record for batch in batches.values() for record in batch]
            if not records:
                continue
            async with producer.transaction():
                sent = [
                    await producer.send(bench.replies, key=record.key, value=_reply(record), headers=_HEADERS)
                    for record in records
                ]
                done = await asyncio.gather(*sent)
                offsets = {tp: OffsetAndMetadata(batch[-1].offset + 1, "") for tp, batch in batches.items()}
                await producer.send_offsets_to_transaction(offsets, bench.group)
            stamps += [one.timestamp for one in done]
        await producer.stop()
        await consumer.stop()
    return _rate(stamps)


_HEADERS = [(f"header-{number}", b"a value of usual length") for number in range(8)]


def _reply(record: Any) -> bytes:
    request = REQUEST.decode(record.value)
    text = answer_to(request.parts[-1].text)
    return REPLY.encode(
        Completed(
            id=request.id,
            namespace=request.namespace,
            endpoint=request.endpoint,
            endpoint_version=request.endpoint_version,
            samples=[Sample(value=text, text=text, finish_reason="stop")],
            usage=Usage(prompt_tokens=1, output_tokens=1),
            guidance=[],
            model_fingerprint=FINGERPRINT,
        )
    )


def _rate(stamps_ms: list[int]) -> float:
    """Requests per second in the middle of the run, without its start and end."""
    ordered = sorted(stamps_ms)
    first, last = len(ordered) // 20, len(ordered) * 19 // 20
    return (last - first) * 1000 / max(1, ordered[last] - ordered[first])


@contextlib.asynccontextmanager
async def _ends(cluster: Cluster, topic: str, partitions: int) -> AsyncIterator[dict[TopicPartition, int]]:
    consumer = make_consumer(cluster, "test")
    await consumer.start()
    try:
        yield await consumer.end_offsets([TopicPartition(topic, number) for number in range(partitions)])
    finally:
        await consumer.stop()


async def memory_while_waiting(folder: Path, cluster: Cluster, requests: int) -> tuple[float, float]:
    """Resident MiB of a worker after a tenth and after nine tenths of `requests`. All of them wait at the start."""
    async with Bench(folder, cluster, cluster, reply_partitions=1) as bench:
        await bench.submit(requests, at_once)
        (worker,) = bench.start_workers(1)
        found = []
        for share in (0.1, 0.9):
            await bench.until_seen(int(share * requests))
            found.append(_resident_mib(worker.pid))
    return found[0], found[1]


def _resident_mib(pid: int) -> float:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024


async def cost_of_a_login(folder: Path, requests: int, turns: int) -> list[Figure]:
    """A worker over SASL_SSL, with the rights of a worker, against the same in plaintext."""
    plain: list[tuple[float, float]] = []
    secured: list[tuple[float, float]] = []
    with SecuredCluster.up(folder / "secured", quick=False) as cluster:
        for turn in range(turns):
            # Each goes first in every other turn.
            for login in (False, True) if turn % 2 else (True, False):
                place = folder / f"{'secured' if login else 'plain'}{turn}"
                place.mkdir()
                clients = cluster.client_properties("gw-worker") if login else None
                rate, _, used_s = await drained_by_worker(place, cluster.kafka.internal, requests, clients)
                (secured if login else plain).append((rate, used_s))
            told = (
                f"{name} {rate:.0f}/s, {used_s:.1f} s of a core"
                for name, (rate, used_s) in (("plaintext", plain[-1]), ("SASL_SSL", secured[-1]))
            )
            print(f"turn {turn + 1}: {'; '.join(told)}", flush=True)
    rates, used = (
        statistics.median(with_[place] / without[place] for with_, without in zip(secured, plain, strict=True))
        for place in (0, 1)
    )
    return [
        Figure("worker in plaintext", statistics.median(rate for rate, _ in plain), "requests/s"),
        Figure("worker over SASL_SSL", statistics.median(rate for rate, _ in secured), "requests/s"),
        Figure("worker over SASL_SSL against plaintext", rates, "ratio"),
        Figure("the same, processor time of the worker's process", used, "ratio"),
    ]


def _processor_s(pid: int) -> float:
    """Seconds of a core that a process has used, its children not."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(args: argparse.Namespace) -> list[Figure]:
    figures: list[Figure] = []
    if args.login:
        with tempfile.TemporaryDirectory() as folder:
            return await cost_of_a_login(Path(folder), args.requests, args.turns)
    with tempfile.TemporaryDirectory() as folder:
        broker = local_broker.up(Path(folder) / "broker")
        try:
            ours: list[float] = []
            bare: list[float] = []
            for turn in range(args.turns):
                place = [Path(folder) / f"{kind}{turn}" for kind in ("ours", "bare")]
                for one in place:
                    one.mkdir()
                rate, size, _ = await drained_by_worker(place[0], broker.cluster, args.requests)
                ours.append(rate)
                bare.append(await drained_by_bare_loop(place[1], broker.cluster, args.requests, max(1, round(size))))
                print(f"turn {turn + 1}: worker {ours[-1]:.0f}/s, bare loop {bare[-1]:.0f}/s, {size:.0f} a transaction")
            figures.append(Figure("worker", statistics.median(ours), "requests/s"))
            figures.append(Figure("bare loop", statistics.median(bare), "requests/s"))
            ratio = statistics.median(map(truediv, ours, bare))
            figures.append(Figure("worker against a bare loop", ratio, "ratio"))
            (Path(folder) / "memory").mkdir()
            early, late = await memory_while_waiting(Path(folder) / "memory", broker.cluster, args.waiting)
            print(f"worker's memory with {args.waiting} waiting: {early:.0f} MiB, then {late:.0f} MiB")
            figures.append(Figure(f"memory with {args.waiting:,} waiting, late against early", late / early, "ratio"))
        finally:
            local_broker.down(Path(folder) / "broker", wipe=True)
    if os.environ.get("KAFKA_HOME") and have_openssl():
        with tempfile.TemporaryDirectory() as folder:
            figures += await cost_of_a_login(Path(folder), args.requests, args.turns)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--waiting", type=int, default=50_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--login", action="store_true", help="only what TLS and a login cost")
    args = parser.parse_args()
    figures = asyncio.run(measure(args))
    print(markdown(figures))
    if not args.login:
        save(figures, RESULTS)


if __name__ == "__main__":
    main()
