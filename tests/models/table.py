"""What docs/models.md says of a family, found out by running it; `python -m tests.models` writes the page."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from tests.models import artefacts
from tests.models.families import FAMILIES
from tests.reference import plain
from tests.reference.case import Case
from tests.workers.engine.conftest import base_of, ends, run, tiny_tokenizer
from tests.workers.engine.families import tiny, written
from transformers import AutoConfig, DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

from guideway.schemas.failures import Refusal
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.model.model_kind import check_kind, context_of, settings_of
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished
from guideway.workers.messages.to_engine import Artefact, EngineSettings

PAGE: Final = Path(__file__).parents[2] / "docs" / "models.md"
_FORMS: Final[dict[str, Callable[[PreTrainedModel, Path], Artefact]]] = {
    "lora": artefacts.lora,
    "ia3": artefacts.ia3,
    "inserted_layer": artefacts.inserted_layer,
    "soft_prompt": artefacts.soft_prompt,
    "prefix": artefacts.prefix,
}
_TEXTS: Final = ("x", "It is said", "that the lazy dog, which had slept since noon, woke at last")
_TOKENS: Final = 16


@dataclass(frozen=True)
class Line:
    """One family: whether each is what it is alone, or why it is not."""

    family: str
    cells: Sequence[str]

    def __str__(self) -> str:
        return "| " + " | ".join([f"`{self.family}`", *self.cells]) + " |"


def line(family: str, folder: Path) -> Line:
    """Run `family` in float32, rows of three lengths and of three forms of guidance side by side, and each alone.

    Alone is transformers' `generate`, and for guidance `tests/reference/plain.py`.
    """
    tokenizer = tiny_tokenizer()
    settings = {"bos_token_id": 0, **FAMILIES[family]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **settings)
            check_kind(settings_of(config))
            model = _drawn(tiny(family, tokenizer, **settings))
            engine = Engine(base_of(model, tokenizer), EngineSettings(reader_threads=0), max_context_tokens=512)
        except Refusal as refusal:
            return Line(family, ["refused", "", "", "", "", "", _reason(refusal.message)])
        return Line(family, _cells(model, tokenizer, engine, folder))


def _drawn(model: PreTrainedModel) -> PreTrainedModel:
    """Where a family draws its weights so small that all texts are alike, larger ones."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter.std() < 0.1:
            parameter.normal_(std=0.25)
    return model


def _cells(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, engine: Engine, folder: Path) -> list[str]:
    texts = [Case(f"text {i}", "team", text, max_tokens=_TOKENS) for i, text in enumerate(_TEXTS)]
    guided = {
        form: Case(form, "team", _TEXTS[0], [make(model, folder)], max_tokens=_TOKENS) for form, make in _FORMS.items()
    }
    cases = [*texts, *guided.values()]
    found = ends(run(engine, [case.admit() for case in cases]))
    alone = {case.name: _alone(model, tokenizer, case) for case in texts}
    assert len({*alone.values()}) > 1, "texts that are all alike show nothing"
    assert all(_same(found[name], text) for name, text in alone.items()), (found, alone)
    cells, notes = ["yes"], []
    for form, case in guided.items():
        end = found[case.name]
        if isinstance(end, Refused):
            cells.append(str(end.code))
            continue
        text = _alone(model, tokenizer, case)
        assert _same(end, text), (form, end, text)
        assert text != alone["text 0"], f"the {form} changes nothing"
        cells.append("yes")
    settings = settings_of(model.config)
    context = context_of(settings)
    if context is not None and context < 512:
        notes.append(
            "contexts up to its original length" if "longrope" in str(settings) else "contexts up to its window"
        )
    return [*cells, "; ".join(notes)]


def _same(end: Finished | Refused, text: str) -> bool:
    assert isinstance(end, Finished), end
    return end.samples[0].text == text


@torch.inference_mode()
def _alone(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, case: Case) -> str:
    """What the row comes to by transformers alone, on the very model that the engine runs on."""
    ids = PromptLayout(tokenizer).encode(case.parts).token_ids
    end = tokenizer.eos_token_id
    if not case.guidance:
        given = torch.tensor([ids])
        tokens = model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=_TOKENS, do_sample=False, pad_token_id=0
        )[0, len(ids) :].tolist()
    elif case.guidance[0].form == "prefix":
        tokens = _with_prefix(model, ids, case.guidance[0], end)
    else:
        tokens, _ = plain.generate(model, ids, case.guidance, max_tokens=_TOKENS, end=end)
    return written(tokenizer, tokens)


def _with_prefix(model: PreTrainedModel, ids: Sequence[int], artefact: Artefact, end: int) -> list[int]:
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(artefacts.prefix_of(artefact)):
        cache.update(keys, values, layer)
    tokens: list[int] = []
    given = torch.tensor([ids])
    while len(tokens) < _TOKENS:
        logits = model(input_ids=given, past_key_values=cache, use_cache=True).logits[0, -1]
        if logits.argmax() == end:
            break
        tokens.append(int(logits.argmax()))
        given = torch.tensor([tokens[-1:]])
    return tokens


def _reason(message: str) -> str:
    """Without what changes with versions, and what a table need not say on each line."""
    return re.sub(r" \((\w+: .*|by \d+%)\)$", "", message.partition(": name another source")[0])


def page(lines: Sequence[Line]) -> str:
    """docs/models.md"""
    runs = sum(line.cells[0] == "yes" for line in lines)
    return f"""# Which models run

A model size runs any causal language model of [transformers](https://github.com/huggingface/transformers) whose layers
attend to all tokens before them, from safetensors or GGUF. This page is made by `make models`, and tests hold each line
of it: a tiny random model of each family is run in float32, rows of three lengths and of five forms of guidance side
by side, and every text must be the one that the row gets alone, by `generate`, or by a plain loop with its guidance.

{runs} of these {len(lines)} families run. One that is not here is tried as well: when a worker loads a model, it runs
a few rows side by side and alone, and refuses a model that comes to something else (`unsupported_model`), or whose
tokenizer has ids that the model lacks. In bfloat16 and float16 rounding depends on what is in the batch, and texts may
differ.

- **Windows.** Layers with a sliding window, or in chunks, attend to all tokens before them up to its length: there the
  context ends. The same holds where only a number of keys is attended to.
- **Scaled positions.** `linear`, `llama3` and `yarn` rotate a token by its own position and serve the whole context.
  `dynamic` and `longrope` rotate all tokens otherwise once the longest row of a batch passes the original context, and
  keys in the cache stay as they were: there the context ends, so that no row changes another (Phi-3 and Phi-4-mini: at
  4,096 tokens).
- **Prefixes** need keys and values of one shape at every layer; a family with others answers `guidance_unsupported`.
- **LoRA and IA3** act on linear modules, and are tried on those of the attention; one expert of a mixture has none.
- **`dtype: int8`** rounds the weights of linear modules to 8 bits, and what goes into them token by token
  ([decision 31](decisions/0031-weights-of-8-bits.md)). It runs on CPUs only, and where nine tenths of the weights that
  multiply stand in linear modules. So mixtures of experts, GPT-2 and Falcon are refused (`unsupported_model`). It has a
  fingerprint of its own, so guidance is trained on it anew. Its products are the same numbers in every batch.
  It can cost accuracy: compare both types on held-out rows of your task first (what was seen is in
  [performance](performance.md#weights-of-8-bits)).

| family (`model_type`) | runs | LoRA | IA3 | inserted layer | soft prompt | prefix | what to know |
|---|---|---|---|---|---|---|---|
{chr(10).join(map(str, lines))}
"""
