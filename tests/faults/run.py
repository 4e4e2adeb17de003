"""One fault, one run: load, the fault, healing, and the verdict with what was measured."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from tests.faults.kafka.cluster import KafkaCluster, steady_ports
from tests.faults.kafka.proxy import KafkaProxy
from tests.faults.kafka.questions import open_transactions
from tests.secured.cluster import SecuredCluster

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.offsets.commit_metadata import decode
from guideway.infra.local_broker import RunningBroker

from .bench import STRAGGLERS_S, Bench, TextOf, request_of, usual_text


class Row(msgspec.Struct, kw_only=True):
    """A line of the table."""

    fault: str
    brokers: int
    requests: int
    executed_twice: int
    """Requests that the engine began more than once."""
    lost: int
    """Requests without a visible result or dead letter."""
    doubled: int
    """Visible results beyond the first, over all requests, as two readers saw them."""
    wrong: int
    """Results that are not the engine's answer to their request."""
    aborted: int
    """Records that a reader of uncommitted records sees and readers of committed ones do not."""
    answered_during: int
    """Requests answered while the fault was on."""
    first_after_s: float
    """From healing to the first answer."""
    all_after_s: float
    """From healing to the last answer."""
    metadata_chars: int = 0
    """The longest commit metadata seen."""
    rejoined: int = 0
    """Times that a worker found itself fenced and asked the group."""
    notes: str = ""


