"""Which events a router sends to the right endpoint, and which it refuses: `python -m benchmarks.router`.

The router of `examples/demo/routing` with each method and with two of them together, on the texts of
`examples/data/routing`: `tune.jsonl`, from which thresholds are chosen, and `eval.jsonl`, which was used for no choice.
It runs a worker's own code, with its engine and its retrieval process, without Kafka.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, cast

import msgspec

from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.topic import CatalogueFollower
from guideway.producers.routing.rules import facts_of, ruled
from guideway.schemas.kinds.router import Router, RoutingByModel, RoutingRule
from guideway.schemas.manifests import Model
from guideway.schemas.record import Record
from guideway.schemas.services.routing import RoutingAnswer, RoutingQuestion
from guideway.schemas.wire import ROUTING_ANSWER
from guideway.workers.engine_client import EngineClient
from guideway.workers.messages.from_engine import Finished
from guideway.workers.messages.to_engine import EngineSettings
from guideway.workers.retrieval.retrieval_client import RetrievalClient
from guideway.workers.retrieval.settings import RetrievalSettings
from guideway.workers.routing.routing import Routing

ROOT: Final = Path(__file__).resolve().parents[1]
DATA: Final = ROOT / "examples" / "data" / "routing"
ROUTER: Final = ROOT / "examples" / "demo" / "routing"
DEMO: Final = [ROOT / "examples" / "demo" / "manifests", ROOT / "examples" / "demo" / "asking"]
RESULTS: Final = Path(__file__).parent / "results" / "router.json"


LEAST_BY_MODEL: Final = 0.5


class Row(NamedTuple):
    """A text and the endpoint that it is for; empty: none."""

    text: str
    endpoint: str
    source: str


class Routed(NamedTuple):
    """What became of a row."""

    row: Row
    answer: RoutingAnswer
    seconds: float


class _Reader:
    """A catalogue that stands still, in place of a follower."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    async def eventually(self, ask: Any) -> Any:
        return ask(self.catalogue)


def rows(name: str) -> list[Row]:
    return [Row(**json.loads(line)) for line in (DATA / f"{name}.jsonl").read_text("utf-8").split("\n") if line]


def methods(router: Router) -> dict[str, Router]:
    """The router with one method, and with several."""
    model = router.model or RoutingByModel(least_score=LEAST_BY_MODEL)
    return {
        "rules": msgspec.structs.replace(router, examples=None, model=None),
        "examples": msgspec.structs.replace(router, rules=[], model=None),
        "model": msgspec.structs.replace(router, rules=[], examples=None, model=model),
        "rules, then examples": msgspec.structs.replace(router, model=None),
        "rules, examples, model": msgspec.structs.replace(router, model=model),
    }


def catalogue_with(router: Router) -> Catalogue:
    manifests = [source.manifest for source in read_manifests(*DEMO)]
    made = Catalogue()
    for topic, key, value in catalogue_records(plan_changes(made, [*manifests, router])):
        made.absorb(topic, key, value)
    return made


def by_rules(rules: Sequence[RoutingRule], text: str) -> str:
    record = Record(topic="", partition=0, offset=0, timestamp_ms=0, key=None, value=None, headers=[])
    number = ruled(rules, facts_of(record, text))
    return "" if number is None else rules[number].endpoint


async def routed(router: Router, some: Sequence[Row], link: EngineClient, retrieval: RetrievalClient) -> list[Routed]:
    async def run(request: Any, biases: Any, lane: Any) -> Finished:
        return await link.run(request, [], lane, biases=biases, partings=True)

    reader = cast(CatalogueFollower, _Reader(catalogue_with(router)))
    routing = Routing(reader, retrieval.embed, run)
    found = []
    for number, row in enumerate([some[0], *some]):
        begun = time.perf_counter()
        if endpoint := by_rules(router.rules, row.text):
            answer = RoutingAnswer(id="", endpoint=endpoint)
        elif router.is_asked:
            question = RoutingQuestion(
                id=str(number),
                namespace=router.namespace,
                router_version=1,
                text=row.text[: router.max_text_chars],
                deadline_ms=time.time_ns() // 1_000_000 + 600_000,
            )
            (outgoing,) = await routing.handle(question, "interactive")
            answer = ROUTING_ANSWER.decode(outgoing.value)
            assert answer.failure is None, answer
        else:
            answer = RoutingAnswer(id="")
        found.append(Routed(row, answer, time.perf_counter() - begun))
    # The first waits until the examples are learnt, or the labels calibrated.
    print(f"    first {found[0].seconds:.2f} s", flush=True)
    return found[1:]


def shares(found: Sequence[Routed]) -> tuple[float, float]:
    """(share of rows that came to their endpoint, share of foreign rows that were refused)."""
    ours = [one.answer.endpoint == one.row.endpoint for one in found if one.row.endpoint]
    foreign = [not one.answer.endpoint for one in found if not one.row.endpoint]
    return sum(ours) / len(ours), sum(foreign) / len(foreign)


async def measure(args: argparse.Namespace) -> None:
    (source,) = read_manifests(ROUTER)
    assert isinstance(source.manifest, Router)
    (model,) = (one.manifest for one in read_manifests(*DEMO) if isinstance(one.manifest, Model))
    cache = str(ROOT / ".guideway" / "models")
    engine = EngineClient(model, EngineSettings(model_cache=cache, threads=args.threads))
    results = json.loads(RESULTS.read_text("utf-8")) if args.only and RESULTS.exists() else {}
    async with engine as link, RetrievalClient(RetrievalSettings(), model, cache) as retrieval:
        for name, router in methods(source.manifest).items():
            if args.only and name not in args.only:
                continue
            for which in args.data:
                print(f"{name}, {which}", flush=True)
                found = await routed(router, rows(which), link, retrieval)
                right, refused = shares(found)
                ms = 1000 * median(one.seconds for one in found)
                results[f"{name}, {which}"] = {"right": right, "refused": refused, "ms": ms, "rows": len(found)}
                RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
                print(f"    right {right:.3f}, foreign refused {refused:.3f}, {ms:.1f} ms each", flush=True)
                total = Counter((one.row.endpoint or "foreign", one.row.source) for one in found)
                good = Counter(
                    (one.row.endpoint or "foreign", one.row.source)
                    for one in found
                    if one.answer.endpoint == one.row.endpoint
                )
                for key, count in total.items():
                    print(f"    {key[0]} ({key[1]}): {good[key]}/{count}", flush=True)
                if args.log:
                    with args.log.open("a") as file:
                        for one in found:
                            said = msgspec.to_builtins(one.answer)
                            file.write(json.dumps({"what": f"{name}, {which}", **one.row._asdict(), **said}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=["tune", "eval"])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--log", type=Path, help="a file for each row's scores")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
