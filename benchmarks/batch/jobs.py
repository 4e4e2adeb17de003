"""Batch jobs, from file to file: how fast, with how much memory, and what others notice of them.

    python -m benchmarks.batch.jobs                   # all of it, some ten minutes
    python -m benchmarks.batch.jobs --only fake --rows 1000000
    python -m benchmarks.batch.jobs --only real --turns 5

fake: a fake engine that answers at once; rate, and memory, once the road is warm. It tells how far it is.
resumed: how soon a job goes on when its batcher is killed.
beside: what one interactive request after the other waits, alone and while a job's rows wait, with an engine whose
steps take a fixed time.
real: SmolLM2 by `guideway batch run`, and the same rows given to the engine in process, in turns; rates are those of
the middle of a run. With the engine on a core of its own, and on all cores together with everything else.

It needs Apache Kafka (KAFKA_HOME). Writes benchmarks/batch.json.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from aiokafka.structs import TopicPartition
from benchmarks.batch import real_model
from benchmarks.batch.fake_engine import at_once, fake, ground
from benchmarks.figures import Figure, markdown, quantile, save
from tests.faults.batch.ground import ENDPOINTS, OURS, Ground, until, write_rows

from guideway.delivery.clients.kafka_client import make_consumer, started
from guideway.infra import topics
from guideway.producers.client.client import Client as Caller
from guideway.schemas.names.topics import batch_call_topic
from guideway.schemas.reply import Completed

RESULTS: Final = Path(__file__).parents[1] / "batch.json"
STEP_MS: Final = 50
_PATIENCE_S: Final = 3 * 3600.0
_ASKED, _EVERY_S = 60, 0.5


async def resumed(args: argparse.Namespace, folder: Path) -> list[Figure]:
    """The only batcher is killed in the middle of a job."""
    rows = min(args.rows, 20_000)
    file, out = folder / "rows.jsonl", folder / "out.jsonl"
    write_rows(file, rows, at_once)
    took: list[float] = []
    async with ground(folder) as road, road.client(file, out) as client:
        consumer: Any = make_consumer(road.kafka.cluster, "bench")
        async with started(consumer, road.kafka.cluster):
            for share in (0.2, 0.4, 0.6):
                await until(lambda share=share: _begun(road) >= share * rows, 600, "enough rows")
                road.batchers[0].kill()
                at, sent = time.monotonic(), await _sent(consumer)
                # What was open is aborted, which adds a record or two; a piece has hundreds of rows.
                while await _sent(consumer) <= sent + 100:  # noqa: ASYNC110 - the cluster tells nobody
                    await asyncio.sleep(0.1)
                took.append(time.monotonic() - at)
        await client.done(_PATIENCE_S)
        again = len(road.executed.read_text().split()) - rows
    print(f"went on after {', '.join(f'{one:.1f}' for one in took)} s; {again} rows were computed twice", flush=True)
    return [
        Figure("batch, seconds from kill -9 of the batcher to the next rows sent", max(took), "s"),
        Figure("batch, rows computed again after 3 kills of the batcher", again, "rows"),
    ]


async def _sent(consumer: Any) -> int:
    """How far the topic with the rows of jobs reaches, over its partitions."""
    topic = batch_call_topic(OURS)
    partitions = [TopicPartition(topic, number) for number in range(topics.batches(OURS)[2].partitions)]
    return sum((await consumer.end_offsets(partitions)).values())


def _begun(road: Ground) -> int:
    """Rows that the engine has begun. Its log has a line for each."""
    return road.executed.read_bytes().count(b"\n") if road.executed.exists() else 0


async def beside(args: argparse.Namespace, folder: Path) -> list[Figure]:
    """What interactive requests wait while a job's rows wait."""
    os.environ["STEP_MS"] = str(STEP_MS)
    file, out = folder / "rows.jsonl", folder / "out.jsonl"
    write_rows(file, args.waiting, at_once)
    lanes = ("interactive", "batch")
    stepped = ground(folder, lanes=lanes, engine="benchmarks.stepped_engine")
    async with stepped as road, Caller(road.kafka.cluster) as caller:
        await caller.submit(ENDPOINTS[0], "warm", timeout_s=120)
        alone = quantile(await _waits(caller), 0.95)
        async with road.client(file, out) as client:
            # Reading the file takes a while; then the rows of the job fill the lane.
            await asyncio.sleep(args.settles_s)
            busy = quantile(await _waits(caller), 0.95)
            assert not client.has_ended, "the job ended too soon: take more rows"
    print(f"p95 alone {alone * 1000:.0f} ms, beside {args.waiting:,} rows {busy * 1000:.0f} ms", flush=True)
    return [
        Figure("batch, p95 of interactive requests alone", alone * 1000, "ms"),
        Figure(f"batch, p95 of interactive requests beside {args.waiting:,} rows", busy * 1000, "ms"),
        Figure("batch, p95 of interactive requests beside a job, against alone", busy / alone, "ratio"),
    ]


async def _waits(caller: Caller) -> list[float]:
    """Seconds from event to reply; each request is sent on time, whatever the others do."""

    async def wait() -> float:
        began = time.perf_counter()
        reply = await caller.submit(ENDPOINTS[0], "How are you?", timeout_s=60)
        assert isinstance(reply, Completed), reply
        return time.perf_counter() - began

    asked = []
    for _ in range(_ASKED):
        asked.append(asyncio.create_task(wait()))
        await asyncio.sleep(_EVERY_S)
    return list(await asyncio.gather(*asked))


async def real(args: argparse.Namespace, folder: Path) -> list[Figure]:
    """SmolLM2: the engine in process, and `guideway batch run`, in turns."""
    figures = []
    for apart in (True, False):
        through: list[float] = []
        within: list[float] = []
        for turn in range(args.turns):
            place = folder / f"{'apart' if apart else 'shared'}{turn}"
            place.mkdir()
            within.append(await real_model.in_process(args.real_rows, apart=apart))
            through.append(await real_model.through_batch(place, args.real_rows, apart=apart))
            print(f"turn {turn + 1}: batch {through[-1]:.2f}, in process {within[-1]:.2f} rows/s", flush=True)
        how = "engine on a core of its own" if apart else "shared cores"
        ratio = statistics.median(ours / theirs for ours, theirs in zip(through, within, strict=True))
        figures += [
            Figure(f"batch, real model, {how}", statistics.median(through), "rows/s"),
            Figure(f"the same rows in process, {how}", statistics.median(within), "rows/s"),
            Figure(f"batch against in process, {how}", ratio, "ratio"),
        ]
    return figures


GROUPS: Final[dict[str, Callable[[argparse.Namespace, Path], Coroutine[Any, Any, list[Figure]]]]] = {
    "fake": fake,
    "resumed": resumed,
    "beside": beside,
    "real": real,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups out of {','.join(GROUPS)}")
    parser.add_argument("--rows", type=int, default=50_000, help="of the job with the fake engine")
    parser.add_argument("--warm-rows", type=int, default=20_000, help="of the job before it, which does not count")
    parser.add_argument("--waiting", type=int, default=100_000, help="rows of the job beside interactive requests")
    parser.add_argument("--settles-s", type=float, default=20, help="from the job's beginning to the first request")
    parser.add_argument("--real-rows", type=int, default=400)
    parser.add_argument("--turns", type=int, default=3, help="of the real model")
    args = parser.parse_args()
    figures: list[Figure] = []
    for group in args.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            figures += asyncio.run(GROUPS[group](args, Path(folder)))
        save(figures, RESULTS)
    print(markdown(figures))


if __name__ == "__main__":
    main()