class Situation:
    """What a fault may harm."""

    def __init__(self, bench: Bench, cluster: KafkaCluster | None, proxy: KafkaProxy | None, requests: int) -> None:
        self.bench, self.requests = bench, requests
        self._cluster, self._proxy = cluster, proxy
        self.notes: list[str] = []
        self.metadata_chars = 0

    @property
    def cluster(self) -> KafkaCluster:
        assert self._cluster is not None
        return self._cluster

    @property
    def proxy(self) -> KafkaProxy:
        assert self._proxy is not None
        return self._proxy

    async def until(self, share: float) -> None:
        """Wait until this share of the requests is answered."""
        await self.bench.until_seen(int(self.requests * share))

    async def look_at_metadata(self) -> None:
        """Note the longest commit metadata of this moment."""
        found = await self.bench.committed()
        self.metadata_chars = max(self.metadata_chars, *(len(metadata) for _, _, metadata in found.values()))


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which things go wrong."""

    name: str
    harm: Callable[[Situation], Awaitable[None]]
    """Does it, under load, and returns once it is healed."""
    brokers: int = 1
    proxied: bool = False
    workers: int = 2
    config: dict[str, Any] = {}
    text_of: TextOf = usual_text
    scale: float = 1.0
    """Times the number of requests, where they take longer than usual."""
    repeats: bool = True
    """Whether a run proves something only if a request was executed twice."""
    once_each: bool = False
    """Whether nothing may be executed twice."""
    proof: Callable[[Situation], bool] = lambda situation: True
    """What else has to have been seen for the run to count."""
    extra: int = 0
    """Records that `harm` adds, of which each is to become a dead letter."""


class Void(Exception):
    """The fault did not show: the run proves nothing."""


async def run_fault(
    fault: Fault,
    folder: Path,
    requests: int,
    *,
    on: KafkaCluster | RunningBroker | None = None,
    mutation: str = "",
    secured: bool = False,
) -> Row:
    """Run on a cluster made for it, or on one that is there. Raises Void.

    secured: the cluster made for it wants TLS and a login, and gives the workers the rights of workers.
    """
    requests = int(requests * fault.scale)
    if on is not None:
        inside = on.internal if isinstance(on, KafkaCluster) else on.cluster
        cluster = on if isinstance(on, KafkaCluster) else None
        return await _run(fault, folder, requests, cluster, None, inside, inside, mutation)
    ids = range(1, fault.brokers + 1)
    advertise = dict(zip(ids, steady_ports(fault.brokers), strict=True)) if fault.proxied else None
    if secured:
        return await _run_secured(fault, folder, requests, advertise, mutation)
    cluster = await asyncio.to_thread(KafkaCluster.up, folder / "kafka", fault.brokers, advertise=advertise)
    try:
        if not fault.proxied:
            return await _run(fault, folder, requests, cluster, None, cluster.cluster, cluster.internal, mutation)
        async with KafkaProxy.before(cluster) as proxy:
            return await _run(fault, folder, requests, cluster, proxy, cluster.cluster, cluster.internal, mutation)
    finally:
        await asyncio.to_thread(cluster.down)


async def _run_secured(
    fault: Fault, folder: Path, requests: int, advertise: Mapping[int, int] | None, mutation: str
) -> Row:
    cluster = SecuredCluster.up(folder / "secured", brokers=fault.brokers, advertise=advertise)
    made = await asyncio.to_thread(cluster.__enter__)
    try:
        kafka, login = made.kafka, made.client_properties("gw-worker")
        if not fault.proxied:
            return await _run(fault, folder, requests, kafka, None, login, kafka.internal, mutation)
        async with KafkaProxy.before(kafka, tls=made.proxy_tls()) as proxy:
            return await _run(fault, folder, requests, kafka, proxy, login, kafka.internal, mutation)
    finally:
        await asyncio.to_thread(cluster.__exit__, None, None, None)


async def _run(
    fault: Fault,
    folder: Path,
    requests: int,
    cluster: KafkaCluster | None,
    proxy: KafkaProxy | None,
    clients: Cluster | Path,
    inside: Cluster,
    mutation: str,
) -> Row:
    async with Bench(folder, clients, inside) as bench:
        bench.start_workers(fault.workers, mutation=mutation, **fault.config)
        await bench.until_joined()
        await bench.submit(requests, fault.text_of)
        situation = Situation(bench, cluster, proxy, requests)
        await bench.until_seen(max(1, requests // 50), 120)
        began = len(bench.seen)
        await fault.harm(situation)
        healed, healed_at = len(bench.seen), time.monotonic()
        try:
            await bench.until_seen(len(bench.texts) + fault.extra, 240)
        except TimeoutError:
            situation.notes.append("not all answered within 240 s of healing")
        await asyncio.sleep(STRAGGLERS_S)
        return await _verdict(fault, situation, began, healed, healed_at)


async def _verdict(fault: Fault, situation: Situation, began: int, healed: int, healed_at: float) -> Row:
    bench = situation.bench
    committed, uncommitted = await bench.read_all(), await bench.read_all("read_uncommitted")
    replies = [record for record in committed if record.topic == bench.replies]
    answered = Counter(request_of(record) for record in committed)
    along = Counter(id_ for _, id_ in bench.seen)
    twice = sum(count > 1 for count in bench.executed().values())
    after = [at - healed_at for at, _ in bench.seen[healed:]]
    row = Row(
        fault=fault.name,
        brokers=len(situation.cluster.brokers) if situation._cluster else 1,
        requests=len(bench.texts) + fault.extra,
        executed_twice=twice,
        lost=len(bench.texts) + fault.extra - len(answered),
        doubled=max(answered.total() - len(answered), along.total() - len(along)),
        wrong=sum(not bench.value_is_right(record) for record in replies),
        aborted=len(uncommitted) - len(committed),
        answered_during=healed - began,
        first_after_s=round(min(after, default=0.0), 1),
        all_after_s=round(max(after, default=0.0), 1),
        metadata_chars=situation.metadata_chars,
        rejoined=bench.logs().count("another process took the partition's lock"),
        notes="; ".join(situation.notes),
    )
    if row.lost or row.doubled:
        return row
    await _nothing_left(situation, row)
    if fault.repeats and not twice:
        raise Void(f"{fault.name}: no request was executed twice")
    if fault.once_each and twice:
        situation.notes.append("executed twice without need")
        row.wrong += twice
    if not fault.proof(situation):
        raise Void(f"{fault.name}: the fault was not seen")
    return row


async def _nothing_left(situation: Situation, row: Row) -> None:
    """No open transaction, no lag, no completed-set: everything below the end is finished, and nothing else is."""
    bench = situation.bench
    deadline = time.monotonic() + 30
    while True:
        committed = await bench.committed()
        left = {tp: commit for tp, commit in committed.items() if not _is_finished(*commit)}
        ours = [id_ for id_ in await _open(situation) if bench.size in id_]
        if not left and not ours:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{row} – (end, committed, metadata) {left}, open transactions {ours}")
        await asyncio.sleep(0.5)


def _is_finished(end: int, offset: int, metadata: str) -> bool:
    done, crashes = decode(offset, metadata)
    return offset == end and not done and not crashes.begun


async def _open(situation: Situation) -> list[str]:
    if situation._cluster is None:
        return []
    return list(await open_transactions(situation.bench.inside))
