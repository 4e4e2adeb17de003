"""Every kind of guidance, alone and in any combination, on tiny models of several families, in float32, greedy:
a row of a mixed micro-batch has the tokens that PEFT or a plain loop over transformers gives for it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from tests.reference import plain
from tests.reference.forms import Form
from tests.reference.shelf import Shelf
from tests.workers.engine.conftest import base_of, tiny_tokenizer
from tests.workers.engine.families import tiny
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from guideway.schemas.generation import Generation
from guideway.schemas.output import Regex, Text
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.guidance.inserted_training import TrainableInsertedLayer
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.to_engine import Admit, Artefact, EngineSettings

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT uses what transformers has deprecated

FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "gemma3_text", "gpt_neox", "gpt2")
PEFT_KINDS = ("soft_prompt", "p_tuning", "prefix", "projected_prefix", "lora", "dora", "ia3")
KINDS = (*PEFT_KINDS, "inserted_layer")
PATTERN = "[a-f]{2,5}-[0-9]+"
TIE = 1e-4
"""Two logits closer than this may come out in either order: batched products add up in another order."""
POPULARITY: dict[str, Callable[[random.Random, int], list[int]]] = {
    "distinct": lambda _, rows: list(range(rows)),
    "uniform": lambda _, rows: [i % 4 for i in range(rows)],
    "zipf": lambda chance, rows: chance.choices(range(rows), [1 / (i + 1) ** 1.5 for i in range(rows)], k=rows),
    "skewed": lambda _, rows: [0] * (rows - 2) + [1, 2],
    "identical": lambda _, rows: [0] * rows,
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


class Family:
    """One family's model in the engine, and once more untouched beside it."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.build: Callable[[], PreTrainedModel] = lambda: tiny(name, tokenizer)
        self.plain = self.build()
        self.engine = Engine(
            base_of(self.build(), tokenizer),
            EngineSettings(max_rows=32, reader_threads=0, preparer_threads=0),
            max_context_tokens=256,
        )
        self.shelf = Shelf(name, self.build, folder)

    def ids(self, admit: Admit) -> list[int]:
        return PromptLayout(self.tokenizer).encode(admit.request.parts).token_ids

    def artefact(self, kind: str, chance: random.Random) -> Artefact:
        """One of a few of its kind; a LoRA perhaps at a scale."""
        artefact = self.shelf.make(kind, chance.randrange(3))
        scale = chance.choice([1.0, 0.5, -1.25, 0.0]) if kind == "lora" else 1.0
        return msgspec.structs.replace(artefact, scale=scale)

    def run(self, admits: Sequence[Admit]) -> dict[str, list[int]]:
        for admit in admits:
            self.engine.add(admit)
        rows = {id_: rows[0] for id_, rows in self.engine._open.items()}
        assert len(rows) == len(admits), "a row was refused"
        while self.engine.has_work:
            self.engine.step(time.time())
        assert all(row.generated is not None for row in rows.values())
        return {id_: row.token_ids for id_, row in rows.items()}

    def alone(self, admit: Admit) -> tuple[list[int], list[float]]:
        request = admit.request
        return plain.generate(
            self.plain,
            self.ids(admit),
            admit.artefacts,
            max_tokens=request.generation.max_tokens,
            end=self.tokenizer.eos_token_id,
            forms=[Form(self.tokenizer, PATTERN, 0)] if isinstance(request.output, Regex) else [],
        )


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Family:
    return Family(request.param, tokenizer, tmp_path_factory.mktemp("guidance"))


def row(id_: str, artefacts: Sequence[Artefact], *, text: str = "Is it round?", form: bool = False, n: int = 12) -> Any:
    request = Request(
        id=id_,
        namespace="team",
        endpoint="ask",
        endpoint_version=1,
        parts=[Part(kind="input", source="caller", text=text)],
        guidance=[],
        output=Regex(PATTERN) if form else Text(),
        words=[],
        generation=Generation(max_tokens=n),
        reply_to=[ReplyAddress(topic="gw.team.ask.out.v1")],
        deadline_ms=None,
    )
    return Admit(id=id_, request=request, artefacts=list(artefacts))


def check(admits: Sequence[Admit], found: dict[str, list[int]], family: Family) -> None:
    """All tokens agree with the plain reference, but for ties."""
    ties = 0
    for admit in admits:
        ours, (theirs, gaps) = found[admit.id], family.alone(admit)
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(gaps) - 1)
            names = [artefact.name for artefact in admit.artefacts]
            assert gaps[at] < TIE, f"{admit.id} {names}: differs at token {at}: {ours} for {theirs}, {gaps[at]:.1e}"
            ties += 1
    assert ties <= 1


