"""What is kept in memory, and soft prompts that do not fit."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run, text_of
from transformers import PreTrainedModel

from guideway.catalogue.adapters.adapter import CONFIG, WEIGHTS
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import TrainedForm
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.guidance import resident
from guideway.workers.engine.guidance.inserted_layer import InsertedLayer
from guideway.workers.engine.guidance.lora import Lora
from guideway.workers.engine.guidance.resident import FORMS, ResidentGuidance, RowGuidance
from guideway.workers.engine.guidance.soft_prompt import SoftPrompt, embeddings_of
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished

PROMPT_BYTES = 5 * 64 * 4


def test_the_least_recently_used_goes_first(base: BaseModel, make_soft_prompt: MakeArtefact) -> None:
    a, b, c, d = (make_soft_prompt(f"n/{name}@1") for name in "abcd")
    resident = ResidentGuidance(base.model, max_bytes=3 * PROMPT_BYTES)
    first = resident.load(a)
    for artefact in (b, c, a, d):
        resident.load(artefact)
    assert resident.digests == [c.digest, a.digest, d.digest]
    assert resident.nbytes == 3 * PROMPT_BYTES
    assert resident.load(a) is first


def test_what_is_in_use_stays(base: BaseModel, make_soft_prompt: MakeArtefact) -> None:
    a, b, c = (make_soft_prompt(f"n/{name}@1") for name in "abc")
    resident = ResidentGuidance(base.model, max_bytes=PROMPT_BYTES)
    for artefact in (a, b, c):
        resident.load(artefact, in_use={a.digest, b.digest})
    assert resident.digests == [a.digest, b.digest, c.digest]
    resident.load(c)
    assert resident.digests == [c.digest]


def test_a_folder_that_cannot_be_used_is_refused_by_its_name(base: BaseModel, make_soft_prompt: MakeArtefact) -> None:
    artefact = make_soft_prompt("n/a@7")
    (Path(artefact.folder) / "adapter_config.json").write_text("[]")
    resident = ResidentGuidance(base.model, max_bytes=0)
    with pytest.raises(Refusal, match="guidance n/a@7 is refused") as refused:
        resident.load(artefact)
    assert refused.value.code == FailureCode.GUIDANCE_DAMAGED
    assert resident.digests == []


def test_a_folder_that_is_here_is_still_refused_under_another_form(base: BaseModel, make_lora: MakeArtefact) -> None:
    resident = ResidentGuidance(base.model, max_bytes=2**20)
    lora = make_lora("n/lora@1")
    resident.load(lora)
    with pytest.raises(Refusal, match="declare it with form lora"):
        resident.load(msgspec.structs.replace(lora, form="ia3"))
    assert resident.nbytes == resident.load(lora).nbytes


def test_a_scale_is_for_a_lora(base: BaseModel, make_soft_prompt: MakeArtefact, make_lora: MakeArtefact) -> None:
    resident = ResidentGuidance(base.model, max_bytes=2**20)
    whole = make_lora("n/lora@1")
    half = msgspec.structs.replace(whole, name="n/lora@1*0.5", scale=0.5)
    found, kept = resident.load(half), resident.load(whole)
    assert isinstance(found, Lora)
    assert isinstance(kept, Lora)
    for name, factors in found.factors.items():
        assert torch.equal(factors.b, kept.factors[name].b * 0.5)
    assert resident.digests == [whole.digest]
    for artefact in (make_soft_prompt("n/soft@1"), make_lora("n/dora@1", use_dora=True)):
        with pytest.raises(Refusal, match=r"refused: .*scale: name it without"):
            resident.load(msgspec.structs.replace(artefact, scale=2.0))


def test_soft_prompts_that_do_not_fit_are_refused(base: BaseModel, make_soft_prompt: MakeArtefact) -> None:
    folder = Path(make_soft_prompt("n/a@1").folder)
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    embeddings = load_file(file)["prompt_embeddings"]
    for tensors in (
        {"prompt_embeddings": embeddings[:, :-1].contiguous()},
        {"prompt_embeddings": embeddings[:0]},
        {"prompt_embeddings": embeddings * float("inf")},
        {"prompt_embeddings": embeddings, "more": embeddings.clone()},
        {"other": embeddings},
    ):
        save_file(tensors, file)
        with pytest.raises(Refusal):
            SoftPrompt.load(folder, base.model)
    save_file({"prompt_embeddings": embeddings}, file)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(Refusal, match="declare it with form prefix"):
        SoftPrompt.load(folder, base.model)


def test_virtual_tokens_stand_before_the_text(base: BaseModel) -> None:
    one, two = SoftPrompt(torch.full((1, 64), 7.0)), SoftPrompt(torch.full((2, 64), 8.0))
    embed = base.model.get_input_embeddings()
    e = embeddings_of([([], [5]), ([one.embeddings, two.embeddings], [1, 2]), ([], [])], embed, torch.device("cpu"))
    assert torch.equal(e[0], embed.weight[5:6])
    assert torch.equal(e[1], torch.cat([one.embeddings, two.embeddings, embed.weight[1:3]]))
    assert e[2].shape == (0, 64)


def test_readers_leave_the_engine_its_threads(
    base: BaseModel, make_soft_prompt: MakeArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second pool of threads slows every operation of the first."""
    seen = []

    class Counting(SoftPrompt):
        @classmethod
        def load(cls, folder: Path, model: PreTrainedModel, digest: str | None = None) -> SoftPrompt:
            seen.append(torch.get_num_threads())
            return super().load(folder, model, digest)

    monkeypatch.setattr(resident, "FORMS", {"soft_prompt": Counting})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ResidentGuidance(base.model, max_bytes=2**20, threads=1).load(make_soft_prompt("n/a@1"))
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_row_has_so_much_guidance_at_one_place(
    base: BaseModel, make_lora: MakeArtefact, make_inserted_layer: MakeArtefact
) -> None:
    half = Lora.load(Path(make_lora("n/half@1", r=256).folder), base.model)
    other = Lora.load(Path(make_lora("n/other@1", r=256, target_modules=["o_proj"]).folder), base.model)
    RowGuidance.of([half, half, other, other])
    with pytest.raises(Refusal, match=r"rank 768 together at 'model.layers.0.self_attn.q_proj', at most 512") as caught:
        RowGuidance.of([half, half, half])
    assert caught.value.code is FailureCode.GUIDANCE_FORBIDDEN
    one = InsertedLayer.load(Path(make_inserted_layer("n/one@1", bottleneck=2).folder), base.model)
    wide = InsertedLayer.load(Path(make_inserted_layer("n/wide@1", bottleneck=2048).folder), base.model)
    RowGuidance.of([one] * 8)
    for too_much, said in (([one] * 9, "inserted layers 9"), ([wide, wide, one], "bottleneck 4098")):
        with pytest.raises(Refusal, match=f"{said} together at 0"):
            RowGuidance.of(too_much)


