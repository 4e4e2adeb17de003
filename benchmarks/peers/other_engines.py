"""Other engines beside ours: same rows, same model, in turns. Each is used where the environment says where it is.

`GUIDEWAY_VLLM`: the folder of a Python environment with vLLM for CPUs. `GUIDEWAY_LLAMA`: a folder with llama.cpp's
programs, `llama-bench` and `llama-batched-bench`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec
import torch
from benchmarks.engine_rows import admits, new_engine, rate
from benchmarks.figures import Figure, Run, in_turns, log, now, rates, ratio
from benchmarks.steps.engine_steps import answered, reviews

from guideway.schemas.output import Text
from guideway.workers.engine.model import base_model
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.to_engine import Admit

if TYPE_CHECKING:
    from benchmarks.engine import Bench

VLLM, LLAMA = (os.environ.get(name) for name in ("GUIDEWAY_VLLM", "GUIDEWAY_LLAMA"))
LABELS: Final = ("positive", "negative")


class Vllm:
    """A vLLM process with one model."""

    def __init__(self, commands: IO[str], answers: IO[str]) -> None:
        self._commands, self._answers = commands, answers
        self._answer()

    def seconds(self, prompts: Sequence[Sequence[int]], new_tokens: int, **more: Any) -> float:
        """Seconds for these rows. more: `choice` and `loras` of vllm_process.py."""
        command = {"prompts": [[*ids] for ids in prompts], "new_tokens": new_tokens, **more}
        self._commands.write(json.dumps(command) + "\n")
        self._commands.flush()
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        if not (line := self._answers.readline()):
            raise SystemExit("vLLM has ended; what it said stands above")
        return dict(json.loads(line))


@contextmanager
def vllm(home: str, folder: Path, *, max_loras: int, threads: int) -> Iterator[Vllm]:
    """vLLM of the environment `home` with the model in `folder`; it ends with the block."""
    program = [f"{home}/bin/python", str(Path(__file__).with_name("vllm_process.py")), str(folder), str(max_loras)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OMP_"))}
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:threads])
    environ |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}
    # Left to itself it keeps a core free, which is half of a machine of two.
    environ |= {"VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    if library := next(Path(home).rglob("libiomp5.so"), None):
        environ["LD_PRELOAD"] = str(library)
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=sys.stderr, text=True, env=environ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Vllm(process.stdin, process.stdout)
        finally:
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def free_token(one: Admit) -> Admit:
    """The same request for one token of free text."""
    generation = msgspec.structs.replace(one.request.generation, max_tokens=1)
    return msgspec.structs.replace(
        one, request=msgspec.structs.replace(one.request, output=Text(), generation=generation)
    )


@torch.inference_mode()
def padded(model: Any, prompts: Sequence[Sequence[int]], rows: int) -> float:
    """Rows per second of transformers for one new token each, in batches padded on the left to the longest row."""
    began = now()
    for start in range(0, len(prompts), rows):
        piece = prompts[start : start + rows]
        width = max(map(len, piece))
        ids = torch.tensor([[0] * (width - len(one)) + [*one] for one in piece])
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in piece])
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=1, do_sample=False, pad_token_id=0)
    return len(prompts) / (now() - began)


def reviews_group(bench: Bench) -> list[Figure]:
    """Reviews with a fixed instruction, one word each, beside transformers and vLLM."""
    chosen = reviews(bench.args.reviews, 32 if bench.args.quick else 623)
    free = [free_token(one) for one in chosen]
    layout = PromptLayout(bench.bare.tokenizer)
    prompts = [layout.encode(one.request.parts).token_ids for one in chosen]
    engine = new_engine(bench.load(), max_rows=16, preparer_threads=0)
    one, two = "guideway, reviews, one free token", "guideway, reviews, choice of two labels"
    runs: dict[str, Run] = {
        one: lambda: answered(engine, free),
        two: lambda: answered(engine, chosen),
        "transformers, reviews, padded batches of 16": lambda: padded(bench.bare.model, prompts, 16),
    }
    pairs = [("reviews, one free token, against transformers in padded batches", one, list(runs)[-1])]
    if VLLM is None:
        log("GUIDEWAY_VLLM names no environment: no figures of vLLM")
        return _in_turns(bench, runs, pairs, "rows/s")
    with vllm(VLLM, bench.prepared, max_loras=0, threads=bench.args.threads) as other:
        theirs = ("vLLM, reviews, one free token", "vLLM, reviews, choice of two labels")
        runs[theirs[0]] = lambda: len(prompts) / other.seconds(prompts, 1)
        runs[theirs[1]] = lambda: len(prompts) / other.seconds(prompts, 4, choice=[*LABELS])
        pairs += [
            ("reviews, one free token, against vLLM", one, theirs[0]),
            ("reviews, choice of two labels, against vLLM", two, theirs[1]),
        ]
        return _in_turns(bench, runs, pairs, "rows/s")


def vllm_group(bench: Bench) -> list[Figure]:
    """Decoding beside vLLM: rows without guidance, and rows with a LoRA each."""
    if VLLM is None:
        log("GUIDEWAY_VLLM names no environment: no figures of vLLM")
        return []
    n, rows, loras = bench.new_tokens, bench.rows, bench.made("LoRAs (all linears)")
    engine, ids = new_engine(bench.load(), max_rows=rows), bench.ids.tolist()
    folders = [one.folder for one in loras]
    with vllm(VLLM, bench.prepared, max_loras=rows, threads=bench.args.threads) as adapted:
        runs: dict[str, Run] = {
            "guideway, plain": lambda: rate(engine, admits(bench.text, rows, n)),
            "guideway, LoRAs (all linears)": lambda: rate(engine, admits(bench.text, rows, n, loras)),
            "vLLM with LoRAs allowed, plain": lambda: rows * n / adapted.seconds(ids, n),
            "vLLM, LoRAs (all linears)": lambda: rows * n / adapted.seconds(ids, n, loras=folders),
        }
        plain, ours, _, theirs = runs
        figures = _in_turns(bench, runs, [("16 LoRAs (all linears) against vLLM", ours, theirs)])
    with vllm(VLLM, bench.prepared, max_loras=0, threads=bench.args.threads) as bare:
        runs = {plain: runs[plain], "vLLM, plain": lambda: rows * n / bare.seconds(ids, n)}
        return figures + _in_turns(bench, runs, [("plain, 16 rows, against vLLM", plain, "vLLM, plain")])


def _llama(program: str, *options: str) -> list[dict[str, Any]]:
    """What one of llama.cpp's programs says, as objects."""
    said = subprocess.run([f"{LLAMA}/{program}", *options], capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def llama_group(bench: Bench) -> list[Figure]:
    """One row alone and 16 rows, beside llama.cpp with the 4-bit file that the model comes from."""
    if LLAMA is None:
        log("GUIDEWAY_LLAMA names no folder: no figures of llama.cpp")
        return []
    n, rows = 4 * bench.new_tokens, bench.rows
    file, threads = str(base_model.resolve(bench.source)), str(bench.args.threads)
    types = {"bfloat16": bench.load(), "int8": base_model.load(bench.prepared, dtype=torch.int8, device="cpu")}
    engines = {name: new_engine(base, max_rows=rows) for name, base in types.items()}

    def ours(name: str, count: int) -> Run:
        return lambda: rate(engines[name], admits(bench.text, count, n))

    def theirs(count: int) -> float:
        cells = str(count * (n + bench.args.prompt))
        shape = ("-npp", str(bench.args.prompt), "-ntg", str(n), "-npl", str(count))
        found = _llama(
            "llama-batched-bench", "-m", file, "-c", cells, "-t", threads, *shape, "--output-format", "jsonl"
        )
        return float(count * n / (float(found[-1]["t_pp"]) + float(found[-1]["t_tg"])))

    runs: dict[str, Run] = {}
    for count in (1, rows):
        runs |= {f"guideway, {name}, {count} rows": ours(name, count) for name in types}
        runs[f"llama.cpp, 4 bits, {count} rows"] = lambda count=count: theirs(count)  # type: ignore[misc]
    _, one, their_one, _, many, their_many = runs
    pairs = [
        ("int8, 1 row, against llama.cpp with 4 bits", one, their_one),
        ("int8, 16 rows, against llama.cpp with 4 bits", many, their_many),
    ]
    return _in_turns(bench, runs, pairs)


def int8_group(bench: Bench) -> list[Figure]:
    """Decoding with weights of 8 bits against bfloat16."""
    n = bench.new_tokens
    plain, eight = (
        new_engine(base, max_rows=bench.rows)
        for base in (bench.load(), base_model.load(bench.prepared, dtype=torch.int8, device="cpu"))
    )
    runs: dict[str, Run] = {}
    for count in (1, bench.rows):
        runs[f"bfloat16, {count} rows"] = lambda count=count: rate(plain, admits(bench.text, count, n))  # type: ignore[misc]
        runs[f"int8, {count} rows"] = lambda count=count: rate(eight, admits(bench.text, count, n))  # type: ignore[misc]
    one, one8, many, many8 = runs
    return _in_turns(
        bench,
        runs,
        [("int8 against bfloat16, 1 row", one8, one), ("int8 against bfloat16, 16 rows", many8, many)],
    )


def _in_turns(
    bench: Bench, runs: dict[str, Run], pairs: Sequence[tuple[str, str, str]], unit: str = "tokens/s"
) -> list[Figure]:
    found = in_turns(runs, bench.turns, log)
    return [*rates(found, unit), *(Figure(what, ratio(found, ours, theirs), "ratio") for what, ours, theirs in pairs)]
