"""What is kept in memory, and soft prompts that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.workers.engine.conftest import MakeArtefact
from transformers import PreTrainedModel

from guideway.schemas.failures import FailureCode, Refusal
from guideway.workers.engine import guidance
from guideway.workers.engine.base_model import BaseModel
from guideway.workers.engine.guidance import ResidentGuidance
from guideway.workers.engine.lora import Lora
from guideway.workers.engine.soft_prompt import SoftPrompt, batched_embeddings

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


def test_virtual_tokens_stand_before_the_text_and_padding_after_it(base: BaseModel) -> None:
    one, two = SoftPrompt(torch.full((1, 64), 7.0)), SoftPrompt(torch.full((2, 64), 8.0))
    embed = base.model.get_input_embeddings()
    e = batched_embeddings(
        [([], [5]), ([one.embeddings, two.embeddings], [1, 2]), ([], [])], embed, torch.device("cpu")
    )
    assert e.shape == (3, 5, 64)
    assert torch.equal(e[0], torch.cat([embed.weight[5:6], torch.zeros(4, 64)]))
    assert torch.equal(e[1], torch.cat([one.embeddings, two.embeddings, embed.weight[1:3]]))
    assert not e[2].any()


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

    monkeypatch.setattr(guidance, "FORMS", {"soft_prompt": Counting})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        resident = ResidentGuidance(base.model, max_bytes=2**20, threads=1)
        resident.load(make_soft_prompt("n/a@1"))
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
