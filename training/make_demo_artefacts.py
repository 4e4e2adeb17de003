"""Trains and scores the demo's soft prompt and LoRAs: `python -m guideway.training.make_demo_artefacts --help`.

Takes about 20 minutes on two cores. The data files are named in examples/data/README.md.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from guideway.training.demo_recipes import MODEL_NAME, MODEL_SOURCE, RECIPES, SEED, Recipe
from guideway.training.demo_report import write_report
from guideway.training.demo_rows import read
from guideway.training.demo_scores import score
from guideway.training.guided import Guided, prompt_ids
from guideway.workers.engine import base_model
from guideway.workers.engine.base_model import BaseModel
from guideway.workers.engine.prompt import PromptLayout


def train(recipe: Recipe, folder: Path, out: Path, data: Path) -> float:
    """Train one artefact, write its PEFT folder under `out`, return the seconds that training took."""
    torch.manual_seed(SEED)
    base = base_model.load(folder, dtype=torch.bfloat16, device="cpu")
    layout = PromptLayout(base.tokenizer)
    ends = [base.tokenizer.eos_token_id]
    rows = [
        prompt_ids(layout, recipe.task.instruction, row["text"]) + layout.content_ids(row["label"]) + ends
        for row in read(data, recipe.task, "train")
    ]
    answers = {label: len(layout.content_ids(label)) + 1 for label in recipe.task.labels}
    lengths = [answers[row["label"]] for row in read(data, recipe.task, "train")]
    adapted = peft.get_peft_model(base.model, config_for(recipe, base))
    soft = soft_prompt(out / recipe.together_with) if recipe.together_with else None
    if recipe.form == "soft_prompt":
        embedding = adapted.prompt_encoder["default"].embedding.weight
        embedding.data.copy_(initial_embeddings(recipe, base))
        soft = embedding
    guided = Guided(base.model, soft)
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, recipe.steps))
    started = time.monotonic()
    running = 0.0
    for step, batch in enumerate(batches([len(row) for row in rows], recipe), 1):
        loss = answer_loss(guided, [rows[i] for i in batch], [lengths[i] for i in batch])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        running = 0.9 * running + 0.1 * loss.item() if step > 1 else loss.item()
        if step % 10 == 0:
            print(f"{recipe.name} step {step} loss {running:.3f} {time.monotonic() - started:.0f} s", flush=True)
    seconds = time.monotonic() - started
    save(adapted, recipe, out / recipe.name)
    return seconds


def config_for(recipe: Recipe, base: BaseModel) -> Any:
    """PEFT's configuration of an artefact."""
    if recipe.form == "soft_prompt":
        # RANDOM, because TEXT makes PEFT write down a tokenizer's path; `train` sets the start itself.
        return peft.PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=recipe.virtual_tokens, prompt_tuning_init="RANDOM"
        )
    return peft.LoraConfig(
        task_type="CAUSAL_LM", r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=sorted(recipe.targets)
    )


def initial_embeddings(recipe: Recipe, base: BaseModel) -> Tensor:
    """[virtual tokens, hidden]: the embeddings of the recipe's text."""
    ids = base.tokenizer.encode(recipe.initial_text, add_special_tokens=False)
    ids = (ids * math.ceil(recipe.virtual_tokens / len(ids)))[: recipe.virtual_tokens]
    embeddings: Tensor = base.model.get_input_embeddings()(torch.tensor(ids)).detach().float()
    return embeddings


def rate(step: int, steps: int) -> float:
    """Share of the highest learning rate."""
    warm = max(1, steps // 10)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def batches(lengths: Sequence[int], recipe: Recipe) -> Iterator[list[int]]:
    """Row numbers, step by step, in a seeded random order in which rows of one step are of like length."""
    shuffler = random.Random(SEED)
    size = recipe.rows_per_step
    made = 0
    while True:
        order = list(range(len(lengths)))
        shuffler.shuffle(order)
        for start in range(0, len(order) - 8 * size + 1, 8 * size):
            group = sorted(order[start : start + 8 * size], key=lambda i: lengths[i])
            steps = [group[at : at + size] for at in range(0, len(group), size)]
            shuffler.shuffle(steps)
            for step in steps:
                if made == recipe.steps:
                    return
                made += 1
                yield step


def answer_loss(guided: Guided, rows: Sequence[Sequence[int]], answers: Sequence[int]) -> Tensor:
    """Mean cross-entropy of the last `answers[i]` tokens of each row: its label and the end."""
    last = max(answers) + 1
    logits = guided.logits(rows, last)[:, :-1]
    wanted = torch.tensor([row[-last + 1 :] for row in rows])
    for target, length in zip(wanted, answers, strict=True):
        target[: last - 1 - length] = -100
    return nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)


def save(adapted: Any, recipe: Recipe, folder: Path) -> None:
    """Write a PEFT folder that names no path; LoRAs in bfloat16, which halves the file."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.bfloat16 if recipe.form == "lora" else torch.float32
    tensors = {
        name: tensor.detach().to(dtype).contiguous() for name, tensor in get_peft_model_state_dict(adapted).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = adapted.peft_config["default"]
    config.base_model_name_or_path = MODEL_NAME
    config.inference_mode = True
    if recipe.form == "lora":
        config.target_modules = sorted(recipe.targets)  # PEFT keeps a set, whose order changes from run to run
    config.save_pretrained(folder)


def soft_prompt(folder: Path) -> Tensor:
    """[virtual tokens, hidden] of a saved soft prompt."""
    return load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]


def main() -> None:
    """Train what is asked for, then score everything that is there and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the artefacts")
    parser.add_argument("--data", type=Path, required=True, help="folder with NAME.train.jsonl and NAME.eval.jsonl")
    parser.add_argument("--cache", type=Path, default=Path(".guideway/models"), help="folder for the converted model")
    parser.add_argument("--only", nargs="*", default=[r.name for r in RECIPES], help="artefacts to train; none: score")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = base_model.prepare(MODEL_SOURCE, options.cache, print)
    took = {r.name: train(r, folder, options.out, options.data) for r in RECIPES if r.name in options.only}
    scores = score(folder, options.out, options.data)
    write_report(options.out, options.data, base_model.fingerprint(folder), scores, took)


if __name__ == "__main__":
    main()
