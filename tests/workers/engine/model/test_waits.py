"""A decode step by operations of torch, as on CUDA: the host waits for the device once. What is launched, and the lines
of Python that change outputs and draw tokens, do not depend on how many rows there are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, base_of, tiny_llama
from tests.workers.engine.model.waits import Counts, Lines
from transformers import PreTrainedTokenizerFast

from guideway.schemas.output import Regex
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.guidance import batched_adapters, batched_inserted_layers
from guideway.workers.engine.kernels import native, slab, torch_backend
from guideway.workers.engine.model import runner
from guideway.workers.engine.text import sampling
from guideway.workers.messages.to_engine import EngineSettings

KINDS = (
    "plain",
    "soft prompts",
    "prefixes",
    "LoRAs",
    "IA3",
    "inserted layers",
    "sampled",
    "grammar",
    "one LoRA",
    "two LoRAs",
    "two inserted layers",
)


@pytest.fixture(autouse=True)
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What runs on CPUs only is left out: kernels, and layers that are computed in another way."""
    monkeypatch.setenv("GUIDEWAY_NATIVE", "0")
    monkeypatch.setattr(runner, "use_fast_layers", lambda model: {})
    native.kernels.cache_clear()
    yield
    native.kernels.cache_clear()


@pytest.fixture
def asking(
    make_lora: MakeArtefact,
    make_ia3: MakeArtefact,
    make_prefix: MakeArtefact,
    make_inserted_layer: MakeArtefact,
    make_soft_prompt: MakeArtefact,
) -> Callable[[str, int], dict[str, Any]]:
    """What row i asks for, by kind; each has guidance of its own where no number of them is said."""
    makers = dict(
        zip(KINDS[1:6], (make_soft_prompt, make_prefix, make_lora, make_ia3, make_inserted_layer), strict=True)
    )

    shared = {
        "one LoRA": [make_lora("news/same@1")],
        "two LoRAs": [make_lora(f"news/loras{i}@1") for i in range(2)],
        "two inserted layers": [make_inserted_layer(f"news/layers{i}@1") for i in range(2)],
    }
    others: dict[str, Callable[[int], dict[str, Any]]] = {
        "plain": lambda i: {},
        "sampled": lambda i: {"temperature": 0.7, "top_p": 0.9, "seed": i + 1},
        "grammar": lambda i: {"output": Regex("[a-z]{9,19}")},
    }

    def asking(kind: str, i: int) -> dict[str, Any]:
        if kind in makers:
            return {"artefacts": [makers[kind](f"news/one{i}@1")]}
        if kind in shared:
            return {"artefacts": [shared[kind][i % len(shared[kind])]]}
        return others[kind](i)

    return asking


@pytest.mark.parametrize("kind", KINDS)
def test_a_decode_step_waits_once_and_launches_the_same_for_any_number_of_rows(
    kind: str, asking: Callable[[str, int], dict[str, Any]], make_admit: MakeAdmit, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = []
    for rows in (3, 6):
        # Without tokens that end a text, all rows go on.
        base = replace(base_of(tiny_llama(tokenizer), tokenizer), eos_ids=frozenset())
        settings = EngineSettings(max_rows=8, reader_threads=0, preparer_threads=0)
        engine = Engine(base, settings, max_context_tokens=512)
        for i in range(rows):
            engine.add(make_admit(f"row {i} of these", max_tokens=12, **asking(kind, i)))
        for step in range(3):
            engine.step(1000 + step)
        assert len(engine._runner.rows) == rows
        with Counts() as counts:
            engine.step(1003)
        assert dict(counts.waits) == {"tolist": 1}
        with Lines(batched_adapters, batched_inserted_layers, slab, torch_backend, sampling) as lines:
            engine.step(1004)
        assert lines.count
        found.append((counts.launches, lines.count))
    assert found[0] == found[1]
    print(f"{kind}: {found[0][0]} operators")


@torch.inference_mode()
def test_drawing_takes_few_operators_and_waits_for_nothing() -> None:
    samplers = [sampling.Sampler(temperature=i / 2, top_p=0.9 if i % 2 else 1.0, seed=i) for i in range(6)]
    batched, logits = sampling.BatchedSampler(samplers), torch.randn(6, 300)
    batched.choose(logits, range(6))
    with Counts() as counts:
        batched.choose(logits, range(6))
    assert not counts.waits
    assert counts.launches <= 70


def test_each_turn_of_a_loop_is_counted() -> None:
    counted = []
    for rows in (3, 6):
        with Lines(sys.modules[__name__]) as lines:
            looped(rows)
        counted.append(lines.count)
    assert counted[1] >= counted[0] + 2 * 3


def looped(rows: int) -> list[int]:
    found = [row + 1 for row in range(rows)]
    for row in range(rows):
        found[row] += 1
    return found


def test_what_waits_is_counted() -> None:
    x = torch.arange(4.0)
    with Counts() as counts:
        x.sum().item()
        x[x > 1]
        x.view(2, 2).cpu()
        x.tolist()
    # Their sum, its number, the comparison, its places, what stands there
    assert counts.launches >= 4
    assert counts.waits["item"] == counts.waits["cpu"] == counts.waits["tolist"] == 1
    with Counts() as counts:
        x.view(2, 2).transpose(0, 1)
    assert counts.launches == 0
    assert not counts.waits
