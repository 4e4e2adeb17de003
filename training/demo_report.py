"""Writes down what the demo's artefacts are and what they reach: accuracy.json and README.md beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from guideway.training.demo_recipes import MODEL_NAME, MODEL_SOURCE, RECIPES, SEED, Recipe

_COMMAND: Final = "python -m guideway.training.make_demo_artefacts --out examples/demo/artefacts --data DIR"

Scores = dict[str, dict[str, float]]
"""Artefact → `bare`, `guided` (by it alone), `together` (with the one it was trained on) → accuracy."""


def write_report(out: Path, data: Path, fingerprint: str, scores: Scores, took_s: dict[str, float]) -> None:
    """Write accuracy.json and README.md. What was not trained this time keeps the training time noted before."""
    file = out / "accuracy.json"
    before = json.loads(file.read_text("utf-8"))["artefacts"] if file.is_file() else {}
    artefacts = {}
    for recipe in (r for r in RECIPES if r.name in scores):
        seconds = took_s.get(recipe.name, before.get(recipe.name, {}).get("training_s"))
        artefacts[recipe.name] = {
            "form": recipe.form,
            "data": recipe.task.data,
            "instruction": recipe.task.instruction,
            "labels": recipe.task.labels,
            "settings": _settings(recipe),
            "training_s": seconds and round(seconds),
            "bytes": (out / recipe.name / "adapter_model.safetensors").stat().st_size,
            "eval_rows": (data / f"{recipe.task.data}.eval.jsonl").read_bytes().count(b"\n"),
            "accuracy": scores[recipe.name],
        }
    report = {
        "base_model": {"name": MODEL_NAME, "source": MODEL_SOURCE, "fingerprint": fingerprint},
        "artefacts": artefacts,
    }
    file.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    (out / "README.md").write_text(_readme(report), "utf-8")


def _settings(recipe: Recipe) -> dict[str, Any]:
    common = {"steps": recipe.steps, "rows_per_step": recipe.rows_per_step, "learning_rate": recipe.learning_rate}
    if recipe.form == "soft_prompt":
        return {"virtual_tokens": recipe.virtual_tokens, "initial_text": recipe.initial_text, **common}
    return {
        "rank": recipe.rank,
        "alpha": 2 * recipe.rank,
        "targets": recipe.targets,
        "together_with": recipe.together_with,
        **common,
    }


def _readme(report: dict[str, Any]) -> str:
    base = report["base_model"]
    lines = [
        "# The demo's trained guidance",
        "",
        f"Plain PEFT folders for {base['name']} (`{base['source']}`, Apache-2.0), fingerprint",
        f"`{base['fingerprint']}`. The artefacts are under guideway's own licence.",
        "",
        f"Made by `{_COMMAND}` (seed {SEED}), which also wrote this file and accuracy.json.",
        "Accuracy is over all held-out rows, which training never saw, in bfloat16, by the engine and the grammar that",
        "serve: greedy, one of the labels, the same text for both. *Bare* is the model without the artefact.",
        "One standard error is about 1 point for 623 rows, 1.5 for 400: smaller differences say nothing.",
        "",
        "| artefact | what | bytes | eval rows | bare → guided |",
        "|---|---|---|---|---|",
    ]
    for name, one in report["artefacts"].items():
        change = _change(one["accuracy"])
        lines.append(f"| `{name}` | {_what(one)} | {one['bytes']:,} | {one['eval_rows']} | {change} |")
    lines += ["", "| artefact | instruction | labels | data | training |", "|---|---|---|---|---|"]
    origins = {recipe.name: recipe.task.origin for recipe in RECIPES}
    for name, one in report["artefacts"].items():
        settings = one["settings"]
        training = f"{settings['steps']} steps × {settings['rows_per_step']} rows, rate {settings['learning_rate']:g}"
        if one["training_s"]:
            training += f", {one['training_s'] / 60:.1f} min on two busy cores"
        labels = ", ".join(one["labels"])
        data = f"`{one['data']}`: {origins[name]}"
        lines.append(f"| `{name}` | {one['instruction']} | {labels} | {data} | {training} |")
    return "\n".join(lines) + "\n"


def _what(one: dict[str, Any]) -> str:
    settings = one["settings"]
    if one["form"] == "soft_prompt":
        return f"soft prompt, {settings['virtual_tokens']} virtual tokens"
    text = f"LoRA, rank {settings['rank']} on {', '.join(settings['targets'])}"
    return f"{text}; made to act on one row with `{settings['together_with']}`" if settings["together_with"] else text


def _change(figures: dict[str, float]) -> str:
    text = f"{figures['bare']:.3f} → {figures['guided']:.3f}"
    return f"{text}; both artefacts {figures['together']:.3f}" if "together" in figures else text
