"""A batch job with kills of everything: `python -m tests.faults.batch.kills [--rows N] [--kills N] [--seed N]`.

Client, batchers, endpoint service, workers and broker are killed with -9 at moments that the seed says, on Apache Kafka
(KAFKA_HOME). All are started again, the client too. At the end each id must be in the output exactly once, with the
engine's answer. The exit code is 1 if one is lost, doubled or wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import typer
from tests.faults.batch.ground import Client, Found, Ground, found_in, until, write_rows
from tests.faults.kafka.cluster import KafkaCluster

KINDS: Final = ("client", "batcher", "endpoints", "worker", "broker")
PATIENCE_S: Final = 120.0
"""Without another row begun for so long, the job is stuck."""
_BROKER_AWAY_S: Final = 3.0


class Kill(msgspec.Struct, frozen=True):
    """What is killed when the engines have begun so large a share of the rows."""

    share: float
    kind: str
    which: int
    """Of those of its kind, modulo their number."""


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a run."""

    rows: int
    kills: dict[str, int]
    found: Found
    errors: int
    """Rows in the file of failures."""
    begun_twice: int
    """Rows that an engine began more than once: that is allowed, and shows that kills met work."""
    took_s: float

    @property
    def is_right(self) -> bool:
        return self.found.is_right and not self.errors


def plan(kills: int, seed: int) -> Sequence[Kill]:
    """So many kills, each kind as often as any other, or once more, at random moments; the last ones at the end."""
    chance = random.Random(seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(kills)]
    chance.shuffle(kinds)
    shares = sorted(chance.uniform(0.0, 0.99) for _ in kinds)
    found = [Kill(share, kind, chance.randrange(8)) for share, kind in zip(shares, kinds, strict=True)]
    # When all rows are begun, the output is about to be written.
    return [*found, Kill(1.0, "batcher", 0), Kill(1.0, "batcher", 1), Kill(1.0, "client", 0)]


async def run(folder: Path, kafka: KafkaCluster, *, rows: int, kills: int, seed: int) -> Outcome:
    """One job of so many rows. Raises AssertionError where it does not end."""
    file, out = folder / "rows.jsonl", folder / "out.jsonl"
    write_rows(file, rows)
    killed: Counter[str] = Counter()
    began = time.monotonic()
    async with Ground(folder, kafka) as ground, ground.client(file, out) as client:
        killing = asyncio.create_task(_kill(ground, client, plan(kills, seed), rows, killed))
        await asyncio.gather(_done(ground, client), killing)
    begun = Counter(_begun(ground))
    return Outcome(
        rows=rows,
        kills=dict(killed),
        found=found_in(out, rows),
        errors=_errors(out),
        begun_twice=sum(times > 1 for times in begun.values()),
        took_s=round(time.monotonic() - began, 1),
    )


async def _done(ground: Ground, client: Client) -> None:
    """Wait for the client's end, as long as rows are begun. Raises AssertionError."""
    before = -1
    while not client.has_ended:
        now = len(_begun(ground))
        assert now > before, f"the job is stuck: {now} rows begun; {ground.said('client')}"
        before = now
        with contextlib.suppress(TimeoutError):
            await client.done(PATIENCE_S)


async def _kill(ground: Ground, client: Client, kills: Sequence[Kill], rows: int, killed: Counter[str]) -> None:
    for one in kills:
        wanted = int(one.share * rows)
        await until(
            lambda wanted=wanted: client.has_ended or len({*_begun(ground)}) >= wanted, 4 * PATIENCE_S, f"row {wanted}"
        )
        match one.kind:
            case "client" if client.has_ended:
                continue
            case "client":
                client.kill()
            case "broker":
                await _bounce(ground.kafka, one.share)
            case "batcher" | "worker" | "endpoints":
                some = {"batcher": ground.batchers, "worker": ground.workers, "endpoints": ground.services}[one.kind]
                some[one.which % len(some)].kill()
        killed[one.kind] += 1


async def _bounce(kafka: KafkaCluster, share: float) -> None:
    """Kill the broker and start it again; it is away for longer the later it is."""
    await asyncio.to_thread(kafka.kill, 1)
    await asyncio.sleep(share * _BROKER_AWAY_S)
    await asyncio.to_thread(kafka.start, 1)


def _begun(ground: Ground) -> list[str]:
    """The numbers of the rows that engines have begun."""
    return ground.executed.read_text().split() if ground.executed.exists() else []


def _errors(out: Path) -> int:
    """Rows in the file of failures beside an output."""
    beside = out.with_name(f"{out.stem}.errors.jsonl")
    return len(beside.read_text("utf-8").splitlines()) if beside.exists() else 0


def main(rows: int = 20_000, kills: int = 20, seed: int = 1) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with KafkaCluster.up(folder / "kafka", 1) as kafka:
            outcome = asyncio.run(run(folder, kafka, rows=rows, kills=kills, seed=seed))
    print(msgspec.json.format(msgspec.json.encode(outcome)).decode())
    sys.exit(not outcome.is_right)


if __name__ == "__main__":
    typer.run(main)
