"""The engine on one tiny model: rows come and go, each as if it were alone, each ended once."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run, text_of
from transformers import PreTrainedTokenizerFast

from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Boolean, Choice, Json, Regex, WordLabels
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import BatchReport, Finished, Generated, Progress
from guideway.workers.messages.to_engine import Admit


def test_rows_that_join_midway_generate_what_they_generate_alone(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact
) -> None:
    admits = [
        make_admit(f"text {'x' * (i * 3 % 11)}", max_tokens=3 + i * 5 % 13, artefacts=[make_lora(f"a/l{i}@1", r=1 + i)])
        for i in range(10)
    ]
    engine = make_engine(max_rows=4, max_step_tokens=70)
    messages = []
    for i, admit in enumerate(admits):
        engine.add(admit)
        messages += engine.step(1000.0 + i)
    together = ends(messages + run(engine))
    sizes = [len(m.rows) for m in messages if isinstance(m, BatchReport)]
    assert sizes[0] == 1
    assert max(sizes) == 4
    for admit in admits:
        assert ends(run(make_engine(), [admit]))[admit.id] == together[admit.id]


def test_the_cache_grows_past_its_first_capacity(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    admits = [make_admit("y" * n, max_tokens=60) for n in (3, 230, 380)]
    together = ends(run(make_engine(), admits))
    for admit in admits:
        assert ends(run(make_engine(), [admit]))[admit.id] == together[admit.id]


def test_a_prefix_takes_positions_of_the_context(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_prefix: MakeArtefact
) -> None:
    """One that just fits runs, whatever the rows beside it, and leaves nothing behind; one token more is refused."""
    engine = make_engine(max_context_tokens=100)
    text = PromptLayout(engine._stopping._tokenizer).encode(make_admit("fits").request.parts).token_ids
    prefix = make_prefix("a/long@1", num_virtual_tokens=100 - len(text) - 9)
    fits, beside = make_admit("fits", max_tokens=9, artefacts=[prefix]), make_admit("x" * 40, max_tokens=9)
    over = make_admit("fits", max_tokens=10, artefacts=[prefix])
    found = ends(run(engine, [fits, beside, over]))
    end = found[fits.id]
    assert isinstance(end, Finished)
    assert end.prompt_tokens == 91
    assert isinstance(found[over.id], Refused)
    assert "1 more than the 100" in str(found[over.id])
    assert ends(run(make_engine(), [fits]))[fits.id] == end
    assert engine._runner._kv.is_empty


def test_greedy_text_is_that_of_generate(engine: Engine, make_admit: MakeAdmit) -> None:
    admit = make_admit(max_tokens=20)
    end = ends(run(engine, [admit]))[admit.id]
    tokenizer = engine._stopping._tokenizer
    ids = PromptLayout(tokenizer).encode(admit.request.parts).token_ids
    alone = engine._runner._model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=0)
    assert text_of(end) == tokenizer.decode(alone[0, len(ids) :], skip_special_tokens=True)
    assert isinstance(end, Finished)
    assert end.prompt_tokens == len(ids)


def test_every_output_rule_keeps_its_promise(engine: Engine, make_admit: MakeAdmit) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 22]}},
        "required": ["ok", "n"],
        "additionalProperties": False,
    }
    admits = {
        "boolean": make_admit(output=Boolean("1/0")),
        "choice": make_admit(output=Choice(["true", "no way"])),
        "json": make_admit(output=Json(schema), max_tokens=60),
        "words": make_admit(output=WordLabels(["A", "B"]), words=["th", "(x)", 'é"'], max_tokens=60),
    }
    found = ends(run(engine, list(admits.values())))
    texts = {name: text_of(found[admit.id]) for name, admit in admits.items()}
    assert texts["boolean"] in {"1", "0"}
    assert texts["choice"] in {"true", "no way"}
    assert json.loads(texts["json"]).keys() == {"ok", "n"}
    assert [pair.rpartition("/")[0] for pair in texts["words"].split(" ")] == ["th", "(x)", 'é"']
    assert all(end.samples[0].failure is None for end in found.values() if isinstance(end, Finished))


def test_a_form_that_is_cut_by_max_tokens_is_not_complete(engine: Engine, make_admit: MakeAdmit) -> None:
    admit = make_admit(output=Regex("[a-z]{20}"), max_tokens=5)
    end = ends(run(engine, [admit]))[admit.id]
    assert isinstance(end, Finished)
    assert end.samples[0].finish_reason == "length"
    failure = end.samples[0].failure
    assert failure is not None
    assert failure.code is FailureCode.OUTPUT_INCOMPLETE
    assert "5 tokens" in failure.message
    assert end.output_tokens == 5


def test_samples_are_one_request(engine: Engine, make_admit: MakeAdmit) -> None:
    admit = make_admit(temperature=1.5, samples=3, seed=5)
    end = ends(run(engine, [admit]))[admit.id]
    assert isinstance(end, Finished)
    assert len({sample.text for sample in end.samples}) == 3
    shifted = ends(run(engine, [make_admit(id="other", temperature=1.5, samples=2, seed=6)]))["attempt-other"]
    assert isinstance(shifted, Finished)
    assert shifted.samples == end.samples[1:]


def test_a_request_without_seed_repeats_by_its_id(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    texts = {
        text_of(ends(run(make_engine(), [make_admit(id=id_, temperature=2.0)]))[f"attempt-{id_}"])
        for id_ in ("a", "b", "a")
    }
    assert len(texts) == 2


def test_a_bad_request_is_refused_and_the_others_go_on(
    engine: Engine, make_admit: MakeAdmit, make_lora: MakeArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = make_lora("a/b@1")
    missing = make_lora("a/gone@2")
    (Path(missing.folder) / "adapter_model.safetensors").unlink()
    good = make_admit()
    bad = {
        FailureCode.GUIDANCE_DAMAGED: make_admit(artefacts=[lora, missing]),
        FailureCode.TEXT_TOO_LONG: make_admit("long " * 300, samples=2),
        FailureCode.OUTPUT_UNSATISFIABLE: make_admit(output=Regex("(a")),
        FailureCode.INTERNAL_ERROR: make_admit("stumbles"),
    }
    encode = PromptLayout.encode

    def stumble(self: PromptLayout, parts: list[object], **settings: object) -> object:
        if "stumbles" in str(parts):
            raise RuntimeError("stumbles")
        return encode(self, parts, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(PromptLayout, "encode", stumble)
    found = ends(run(engine, [*bad.values(), good]))
    text_of(found[good.id])
    for code, admit in bad.items():
        end = found[admit.id]
        assert isinstance(end, Refused)
        assert end.code == code
    assert "guidance a/gone@2 is refused" in str(found[bad[FailureCode.GUIDANCE_DAMAGED].id])
    assert "1527 tokens" in str(found[bad[FailureCode.TEXT_TOO_LONG].id])


def test_guidance_that_is_gone_when_its_row_is_due_refuses_all_samples(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact
) -> None:
    engine = make_engine(guidance_bytes=0)
    lora = make_lora("a/b@1")
    admit = make_admit(artefacts=[lora], samples=3)
    engine.add(admit)
    engine.add(make_admit(artefacts=[make_lora("a/c@1")]))
    (Path(lora.folder) / "adapter_model.safetensors").unlink()
    found = ends(run(engine))
    assert isinstance(found[admit.id], Refused)
    assert len(found) == 2


def test_numbers_that_go_wrong_refuse_their_row_and_leave_nothing_behind(
    engine: Engine, make_admit: MakeAdmit, make_lora: MakeArtefact
) -> None:
    lora = make_lora("a/wild@1")
    file = Path(lora.folder) / "adapter_model.safetensors"
    save_file({name: tensor * 1e30 for name, tensor in load_file(file).items()}, file)
    good, wild = make_admit("good", max_tokens=20), make_admit("wild", artefacts=[lora], samples=2)
    found = ends(run(engine, [wild, good]))
    end = found[wild.id]
    assert isinstance(end, Refused)
    assert end.code == FailureCode.GUIDANCE_DAMAGED
    assert "not a finite number" in end.message
    again = make_admit("good", max_tokens=20)
    assert text_of(ends(run(engine, [again]))[again.id]) == text_of(found[good.id])
    assert engine._runner._kv.is_empty


def test_deadlines_and_cancelling(engine: Engine, make_admit: MakeAdmit) -> None:
    late = make_admit(deadline_ms=999_999)
    midway = make_admit(deadline_ms=1_000_050, max_tokens=100, samples=2)
    cancelled, stays = make_admit(max_tokens=100), make_admit(max_tokens=12)
    for admit in (late, midway, cancelled, stays):
        engine.add(admit)
    messages = list(engine.step(1000.0))
    engine.cancel(cancelled.id)
    engine.cancel("attempt-unknown")
    found = ends(messages + run(engine, now=1000.01))
    assert {id_: end.code for id_, end in found.items() if isinstance(end, Refused)} == {
        late.id: FailureCode.DEADLINE_EXCEEDED,
        midway.id: FailureCode.DEADLINE_EXCEEDED,
        cancelled.id: FailureCode.CANCELLED,
    }
    assert text_of(found[stays.id])


def test_ends_while_a_prompt_is_taken_in(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    """Whoever goes in the middle of a long prompt, or beside one, leaves the others as they were."""
    engine = make_engine(max_step_tokens=16)
    late = make_admit("x" * 200, deadline_ms=1_000_045)
    cancelled, stays, short = make_admit("y" * 200), make_admit("z" * 200), make_admit("w", max_tokens=3)
    for admit in (late, cancelled, stays, short):
        engine.add(admit)
    messages = [message for i in range(4) for message in engine.step(1000.0 + i * 0.01)]
    assert any(0 < row.cached_tokens < row.prompt_tokens for row in engine._runner.rows)
    engine.cancel(cancelled.id)
    found = ends(messages + run(engine, now=1000.04))
    assert {id_ for id_, end in found.items() if isinstance(end, Refused)} == {late.id, cancelled.id}
    for admit in (stays, short):
        assert ends(run(make_engine(), [admit]))[admit.id] == found[admit.id]
    assert engine._runner._kv.is_empty


def test_a_short_text_is_answered_while_a_long_prompt_is_taken_in(
    make_engine: MakeEngine, make_admit: MakeAdmit
) -> None:
    engine = make_engine(max_step_tokens=40)
    long, short = make_admit("x" * 400, max_tokens=5), make_admit("y", max_tokens=3)
    engine.add(long)
    messages = list(engine.step(1000.0))
    assert list(ends(messages + run(engine, [short]))) == [short.id, long.id]


def test_reports_say_what_is_at_work_on_each_row(
    engine: Engine, make_admit: MakeAdmit, make_lora: MakeArtefact, make_soft_prompt: MakeArtefact
) -> None:
    admits = [
        make_admit(
            namespace="news",
            instruction="Be brief.",
            artefacts=[make_soft_prompt("news/tone@2"), make_lora("public/facts@1")],
            output=Choice(["yes", "no"]),
        ),
        make_admit(max_tokens=5),
    ]
    messages = run(engine, admits)
    reports = [message for message in messages if isinstance(message, BatchReport)]
    assert [len(report.rows) for report in reports] == [2, 1]
    row = reports[0].rows[0]
    assert row.guidance == ["soft_prompt news/tone@2", "lora public/facts@1", "text_prompt", "grammar choice"]
    assert (reports[1].rows[0].namespace, reports[1].rows[0].guidance) == ("weather", [])
    assert isinstance(messages[-1], Progress)
    assert messages[-1].running == messages[-1].waiting == 0
    assert messages[-1].output_tokens > 5


def test_progress_comes_once_a_second(engine: Engine, make_admit: MakeAdmit) -> None:
    engine.add(make_admit(max_tokens=40, output=Regex("[a-z]{100}")))
    times = (1000.0, 1000.4, 1000.9, 1001.1, 1001.2, 1002.2)
    assert [sum(isinstance(m, Progress) for m in engine.step(now)) for now in times] == [1, 0, 0, 1, 0, 1]


def test_namespaces_take_turns(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    engine = make_engine(max_rows=1)
    admits = [make_admit(id=f"a{i}", namespace="a", max_tokens=1) for i in range(3)]
    admits.append(make_admit(id="b", namespace="b", max_tokens=1))
    assert list(itertools.islice(ends(run(engine, admits)), 2)) == ["attempt-a0", "attempt-b"]


# Samples, each for itself ---------------------------------------------------------------------------------------------


def test_a_sample_whose_numbers_go_wrong_leaves_its_siblings_alone(
    engine: Engine, make_admit: MakeAdmit, tokenizer: PreTrainedTokenizerFast
) -> None:
    def drawn() -> list[Generated]:
        admit = make_admit("?", output=Choice(["qz", "qy", "kz"]), temperature=10.0, samples=8, seed=1)
        return finished(engine, admit).samples

    texts = [one.text for one in drawn()]
    assert {text[0] for text in texts} == {"q", "k"}
    engine._runner._model.get_input_embeddings().weight[tokenizer.encode("q")[0]] = torch.nan
    outcomes = [one.failure.code if one.failure else one.text for one in drawn()]
    assert outcomes == [FailureCode.ENGINE_FAILED if text[0] == "q" else "kz" for text in texts]
    assert not engine._runner.rows
    assert engine._scheduler.running == engine._scheduler.waiting == 0


def finished(engine: Engine, admit: Admit) -> Finished:
    end = ends(run(engine, [admit]))[admit.id]
    assert isinstance(end, Finished)
    return end


def test_a_sample_that_is_cut_leaves_its_siblings_alone(engine: Engine, make_admit: MakeAdmit) -> None:
    rule = Regex("q|k[0-9]{9}")
    samples = finished(engine, make_admit("?", output=rule, temperature=10.0, samples=8, seed=1, max_tokens=3)).samples
    for one in samples:
        assert (one.text == "q") == (one.failure is None)
    assert {one.failure.code if one.failure else None for one in samples} == {None, FailureCode.OUTPUT_INCOMPLETE}


# Wherever a row stands in float32 -----------------------------------------------------------------------------------


def test_in_float32_the_same_id_draws_the_same_in_any_company(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    """docs/wire.md says what holds in bfloat16."""
    for number in range(6):
        asked: dict[str, Any] = {"id": f"again{number}", "temperature": 1.0, "top_p": 0.95, "max_tokens": 16}
        alone = finished(make_engine(), make_admit("What?", **asked))
        others = [make_admit("x" * (9 * i + number), max_tokens=5 + i) for i in range(5)]
        engine = make_engine(max_step_tokens=20 + 7 * number)
        assert ends(run(engine, [*others, make_admit("What?", **asked)]))[f"attempt-again{number}"] == alone
