"""The engine's rates on CUDA, with models of random weights. It needs no download and no broker.

    python -m benchmarks.gpu                                  # 135M, 1B and 8B; 16, 64 and 256 rows
    python -m benchmarks.gpu --device cpu --sizes tiny        # a smoke run anywhere

First it compares, in float32, the rows of a mixed batch with the same rows alone and with PEFT, token by token. Then it
prints the table. Needs this repository, torch, transformers and PEFT.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from benchmarks.engine_peers import generate, peft_of
from benchmarks.engine_rows import admits, artefacts, new_engine, parts, rate
from benchmarks.figures import Run, in_turns, log, markdown, rates
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from guideway.workers.engine.engine import Engine
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.to_engine import Admit, Artefact

SHAPES: Final[dict[str, dict[str, int]]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 96, "vocab_size": 512},
    "135M": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
             "intermediate_size": 1536, "vocab_size": 49_152},
    "1B": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
           "intermediate_size": 8192, "vocab_size": 128_256},
    "8B": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
           "intermediate_size": 14_336, "vocab_size": 128_256},
}  # fmt: skip
KINDS: Final = ("soft prompts", "prefixes", "LoRAs (q, v)", "LoRAs (all linears)", "IA3", "inserted layers")
TEXT: Final = "What is rain?"
TIE: Final = 1e-3
"""If two logits are closer than this, either token may be drawn: sums of other shapes have another order."""
_SAVED: Final = 8
"""Number of artefacts of a kind on disk. Rows share them, but where they are different each has a digest of its own."""


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {char: id_ for id_, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def base_of(size: str, *, dtype: torch.dtype, device: str) -> BaseModel:
    """A model with random weights, the same each time."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", max_position_embeddings=4096, initializer_range=0.05, **SHAPES[size])
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return BaseModel(
        model=model.eval().requires_grad_(False),
        tokenizer=bytes_tokenizer(),
        fingerprint="sha256:" + "0" * 64,
        eos_ids=frozenset(),
        context_tokens=4096,
    )


# The check -----------------------------------------------------------------------------------------------------------


def tokens_of(engine: Engine, rows: Sequence[Admit]) -> list[list[int]]:
    for row in rows:
        engine.add(row)
    held = [engine._open[row.id][0] for row in rows]
    while engine.has_work:
        engine.step(0.0)
    return [row.token_ids for row in held]


def check(size: str, device: str, folder: Path) -> None:
    """Compare rows of a mixed batch with the rows alone and with PEFT. Raises: SystemExit if they differ."""
    bare, n = base_of(size, dtype=torch.float32, device=device), 12
    shelf: list[Artefact | None] = [None]
    for kind in ("soft prompts", "LoRAs (q, v)", "LoRAs (all linears)"):
        shelf += artefacts(bare, folder / "check", kind, 2)
    shelf += artefacts(bare, folder / "check", "inserted layers", 2)
    base = base_of(size, dtype=torch.float32, device=device)
    # Rows are prepared at once when they are asked for.
    engine = new_engine(base, max_rows=16, reader_threads=0, preparer_threads=0)
    rows = [
        msgspec.structs.replace(admits(TEXT, 1, n, [one] if one else [])[0], id=str(i)) for i, one in enumerate(shelf)
    ]
    mixed = tokens_of(engine, rows)
    ties = 0
    for one, row, ours in zip(shelf, rows, mixed, strict=True):
        name = one.name if one else "no guidance"
        alone = tokens_of(engine, [row])[0]
        theirs, gaps = alone, [0.0] * n
        if one is None or one.form != "inserted_layer":  # PEFT has none
            theirs, gaps = peft_tokens(size, device, one, n)
        for other, what in ((alone, "alone"), (theirs, "PEFT")):
            at = next((i for i, pair in enumerate(zip(ours, other, strict=True)) if pair[0] != pair[1]), None)
            if at is not None and gaps[at] >= TIE:
                raise SystemExit(f"{name}: the row in the mixture differs from {what} at token {at}")
            ties += at is not None
    log(f"float32, {size}, {device}: {len(rows)} rows of a mixture equal themselves alone and PEFT; {ties} ties")


