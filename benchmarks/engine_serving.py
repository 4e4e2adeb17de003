"""Rows that come and go: different lengths, many adapters, fixed prefixes, a Poisson load, memory."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from benchmarks.engine_rows import admit, admits, artefacts, new_engine, rate, text_of_length
from benchmarks.figures import Figure, now, quantile

from guideway.schemas.output import Choice
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.messages.from_engine import Finished
from guideway.workers.messages.to_engine import Artefact

KINDS = ("none", "soft prompts", "prefixes", "LoRAs (q, v)", "LoRAs (all linears)", "IA3", "inserted layers")


def zipf(count: int, draws: int, *, seed: int = 0) -> list[int]:
    """Random numbers below `count`; k has weight 1 / (k + 1)."""
    return random.Random(seed).choices(range(count), [1 / (k + 1) for k in range(count)], k=draws)


def popularity(rows: int) -> dict[str, list[int]]:
    """Which adapter each row has."""
    return {
        "distinct": list(range(rows)),
        "uniform": random.Random(0).choices(range(rows), k=rows),
        "zipf": zipf(rows, rows),
        "skewed": [0 if i % 4 else i for i in range(rows)],
        "identical": [0] * rows,
    }


def registered(loras: Sequence[Artefact], count: int) -> list[Artefact]:
    """`count` adapters for the engine. Each has its own digest; they share the folders of `loras`."""
    return [
        Artefact(name=f"bench/a{i}@1", form="lora", digest=f"registered {i}", folder=loras[i % len(loras)].folder)
        for i in range(count)
    ]


def many_adapters(engine: Engine, text: str, shelf: Sequence[Artefact], requests: int, new_tokens: int) -> float:
    """Tokens per second of requests whose adapters come from `shelf` by a Zipf distribution."""
    which = zipf(len(shelf), requests)
    return rate(engine, [admit(str(i), text, new_tokens, shelf[k]) for i, k in enumerate(which)])


def label_lists(base: BaseModel) -> dict[str, list[str]]:
    """Lists of labels by name: with first tokens of their own, and such that share them."""
    tokenizer = base.tokenizer
    words = [
        word for word in (tokenizer.decode([id_]) for id_ in range(300, 20_000)) if word.isalpha() and word.islower()
    ]
    own = [word for word in words if len(word) > 4 and len(tokenizer.encode(word)) == 1][:100]
    shared = [f"{first} {second}" for first in own[:10] for second in own[10:20]]
    return {"2 labels": own[:2], "8 labels": own[:8], "100 labels": own, "100 labels in 10 groups": shared}


def labelled(engine: Engine, text: str, labels: Sequence[str], requests: int, *, told: bool) -> float:
    """Requests per second that choose one of these labels. told: whether they tell the probability of each."""
    rule = Choice([*labels], probabilities=told)
    rows = [admit(str(i), text, 12) for i in range(requests)]
    began = now()
    rate(
        engine,
        [msgspec.structs.replace(one, request=msgspec.structs.replace(one.request, output=rule)) for one in rows],
    )
    return requests / (now() - began)


def lengths(requests: int) -> list[int]:
    """Output lengths from 4 to 128 tokens, by a Zipf distribution, in random order."""
    return [4 + k for k in zipf(125, requests, seed=1)]


def continuous(engine: Engine, text: str, wanted: Sequence[int]) -> float:
    return rate(engine, [admit(str(i), text, n) for i, n in enumerate(wanted)])


def static(engine: Engine, text: str, wanted: Sequence[int], rows: int) -> float:
    """Static batches: as many rows as fit; the next rows start when all of these have ended."""
    began = now()
    for first in range(0, len(wanted), rows):
        continuous(engine, text, wanted[first : first + rows])
    return sum(wanted) / (now() - began)


def second_against_first(engine: Engine, instruction: str, turn: int) -> float:
    """Ratio of times to the first token: second request of an endpoint / first. Each turn has a new instruction."""
    times = []
    for question in ("What is this?", "And this?"):
        began = now()
        rate(engine, [admit(question, question, 1, instruction=f"{turn} {instruction}")])
        times.append(now() - began)
    return times[1] / times[0]


def instruction_of_length(base: BaseModel, tokens: int) -> str:
    words = "You are a clerk of a small town and answer in short and friendly sentences. "
    ids = base.tokenizer.encode(words * (tokens // 10))[: tokens - 2]
    return str(base.tokenizer.decode(ids))


def poisson(engine: Engine, text: str, *, per_s: float, for_s: float, new_tokens: int) -> list[Figure]:
    """Latencies if requests come at random times. per_s: mean number of requests per second."""
    chance = random.Random(0)
    arrivals = [0.0]
    while arrivals[-1] < for_s:
        arrivals.append(arrivals[-1] + chance.expovariate(per_s))
    first: list[float] = []
    each: list[float] = []
    began = time.perf_counter()
    due = list(enumerate(arrivals))
    ended = 0
    while ended < len(arrivals):
        now = time.perf_counter() - began
        while due and due[0][1] <= now:
            i, _ = due.pop(0)
            engine.add(admit(str(i), text, new_tokens))
        if not engine._open:
            time.sleep(max(0.0, due[0][1] - now))
            continue
        rows = {id_: (rows[0], len(rows[0].token_ids)) for id_, rows in engine._open.items() if rows}
        stepped = time.perf_counter() - began
        ended += sum(isinstance(message, Finished) for message in engine.step(time.time()))
        after = time.perf_counter() - began
        # Some requests were prepared and seated in this same step.
        rows = {id_: (rows[0], 0) for id_, rows in engine._open.items() if rows} | rows
        for id_, (row, had) in rows.items():
            if len(row.token_ids) > had:
                if had:
                    each.append(after - stepped)
                else:
                    first.append(after - arrivals[int(id_)])
    name = f"Poisson load, {per_s:.1f} requests/s of {new_tokens} tokens"
    return [
        Figure(f"{name}: {what}, p{share:.0%}".replace("%", ""), quantile(values, share) * 1000, "ms")
        for what, values in (("time to first token", first), ("time per output token", each))
        for share in (0.50, 0.99)
    ]


def memory(load: Callable[[], BaseModel], folder: Path, kind: str, rows: int) -> float:
    """Peak memory in MB of this process after a batch whose rows all have guidance of `kind`.

    It makes one artefact, and the engine takes its copies for different ones. Call it in a process of its own.
    """
    base = load()
    made = [] if kind == "none" else artefacts(base, folder, kind, 1)
    shelf = [msgspec.structs.replace(one, digest=f"{kind} {i}") for one in made for i in range(rows)]
    engine, text = new_engine(base, max_rows=rows), text_of_length(base, 20)
    rate(engine, admits(text, rows, 16, shelf))
    # Not `ru_maxrss`: on Linux it also counts the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def memory_by_kind(kinds: Sequence[str], arguments: Sequence[str]) -> list[Figure]:
    """Peak memory in MB of an engine process by kind of guidance, each in its own process."""
    figures = []
    for kind in kinds:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.engine", *arguments, "--memory-of", kind],
            check=True,
            capture_output=True,
            text=True,
        )
        figures.append(Figure(f"peak memory, 16 rows, {kind}", float(done.stdout.split()[-1]), "MB"))
    return figures
