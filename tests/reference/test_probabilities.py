"""The probabilities of labels on the real model are those of a loop over transformers, whatever acts on the row.

Float32, with the model's chat template; all rows in one micro-batch with others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
import pytest
import torch
from tests.reference import plain
from tests.reference.case import Case
from tests.reference.conftest import MakeArtefact
from tests.workers.engine.conftest import ends, run
from torch import Tensor
from transformers import LogitsProcessor

from guideway.schemas.output import Boolean, Choice, OutputRule
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.from_engine import Finished
from guideway.workers.messages.to_engine import EngineSettings

pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # PEFT uses what transformers has deprecated
]

CREDIT = ["credit", "credit card", "crediting", "debit"]
BIASES = {"credit": -1.0, "credit card": 0.5, "crediting": 2.0, "debit": 1.5}


class Along(LogitsProcessor):  # type: ignore[misc]
    """Makes a text of these tokens, and multiplies their probabilities among those that continue some label."""

    def __init__(self, own: Sequence[int], labels: Mapping[str, Sequence[int]], biases: Mapping[str, float]) -> None:
        self.own, self.labels, self.biases = own, labels, biases
        self.probability = 1.0

    def __call__(self, written: Tensor, logits: Tensor) -> Tensor:
        at = written.shape[1]
        ways: dict[int, list[str]] = {}
        for label, ids in self.labels.items():
            if list(ids[:at]) == list(self.own[:at]):
                ways.setdefault(ids[at], []).append(label)
        weights = {token: float(logits[0, token]) for token in ways}
        if self.biases and len(ways) > 1:
            for token, some in ways.items():
                weights[token] += math.log(len(some) / sum(math.exp(-self.biases[label]) for label in some))
        self.probability *= math.exp(weights[self.own[at]]) / sum(math.exp(one) for one in weights.values())
        return torch.full_like(logits, -torch.inf).index_fill_(1, torch.tensor([self.own[at]]), 0.0)


def by_hand(base: BaseModel, case: Case, labels: Sequence[str], biases: Mapping[str, float]) -> dict[str, float]:
    layout, end = PromptLayout(base.tokenizer), base.tokenizer.eos_token_id
    prompt = layout.encode(case.parts).token_ids
    ids = {label: [*layout.answer_ids(label), end] for label in labels}
    found = {}
    for label, own in ids.items():
        along = Along(own, ids, biases)
        plain.generate(base.model, prompt, case.guidance, max_tokens=len(own), end=end, forms=[along])
        found[label] = along.probability
    return found


def test_labels_are_as_probable_as_by_hand(
    load_model: Callable[[], BaseModel],
    make_soft_prompt: MakeArtefact,
    make_lora: MakeArtefact,
    make_prefix: MakeArtefact,
    make_ia3: MakeArtefact,
    make_inserted_layer: MakeArtefact,
) -> None:
    lora = make_lora("shop/lora@1", r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    soft = make_soft_prompt("shop/soft@1", num_virtual_tokens=8)
    prefix = make_prefix("shop/prefix@1", num_virtual_tokens=4)
    ia3 = make_ia3("shop/ia3@1", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    inserted = make_inserted_layer("shop/inserted@1", after_layers=[3, 20], bottleneck=8)

    def case(name: str, labels: OutputRule, *guidance: object) -> Case:
        return Case(
            name,
            "shop",
            "I was charged twice for one plastic card.",
            guidance=guidance,  # type: ignore[arg-type]
            instruction="What is it about?",
            output=labels,
            max_tokens=12,
        )

    labelled = Choice(CREDIT, probabilities=True)
    cases = [
        case("biased", labelled),
        case("soft and ia3", Boolean("yes/no", probabilities=True), soft, ia3),
        case("prefix, lora and inserted", labelled, prefix, lora, inserted),
    ]
    biases = {"biased": BIASES}
    admits = [msgspec.structs.replace(one.admit(), biases=biases.get(one.name, {})) for one in cases]
    others = [Case(f"other {i}", "news", f"Tell me of {i} things.", max_tokens=8).admit() for i in range(3)]
    engine = Engine(load_model(), EngineSettings(max_rows=4, max_step_tokens=128), max_context_tokens=256)
    together = ends(run(engine, [*others, *admits]))
    base = load_model()
    for one in cases:
        end = together[one.name]
        assert isinstance(end, Finished), end
        labels = CREDIT if isinstance(one.output, Choice) else ["yes", "no"]
        expected = by_hand(base, one, labels, biases.get(one.name, {}))
        assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
        assert end.samples[0].probabilities == pytest.approx(expected, abs=2e-4), one.name
        assert end.samples[0].text == max(expected, key=lambda label: expected[label])
