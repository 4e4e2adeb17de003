"""What OpenAI's form of a request costs at the gateway, beside the native path.

    python -m benchmarks.doors.openai --requests 400 --turns 5

One gateway, in this process, in front of a broker and of answers that are made up, so that the door is what is
measured. Both forms send the same text by the same client, in turns: one request at a time, and 64 at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from operator import truediv
from pathlib import Path
from typing import Final

import httpx
from benchmarks.figures import Figure, markdown, save
from tests.producers.gateway.http.serving import Door, door, ground

from guideway import logs
from guideway.catalogue.changes import plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.writing import publish
from guideway.infra import local_broker, topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text

RESULTS: Final = Path(__file__).parents[1] / "results" / "openai.json"
TEXT: Final = "The soup was cold, and nobody cared. " * 10
AT_A_TIME: Final = (1, 64)
Send = Callable[[], Awaitable[httpx.Response]]


async def seconds_of(send: Send, requests: int, at_a_time: int) -> float:
    """Seconds for so many requests, so many at a time."""
    left = iter(range(requests))

    async def some() -> None:
        for _ in left:
            (await send()).raise_for_status()

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(at_a_time)))
    return time.perf_counter() - began


def ways(made: Door) -> dict[str, Send]:
    """The two forms of the same request."""
    asked = {"model": "shop/write", "messages": [{"role": "user", "content": TEXT}]}
    headers = made.as_("shop")

    async def openai() -> httpx.Response:
        return await made.client.post("/v1/chat/completions", json=asked, headers=headers)

    async def native() -> httpx.Response:
        return await made.post("shop", "/shop/write", TEXT)

    return {"native": native, "openai": openai}


async def measured(requests: int, turns: int) -> list[Figure]:
    """The times of both, and their ratio turn by turn."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        broker = local_broker.up(Path(folder) / "broker")
        try:
            async with ground(broker.cluster, "shop") as (_, keys):
                write = Endpoint(namespace="shop", name="write", model_size="small", output=Text())
                await make_topics(broker.cluster, topics.catalogues(["shop"]))
                await publish(broker.cluster, plan_changes(Catalogue(), [write]))
                async with door(broker.cluster, keys) as made:
                    for at_a_time in AT_A_TIME:
                        found: dict[str, list[float]] = {"native": [], "openai": []}
                        for turn in range(-1, turns):
                            for name, send in ways(made).items():
                                took_s = await seconds_of(send, requests, at_a_time)
                                if turn >= 0:
                                    found[name].append(took_s * 1000 / requests)
                        for name, values in found.items():
                            figures.append(Figure(f"{name}, {at_a_time} at a time", statistics.median(values), "ms"))
                        ratio = statistics.median(map(truediv, found["openai"], found["native"]))
                        figures.append(Figure(f"openai's form against native, {at_a_time} at a time", ratio, "ratio"))
        finally:
            local_broker.down(Path(folder) / "broker", wipe=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args()
    # A line for each request would be most of what is measured.
    logs.configure(logging.WARNING)
    figures = asyncio.run(measured(args.requests, args.turns))
    print(markdown(figures))
    if args.save:
        save(figures, RESULTS)


if __name__ == "__main__":
    main()
