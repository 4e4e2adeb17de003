"""Many random rows that come, go, are cancelled and come too late: each as if it were alone, and nothing left behind.

GUIDEWAY_SOAK_ROWS sets how many; 150 take a few seconds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.reference import plain
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run, text_of
from transformers import PreTrainedTokenizerFast

from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Choice, OutputRule, Regex, Text
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.scheduling import scheduler
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished, FromEngine
from guideway.workers.messages.to_engine import Admit, Artefact

ROWS = int(os.environ.get("GUIDEWAY_SOAK_ROWS", "150"))
MAX_ROWS = 8
GUIDANCE_BYTES = 60_000
"""About a third of the shelf, so that guidance comes and goes as well."""
KV_BYTES = 512 * 480
"""As much as the longest row alone may need, so that rows have to wait again."""
HEAD_BYTES = 512 * 200
TIE = 1e-4

pytestmark = pytest.mark.timeout(180 + ROWS)


@pytest.fixture
def shelf(
    make_lora: MakeArtefact,
    make_ia3: MakeArtefact,
    make_prefix: MakeArtefact,
    make_soft_prompt: MakeArtefact,
    make_inserted_layer: MakeArtefact,
) -> list[Artefact]:
    loras = [
        make_lora("a/narrow@1", r=1),
        make_lora("a/wide@1", r=8, target_modules="all-linear"),
        make_lora("b/dora@1", use_dora=True, target_modules=["v_proj", "up_proj"]),
        make_lora("b/stable@1", r=3, use_rslora=True, target_modules=["o_proj"]),
    ]
    return [
        *loras,
        msgspec.structs.replace(loras[0], name="a/narrow@1*-0.5", scale=-0.5),
        msgspec.structs.replace(loras[1], name="a/wide@1*0.25", scale=0.25),
        make_ia3("a/scales@1"),
        make_ia3("b/outs@1", target_modules=["q_proj", "gate_proj"], feedforward_modules=[]),
        make_prefix("a/short@1", num_virtual_tokens=1),
        make_prefix("b/long@1", num_virtual_tokens=20),
        make_soft_prompt("a/soft@1", num_virtual_tokens=3),
        make_soft_prompt("b/soft@1", num_virtual_tokens=11),
        make_inserted_layer("a/both@1"),
        make_inserted_layer("b/last@1", after_layers=[1], bottleneck=2, activation="silu"),
    ]


@dataclass
class Soak:
    """Chance, the rows that were let in, and what became of them."""

    chance: random.Random
    shelf: Sequence[Artefact]
    make_admit: MakeAdmit
    admits: dict[str, Admit] = field(default_factory=dict)
    messages: list[FromEngine] = field(default_factory=list)

    def new_row(self, now: float) -> Admit:
        chance, n = self.chance, len(self.admits)
        outputs: list[OutputRule] = [
            Text(),
            Text(),
            Text(),
            Regex("[a-z]{1,4}-[0-9]+"),
            Regex("[a-z]{40,90}"),
            Choice(["yes", "no"]),
        ]
        deadline_ms = int(1000 * now) + chance.randint(20, 300) if chance.random() < 0.1 else None
        admit = self.make_admit(
            "x" * chance.choice([1, 2, 5, 40, 41, 150]),
            id=f"r{n}",
            namespace=chance.choice("abc"),
            artefacts=chance.choices(self.shelf, k=chance.choice([0, 1, 1, 2, 3, 6])),
            output=chance.choice(outputs),
            deadline_ms=deadline_ms,
            max_tokens=chance.choice([1, 4, 9, 25, 100]),
            samples=chance.choice([1, 1, 1, 2, 5]),
            instruction=chance.choice(["", "", "Be brief.", "Answer as a clerk would."]),
            temperature=chance.choice([0.0, 0.0, 0.0, 1.0]),
        )
        admit = msgspec.structs.replace(admit, lane=chance.choice(["interactive", "batch"]))
        self.admits[admit.id] = admit
        return admit

    def drive(self, engine: Engine) -> None:
        """Let rows in and cancel some, at any time, until all have ended; budgets are kept all along."""
        now = 1000.0
        while len(self.admits) < ROWS or engine.has_work:
            now += 0.01
            if len(self.admits) < ROWS:
                for _ in range(self.chance.choice([0, 0, 0, 1, 1, 2, 6])):
                    engine.add(self.new_row(now))
            if engine._open and self.chance.random() < 0.03:
                engine.cancel(self.chance.choice(sorted(engine._open)))
            self.messages += engine.step(now)
            seated = {artefact.digest for row in engine._runner.rows for artefact in row.admit.artefacts}
            assert len(engine._runner.rows) <= MAX_ROWS
            assert engine._runner._kv.nbytes <= KV_BYTES
            assert engine._prefix_cache.nbytes <= HEAD_BYTES
            needed = seated | engine._ahead.digests
            assert engine._guidance.nbytes <= GUIDANCE_BYTES or set(engine._guidance.digests) <= needed


@pytest.mark.parametrize("reader_threads", [0, 1])
def test_random_rows(
    reader_threads: int,
    make_engine: MakeEngine,
    make_admit: MakeAdmit,
    shelf: list[Artefact],
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Rows are let in to the brim, so that many have to wait again.
    monkeypatch.setattr(scheduler, "_ROOM_TOKENS", 0)
    engine = make_engine(
        max_rows=MAX_ROWS,
        max_context_tokens=480,
        max_step_tokens=70,
        reader_threads=reader_threads,
        guidance_bytes=GUIDANCE_BYTES,
        kv_bytes=KV_BYTES,
        prefix_cache_bytes=HEAD_BYTES,
    )
    soak = Soak(random.Random(ROWS + reader_threads), shelf, make_admit)
    soak.drive(engine)
    found = ends(soak.messages)
    assert found.keys() == soak.admits.keys()
    expect_nothing_left(engine)
    assert engine._statistics.preempted > ROWS / 100
    assert engine._statistics.reused_tokens > ROWS
    codes = {end.code for end in found.values() if isinstance(end, Refused)}
    assert codes == {FailureCode.CANCELLED, FailureCode.DEADLINE_EXCEEDED}
    assert sum(isinstance(end, Finished) for end in found.values()) > ROWS / 3
    # The same engine, now with one row at a time.
    ties = 0
    for id_, end in found.items():
        admit = soak.admits[id_]
        if isinstance(end, Finished):
            admit = msgspec.structs.replace(admit, request=msgspec.structs.replace(admit.request, deadline_ms=None))
            alone = ends(run(engine, [admit]))[id_]
            if alone != end:
                assert is_tie(engine, admit, text_of(end), text_of(alone), tokenizer), f"{id_}: {end} for {alone}"
                ties += 1
    assert ties <= 1 + ROWS // 500
    expect_nothing_left(engine)


def is_tie(engine: Engine, admit: Admit, ours: str, alone: str, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the two likeliest tokens of a row of free text were as good as equal where the two texts part."""
    if not isinstance(admit.request.output, Text) or admit.request.generation.temperature > 0:
        return False
    ids = PromptLayout(tokenizer).encode(admit.request.parts).token_ids
    _, gaps = plain.generate(
        engine._runner._model,
        ids,
        admit.artefacts,
        max_tokens=admit.request.generation.max_tokens,
        end=tokenizer.eos_token_id,
    )
    return ours != alone and min(gaps) < TIE


def expect_nothing_left(engine: Engine) -> None:
    runner = engine._runner
    assert not engine._open
    assert not runner.rows
    assert engine._scheduler.running == engine._scheduler.waiting == 0
    assert runner._adapters.modules == []
    assert runner._inserted.places == []
    assert not any(module._forward_hooks for module in runner._model.modules())
    assert runner._kv.is_empty
    assert engine._guidance.nbytes == sum(kept.nbytes for kept in engine._guidance._kept.values()) <= GUIDANCE_BYTES