@torch.inference_mode()
def peft_tokens(size: str, device: str, artefact: Artefact | None, n: int) -> tuple[list[int], list[float]]:
    """Greedy tokens of one row by PEFT, and for each the difference of the two largest logits."""
    base = base_of(size, dtype=torch.float32, device=device)
    model: Any = base.model if artefact is None else PeftModel.from_pretrained(base.model, artefact.folder).eval()
    ids = prompt_ids(base, 1)
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), min_new_tokens=n, max_new_tokens=n, do_sample=False,
        pad_token_id=0, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    top = torch.cat(out.logits).topk(2).values
    return out.sequences[0, ids.shape[1] :].tolist(), (top[:, 0] - top[:, 1]).tolist()


def prompt_ids(base: BaseModel, rows: int) -> torch.Tensor:
    ids = PromptLayout(base.tokenizer).encode(parts(TEXT)).token_ids
    return torch.tensor([ids] * rows, device=base.model.device)


# The table -----------------------------------------------------------------------------------------------------------


def measure(size: str, rows: int, folder: Path, args: argparse.Namespace) -> None:
    n = args.new_tokens
    bare = base_of(size, dtype=getattr(torch, args.dtype), device=args.device)
    saved = {kind: artefacts(bare, folder / size / str(rows), kind, _SAVED) for kind in KINDS}
    shelves = {
        kind: [msgspec.structs.replace(made[i % _SAVED], digest=f"{kind} {i}") for i in range(rows)]
        for kind, made in saved.items()
    }
    prompt = prompt_ids(bare, rows).shape[1]
    found = measure_peers(bare, rows, saved["LoRAs (all linears)"], args)
    # One after the other on one card: transformers' model is freed before the engine's model is loaded.
    del bare
    if args.device == "cuda":
        torch.cuda.empty_cache()
    engine = new_engine(
        base_of(size, dtype=getattr(torch, args.dtype), device=args.device), max_rows=rows, guidance_bytes=16 * 2**30
    )
    mixture = [shelves[KINDS[i % len(KINDS)]][i] for i in range(rows)]

    def ours(shelf: Sequence[Artefact]) -> Run:
        return lambda: rate(engine, admits(TEXT, rows, n, shelf))

    runs = {"guideway, no guidance": ours([])}
    runs |= {f"guideway, different {kind}": ours(shelves[kind]) for kind in KINDS}
    same = [saved["LoRAs (all linears)"][i % _SAVED] for i in range(rows)]
    runs[f"guideway, {_SAVED} LoRAs (all linears) as PEFT has"] = ours(same)
    runs["guideway, all kinds mixed"] = ours(mixture)
    found |= in_turns(runs, args.turns, log)
    peak = torch.cuda.max_memory_allocated() / 2**30 if args.device == "cuda" else 0.0
    print(f"\n{size}, {rows} rows, prompt {prompt}, {n} new tokens, {args.dtype}; {peak:.1f} GiB at most\n")
    print(markdown(rates(found)))


def measure_peers(
    base: BaseModel, rows: int, loras: Sequence[Artefact], args: argparse.Namespace
) -> dict[str, list[float]]:
    """Rates by turn of transformers' `generate` and of PEFT. `base` belongs to PEFT afterwards."""
    ids, n = prompt_ids(base, rows), args.new_tokens
    found = in_turns({"transformers generate": lambda: generate(base.model, ids, n)}, args.turns, log)
    peft, names = peft_of(base, loras), [str(i % len(loras)) for i in range(rows)]
    runs: dict[str, Run] = {
        "PEFT adapter_names, LoRAs (all linears)": lambda: generate(peft, ids, n, adapter_names=names)
    }
    return found | in_turns(runs, args.turns, log)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", default="135M,1B,8B", help=f"out of {','.join(SHAPES)}")
    parser.add_argument("--rows", default="16,64,256")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("this machine has no CUDA device: run with --device cpu --sizes tiny")
    warnings.simplefilter("ignore")
    torch.backends.cuda.matmul.allow_tf32 = False
    sizes = args.sizes.split(",")
    with tempfile.TemporaryDirectory() as folder:
        check(sizes[0], args.device, Path(folder))
        where = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
        print(f"{where}; torch {version('torch')}, transformers {version('transformers')}, PEFT {version('peft')}")
        for size in sizes:
            for rows in map(int, args.rows.split(",")):
                _unless_too_large(partial(measure, size, rows, Path(folder), args), size, rows)


def _unless_too_large(run: Callable[[], None], size: str, rows: int) -> None:
    try:
        run()
    except torch.OutOfMemoryError:
        print(f"\n{size}, {rows} rows: more than the device's memory")
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
