"""One micro-batch of everything: each row as if it were alone, the weights untouched."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
import torch
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, base_of, ends, run, tiny_llama
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from guideway.schemas.failures import Refusal
from guideway.schemas.output import Boolean, Choice, Regex
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.kernels.linears.int8_linear import keep_linears_in_int8
from guideway.workers.engine.model.runner import Runner
from guideway.workers.engine.scheduling.chunks import StepPlan
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.text.sampling import BatchedSampler
from guideway.workers.messages.from_engine import Finished
from guideway.workers.messages.to_engine import Admit, EngineSettings


@pytest.fixture
def mixed(
    make_admit: MakeAdmit,
    make_lora: MakeArtefact,
    make_ia3: MakeArtefact,
    make_prefix: MakeArtefact,
    make_inserted_layer: MakeArtefact,
    make_soft_prompt: MakeArtefact,
) -> list[Admit]:
    """Rows that differ in everything that a row can differ in."""
    ia3 = [make_ia3("news/scales@1"), make_ia3("public/queries@1", target_modules=["q_proj"], feedforward_modules=[])]
    prefix = [make_prefix(f"law/prefix{n}@1", num_virtual_tokens=n) for n in (2, 30)]
    inserted = [
        make_inserted_layer("law/gelu@1"),
        make_inserted_layer("law/relu@1", after_layers=[1], bottleneck=9, activation="relu"),
    ]
    soft = [make_soft_prompt(f"weather/soft{n}@1", num_virtual_tokens=n) for n in (1, 7)]
    loras = [
        make_lora("news/narrow@1", r=2),
        make_lora("news/wide@3", r=8, target_modules="all-linear", use_rslora=True),
        make_lora("public/uneven@1", r=4, rank_pattern={"layers.1.*q_proj": 6}, alpha_pattern={"v_proj": 3}),
    ]
    return [
        make_admit("plain"),
        make_admit("a soft prompt", artefacts=[soft[0]], max_tokens=3),
        make_admit("two soft prompts", artefacts=soft),
        make_admit("narrow", artefacts=[loras[0]], namespace="news", max_tokens=12),
        make_admit("wide, and a longer text than the others have", artefacts=[loras[1]], namespace="news"),
        make_admit("uneven", artefacts=[loras[2]]),
        make_admit("IA3", artefacts=[ia3[0]]),
        make_admit("several IA3", artefacts=ia3, namespace="news", max_tokens=11),
        make_admit("a prefix", artefacts=[prefix[1]]),
        make_admit("prefixes and soft prompts", artefacts=[soft[0], prefix[0], soft[1], prefix[1]], max_tokens=5),
        make_admit("an inserted layer", artefacts=[inserted[0]]),
        make_admit("several inserted layers", artefacts=[inserted[1], inserted[0], inserted[1]]),
        make_admit(
            "everything",
            artefacts=[inserted[1], soft[1], prefix[0], ia3[1], *loras, inserted[0], ia3[0]],
            instruction="Answer.",
            max_tokens=10,
        ),
        make_admit("yes?", output=Boolean("yes/no")),
        make_admit("red?", output=Choice(["red", "green", "greenish"]), artefacts=[loras[0], soft[0]]),
        make_admit("form", output=Regex("[a-z]{3,9}-[0-9]+"), temperature=1.0, seed=3),
        make_admit("drawn", temperature=0.7, top_p=0.9, samples=2),
    ]


def test_a_row_in_a_mixed_batch_equals_the_row_alone(make_engine: MakeEngine, mixed: list[Admit]) -> None:
    together = ends(run(make_engine(max_rows=32), mixed))
    assert len({str(end) for end in together.values()}) == len(mixed)
    for admit in mixed:
        assert ends(run(make_engine(), [admit]))[admit.id] == together[admit.id]


@pytest.mark.parametrize("tokens", [1, 3, 7, 60])
def test_prompts_taken_in_by_pieces_give_the_same(make_engine: MakeEngine, mixed: list[Admit], tokens: int) -> None:
    pieces = ends(run(make_engine(max_rows=32, max_step_tokens=tokens), mixed))
    assert pieces == ends(run(make_engine(max_rows=32, max_step_tokens=10**6), mixed))


def test_in_bfloat16_a_row_differs_from_the_row_alone_by_rounding_only(
    tokenizer: PreTrainedTokenizerFast, mixed: list[Admit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of other shapes round otherwise, so a token may differ where two are about as likely. What does hold: as
    long as the texts are the same, the logits are within a few of bfloat16's steps (1/256) of the largest of them."""
    logits: dict[str, list[Tensor]] = {}
    seen: list[Tensor] = []
    run_step, choose = Runner.run, BatchedSampler.choose

    def noting(runner: Runner, plan: StepPlan) -> dict[Row, list[int] | Refusal]:
        outcomes = run_step(runner, plan)
        for row, one in zip(outcomes, seen.pop() if outcomes else [], strict=True):
            logits.setdefault(f"{row.id} {row.sample}", []).append(one)
        return outcomes

    def keeping(sampler: BatchedSampler, found: Tensor, places: Sequence[int]) -> Tensor:
        seen.append(found.clone())
        return choose(sampler, found, places)

    monkeypatch.setattr(Runner, "run", noting)
    monkeypatch.setattr(BatchedSampler, "choose", keeping)

    def engine() -> Engine:
        base = base_of(tiny_llama(tokenizer).to(torch.bfloat16), tokenizer)
        return Engine(base, EngineSettings(max_rows=32), max_context_tokens=512)

    found = ends(run(engine(), mixed))
    assert all(isinstance(end, Finished) for end in found.values())
    together = dict(logits)
    logits.clear()
    for admit in mixed:
        run(engine(), [admit])
    compared = 0
    for id_, steps in together.items():
        for ours, alone in zip(steps, logits[id_], strict=False):
            allowed = ours.isfinite()
            scale = ours[allowed].abs().max()
            assert torch.equal(allowed, alone.isfinite())
            torch.testing.assert_close(ours[allowed], alone[allowed], rtol=0, atol=float(scale) * 8 / 256)
            compared += 1
            if ours.argmax() != alone.argmax():
                break
    assert compared > 100


def test_with_weights_of_8_bits_a_row_equals_the_row_alone(
    tokenizer: PreTrainedTokenizerFast, mixed: list[Admit]
) -> None:
    def engine() -> Engine:
        model = tiny_llama(tokenizer)
        keep_linears_in_int8(model)
        return Engine(base_of(model, tokenizer), EngineSettings(max_rows=32), max_context_tokens=512)

    ours = engine()
    before = checksum(ours._runner._model)
    together = ends(run(ours, mixed))
    assert checksum(ours._runner._model) == before
    assert len({str(end) for end in together.values()}) == len(mixed)
    assert all(isinstance(end, Finished) for end in together.values())
    for admit in mixed:
        assert ends(run(engine(), [admit]))[admit.id] == together[admit.id]


def test_the_weights_stay_as_they_were(engine: Engine, mixed: list[Admit]) -> None:
    before = checksum(engine._runner._model)
    run(engine, mixed)
    assert checksum(engine._runner._model) == before


def checksum(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