def test_each_kind_equals_peft(family: Family) -> None:
    artefacts = [family.shelf.make(kind, seed) for kind in PEFT_KINDS for seed in (0, 1)]
    admits = [row(artefact.name, [artefact]) for artefact in artefacts]
    found = family.run([row("bare", []), *admits])
    ids = torch.tensor([family.ids(admits[0])])
    for artefact in artefacts:
        model = PeftModel.from_pretrained(family.build(), artefact.folder).eval()
        with torch.inference_mode():
            theirs = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
            )[0, ids.shape[1] :].tolist()
        theirs = theirs[:-1] if theirs[-1] == family.tokenizer.eos_token_id else theirs
        assert found[artefact.name] == theirs, artefact.name
    changed = {artefact.form for artefact in artefacts if found[artefact.name] != found["bare"]}
    assert changed == {artefact.form for artefact in artefacts}, "otherwise nothing was compared"
    check(admits, found, family)


def test_several_loras_at_their_scales_equal_those_that_peft_has_active_together(family: Family) -> None:
    loras = [family.shelf.make(kind, seed) for kind, seed in (("lora", 0), ("dora", 0), ("lora", 1), ("dora", 1))]
    scales = [0.5, 1.0, -2.0, 1.0]
    names = [f"{artefact.name.replace('/', '-').replace('@', '-')}" for artefact in loras]
    model = PeftModel.from_pretrained(family.build(), loras[0].folder, names[0])
    for artefact, name in zip(loras[1:], names[1:], strict=True):
        model.load_adapter(artefact.folder, name)
    model.base_model.set_adapter(names)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name, scale in zip(names, scales, strict=True):
                if name in module.scaling and scale != 1:
                    module.set_scale(name, scale)
    model.eval()
    ids = torch.tensor([family.ids(row("text", []))])
    with torch.inference_mode():
        theirs = model.base_model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )[0, ids.shape[1] :].tolist()
    theirs = theirs[:-1] if theirs[-1] == family.tokenizer.eos_token_id else theirs
    scaled = [msgspec.structs.replace(lora, scale=scale) for lora, scale in zip(loras, scales, strict=True)]
    admits = [row("together", scaled), row("unscaled", loras), row("bare", [])]
    found = family.run(admits)
    assert found["together"] == theirs
    assert len({str(tokens) for tokens in found.values()}) == 3


def test_an_inserted_layer_equals_the_one_that_is_trained(family: Family) -> None:
    model = family.build()
    layer = TrainableInsertedLayer(model, after_layers=[1, 0], bottleneck=5, activation="silu")
    folder = family.shelf.folder / family.name / "trained"
    ids = torch.tensor([family.ids(row("text", []))])

    def generated() -> list[int]:
        tokens: list[int] = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )[0, ids.shape[1] :].tolist()
        return tokens[:-1] if tokens[-1] == family.tokenizer.eos_token_id else tokens

    bare = generated()
    with layer.inserted(model):
        assert generated() == bare, "training starts from the model as it is"
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
        for _ in range(8):
            loss = model(input_ids=ids, labels=ids.roll(1)).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        trained = generated()
    assert generated() == bare
    layer.save(folder)
    artefact = Artefact(name="a/trained@1", form="inserted_layer", digest=f"sha256:{'7' * 64}", folder=str(folder))
    admits = [row("trained", [artefact]), row("bare", [])]
    assert family.run(admits) == {"trained": trained, "bare": bare}
    assert trained != bare


@pytest.mark.parametrize("popularity", POPULARITY)
def test_any_combination_equals_the_plain_reference(family: Family, popularity: str) -> None:
    """Each row has a random combination of kinds, with other ranks, targets, lengths and output rules."""
    rows = 12
    chance = random.Random(f"{popularity}")
    shelf = [
        [family.artefact(kind, chance) for kind in chance.choices(KINDS, k=chance.randint(0, 5))] for _ in range(rows)
    ]
    admits = [
        row(
            f"{popularity} {i}",
            shelf[which],
            text="x" * chance.randint(1, 30),
            form=chance.random() < 0.3,
            n=chance.randint(1, 14),
        )
        for i, which in enumerate(POPULARITY[popularity](chance, rows))
    ]
    check(admits, family.run(admits), family)