def test_twenty_soft_prompts_of_a_thousand_tokens_are_too_long(
    engine: Engine, make_soft_prompt: MakeArtefact, make_admit: MakeAdmit
) -> None:
    prompts = [make_soft_prompt(f"n/a{number}@1", num_virtual_tokens=1000) for number in range(20)]
    (end,) = ends(run(engine, [make_admit("text", artefacts=prompts)])).values()
    assert isinstance(end, Refused)
    assert end.code is FailureCode.TEXT_TOO_LONG


def test_weights_that_the_models_type_cannot_hold_are_damaged(
    base: BaseModel, make_lora: MakeArtefact, make_soft_prompt: MakeArtefact
) -> None:
    """What is finite in the file need not be so with its scaling, or in the type that the model runs in."""
    folder = Path(make_lora("n/a@1").folder)
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole = load_file(file)
    save_file({name: torch.full_like(tensor, 1e38) for name, tensor in whole.items()}, file)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 1000}))
    with pytest.raises(Refusal, match="not finite"):
        Lora.load(folder, base.model)
    prompt = Path(make_soft_prompt("n/b@1").folder)
    save_file({"prompt_embeddings": torch.full((5, 64), 1e6)}, prompt / "adapter_model.safetensors")
    SoftPrompt.load(prompt, base.model)
    half = copy.deepcopy(base.model).to(torch.float16)
    with pytest.raises(Refusal, match="not finite"):
        SoftPrompt.load(prompt, half)


@pytest.mark.parametrize("form", FORMS)
def test_bytes_that_are_changed_load_or_are_damaged(
    base: BaseModel, form: TrainedForm, request: pytest.FixtureRequest
) -> None:
    """Nothing but a refusal leaves the loader, whatever a stranger's files hold."""
    folder = Path(request.getfixturevalue(f"make_{form}")("n/a@1").folder)
    chance, kind = random.Random(form), FORMS[form]
    whole = {path: path.read_bytes() for path in (folder / CONFIG, folder / WEIGHTS)}
    for _ in range(150):
        path = chance.choice(sorted(whole))
        content = bytearray(whole[path])
        # Its header more often than its numbers.
        at = chance.randrange(len(content) if chance.random() < 0.2 else min(len(content), 400))
        match chance.randrange(4):
            case 0:
                content[at] ^= 1 << chance.randrange(8)
            case 1:
                del content[at : at + chance.randint(1, 9)]
            case 2:
                content[at:at] = content[: chance.randint(1, 9)]
            case 3:
                content[at : at + 1] = chance.choice(
                    [b"null", b'"', b"[", b"}", b"-1", b"1e400", b"\xff\xff\xff\xff", b"9"]
                )
        path.write_bytes(content)
        try:
            kind.load(folder, base.model)
        except Refusal as refusal:
            assert refusal.code is FailureCode.GUIDANCE_DAMAGED  # noqa: PT017
        path.write_bytes(whole[path])
    kind.load(folder, base.model)


@pytest.mark.parametrize(
    ("form", "value"),
    [("lora", 1e18), ("lora", 1e25), ("ia3", 1e30), ("prefix", 1e38), ("soft_prompt", 1e38), ("inserted_layer", 1e15)],
)
def test_guidance_under_which_numbers_overflow_is_its_owners_affair(
    make_engine: MakeEngine, make_admit: MakeAdmit, request: pytest.FixtureRequest, form: TrainedForm, value: float
) -> None:
    """Its row is refused or strange; the rows beside it, and those that get its place after it, are what they were."""
    absurd = request.getfixturevalue(f"make_{form}")("n/absurd@1")
    weights = Path(absurd.folder) / WEIGHTS
    save_file({name: torch.full_like(tensor, value) for name, tensor in load_file(weights).items()}, weights)
    plain = [make_admit(f"plain {number}", id=f"plain-{number}", max_tokens=12) for number in range(3)]
    alone = {id_: text_of(end) for id_, end in ends(run(make_engine(), plain)).items()}
    engine = make_engine()
    mixed = ends(run(engine, [make_admit("absurd", id="absurd", artefacts=[absurd], max_tokens=40), *plain]))
    its = mixed.pop("attempt-absurd")
    assert isinstance(its, Finished) or its.code is FailureCode.GUIDANCE_DAMAGED
    run(engine, [make_admit("absurd again", artefacts=[absurd], max_tokens=40)])
    for found in (mixed, ends(run(engine, plain))):
        assert {id_: text_of(end) for id_, end in found.items()} == alone
