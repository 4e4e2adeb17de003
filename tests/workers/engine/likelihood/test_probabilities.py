"""The probabilities of labels, and of tokens, are those that the plain model gives, whoever else is in the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
import torch
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, base_of, ends, run, tiny_llama
from transformers import PreTrainedTokenizerFast

from guideway.schemas.output import Boolean, Choice, Text
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished, Generated, Pieces
from guideway.workers.messages.to_engine import Admit, EngineSettings

CREDIT = ["credit", "credit card", "crediting", "yes", "debit card", "debit"]


def asked(labels: Sequence[str]) -> Choice:
    return Choice([*labels], probabilities=True)


@pytest.fixture(scope="module")
def plain(tokenizer: PreTrainedTokenizerFast) -> Any:
    return tiny_llama(tokenizer)


@torch.inference_mode()
def by_hand(
    plain: Any,
    tokenizer: PreTrainedTokenizerFast,
    admit: Admit,
    labels: Sequence[str],
    biases: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The product of the softmax over what may come, token by token, each by a pass of its own."""
    end = tokenizer.eos_token_id
    prompt = PromptLayout(tokenizer).encode(admit.request.parts).token_ids
    ids = {label: [*tokenizer.encode(label, add_special_tokens=False), end] for label in labels}
    found = {}
    for label, own in ids.items():
        found[label] = 1.0
        for at in range(len(own)):
            below = [one for one, some in ids.items() if some[:at] == own[:at]]
            ways: dict[int, list[str]] = {}
            for one in below:
                ways.setdefault(ids[one][at], []).append(one)
            if len(ways) > 1:
                logits = plain(torch.tensor([[*prompt, *own[:at]]])).logits[0, -1].double()
                if biases is not None:
                    for token, some in ways.items():
                        logits[token] += math.log(len(some) / sum(math.exp(-biases[one]) for one in some))
                found[label] *= float(logits[list(ways)].softmax(0)[list(ways).index(own[at])])
    return found


def sample_of(end: Finished | Refused, number: int = 0) -> Generated:
    assert isinstance(end, Finished), end
    return end.samples[number]


def told(engine: Engine, admit: Admit) -> dict[str, float]:
    found = sample_of(ends(run(engine, [admit]))[admit.id]).probabilities
    assert found is not None
    return found


@pytest.mark.parametrize(
    "labels",
    [["yes", "no"], ["yes"], CREDIT, ["a", "ab", "abc", "abcd"], [f"intent {i:03}" for i in range(100)]],
    ids=lambda labels: f"{len(labels)} labels",
)
def test_labels_are_as_probable_as_by_hand(
    engine: Engine, make_admit: MakeAdmit, plain: Any, tokenizer: PreTrainedTokenizerFast, labels: list[str]
) -> None:
    admit = make_admit(output=asked(labels), max_tokens=12)
    found = told(engine, admit)
    assert found == pytest.approx(by_hand(plain, tokenizer, admit, labels), abs=1e-5)
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)


def test_the_value_is_the_most_probable_label(
    engine: Engine, make_admit: MakeAdmit, plain: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Token by token, another one may be chosen: a label that shares its first token with many."""
    differ = 0
    labels = ["yes", "true", *(f"{first}{rest}" for first in "abn" for rest in "123456")]
    for number in range(12):
        admit = make_admit(f"text {number}", output=asked(labels), max_tokens=12)
        greedy = make_admit(f"text {number}", output=Choice(labels), max_tokens=12)
        messages = ends(run(engine, [admit, greedy]))
        end = messages[admit.id]
        sample = sample_of(end)
        right = by_hand(plain, tokenizer, admit, labels)
        assert sample.text == max(right, key=lambda label: right[label]) == next(iter(sample.probabilities or {}))
        assert isinstance(end, Finished)
        assert end.output_tokens == len(tokenizer.encode(sample.text))
        differ += sample.text != sample_of(messages[greedy.id]).text
    assert differ


def test_labels_with_first_tokens_of_their_own_need_one_step(engine: Engine, make_admit: MakeAdmit) -> None:
    engine.add(make_admit(output=asked(["no way", "yes please", "true enough"]), max_tokens=12))
    assert ends(engine.step(0.0))
    assert engine._statistics.steps == 1


def test_biases_count(engine: Engine, make_admit: MakeAdmit, plain: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    biases = {label: 0.7 * number - 1 for number, label in enumerate(CREDIT)}
    admit = msgspec.structs.replace(make_admit(output=asked(CREDIT), max_tokens=12), biases=biases)
    found = told(engine, admit)
    assert found == pytest.approx(by_hand(plain, tokenizer, admit, CREDIT, biases), abs=1e-5)
    assert found != pytest.approx(by_hand(plain, tokenizer, admit, CREDIT), abs=1e-2)


def test_temperature_and_top_p_change_the_draw_only(engine: Engine, make_admit: MakeAdmit) -> None:
    cold = told(engine, make_admit(output=asked(CREDIT), max_tokens=12))
    admit = make_admit(output=asked(CREDIT), max_tokens=12, temperature=3.0, top_p=0.9, samples=8, seed=5)
    drawn = make_admit(output=Choice(CREDIT), max_tokens=12, temperature=3.0, top_p=0.9, samples=8, seed=5)
    messages = ends(run(engine, [admit, drawn]))
    end = messages[admit.id]
    samples = [sample_of(end, number) for number in range(8)]
    assert all(one.probabilities == pytest.approx(cold, abs=1e-5) for one in samples)
    assert [one.text for one in samples] == [sample_of(messages[drawn.id], number).text for number in range(8)]
    assert len({one.text for one in samples}) > 2
    assert isinstance(end, Finished)
    assert end.output_tokens == sum(len(engine._stopping._tokenizer.encode(one.text)) for one in samples)


def test_in_a_mixed_batch_with_guidance_and_preemption_they_are_those_alone(
    make_engine: MakeEngine,
    make_admit: MakeAdmit,
    make_lora: MakeArtefact,
    make_ia3: MakeArtefact,
    make_soft_prompt: MakeArtefact,
    make_prefix: MakeArtefact,
    make_inserted_layer: MakeArtefact,
) -> None:
    guidance = [
        [],
        [make_lora("a/l@1")],
        [make_soft_prompt("a/s@1"), make_ia3("a/i@1")],
        [make_prefix("a/p@1"), make_inserted_layer("a/n@1")],
    ]
    labels = [CREDIT, ["yes", "no"], [f"number {i}" for i in range(30)]]
    admits = [
        make_admit(
            f"text {'x' * (i % 7)}",
            namespace=f"n{i % 3}",
            artefacts=guidance[i % 4],
            output=asked(labels[i % 3]),
            max_tokens=12,
        )
        for i in range(12)
    ]
    others = [make_admit(f"long {i}", namespace="other", max_tokens=60, instruction="Say much. " * 4) for i in range(4)]
    # So little room that rows give up their seats on their way.
    token_bytes = make_engine()._runner.token_bytes
    engine = make_engine(max_rows=5, max_step_tokens=70, kv_bytes=token_bytes * 300, max_context_tokens=200)
    together = ends(run(engine, [*others, *admits]))
    assert engine._statistics.preempted
    for admit in admits:
        assert sample_of(together[admit.id]).probabilities == pytest.approx(told(make_engine(), admit), abs=1e-4)


def test_a_row_that_walks_far_gives_up_its_seat_to_others(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    """What it takes back counts as run, else others would wait until its walk is over."""
    engine = make_engine(max_rows=1)
    far = make_admit(output=asked([f"{i:03}{'x' * 20}{end}" for i in range(40) for end in "ab"]), max_tokens=40)
    walking = msgspec.structs.replace(far, lane="batch")
    engine.add(walking)
    for step in range(40):
        engine.step(step * 0.01)
    quick = make_admit("quick", namespace="other", max_tokens=2)
    order = [*ends(run(engine, [quick]))]
    assert order == [quick.id, walking.id]


@pytest.mark.parametrize("temperature", [0, 2.0])
def test_of_a_text_that_streams_nothing_is_told_before_it_is_known(
    engine: Engine, make_admit: MakeAdmit, temperature: float
) -> None:
    """While a row walks, it writes other labels than its own."""
    admit = make_admit(output=asked(CREDIT), max_tokens=12, temperature=temperature)
    messages = run(engine, [msgspec.structs.replace(admit, partial=True)])
    told = [piece.text for one in messages if isinstance(one, Pieces) for piece in one.pieces]
    assert told == [sample_of(ends(messages)[admit.id]).text]


def test_labels_that_do_not_fit_are_refused(engine: Engine, make_admit: MakeAdmit) -> None:
    admit = make_admit(output=asked(["yes", "a label of many tokens"]), max_tokens=8)
    end = ends(run(engine, [admit]))[admit.id]
    assert isinstance(end, Refused)
    assert end.code == "output_incomplete"
    assert "'a label of many tokens' has" in end.message
    assert "max_tokens" in end.message


def test_numbers_that_are_none_refuse_the_row(tokenizer: PreTrainedTokenizerFast, make_admit: MakeAdmit) -> None:
    model = tiny_llama(tokenizer)
    engine = Engine(
        base_of(model, tokenizer), EngineSettings(reader_threads=0, preparer_threads=0), max_context_tokens=512
    )
    admit = make_admit(output=asked(CREDIT), max_tokens=12)
    engine.add(admit)
    engine.step(0.0)
    model.model.norm.weight.fill_(math.nan)
    end = ends(run(engine))[admit.id]
    assert isinstance(end, Refused)
    assert end.code == "engine_failed"


def test_a_boolean_has_its_spelling(engine: Engine, make_admit: MakeAdmit) -> None:
    assert told(engine, make_admit(output=Boolean("yes/no", probabilities=True))).keys() == {"yes", "no"}


def test_tokens_of_free_text_are_as_probable_as_by_hand(
    make_engine: MakeEngine,
    make_admit: MakeAdmit,
    plain: Any,
    tokenizer: PreTrainedTokenizerFast,
    make_lora: MakeArtefact,
) -> None:
    """Drawn at a temperature, and beside rows that tell none, fewer or other ones."""
    admits = [
        make_admit(f"text {i}", output=Text(logprobs=i), max_tokens=6 + i, temperature=1.5 * (i % 2), seed=i)
        for i in range(4)
    ]
    silent = [make_admit(f"silent {i}", artefacts=[make_lora("a/l@1")] * i) for i in range(2)]
    walking = make_admit(output=asked(CREDIT), max_tokens=12)
    together = ends(run(make_engine(max_rows=4, max_step_tokens=70), [*silent, walking, *admits]))
    for number, admit in enumerate(admits):
        sample = sample_of(together[admit.id])
        assert sample.tokens
        assert "".join(one.text for one in sample.tokens) == sample.text
        row = list(tokenizer.encode(sample.text)) if sample.text.isascii() else None
        if row is not None and len(row) == len(sample.tokens):
            prompt = PromptLayout(tokenizer).encode(admit.request.parts).token_ids
            with torch.inference_mode():
                table = plain(torch.tensor([[*prompt, *row]])).logits[0, len(prompt) - 1 :].log_softmax(-1)
            for at, one in enumerate(sample.tokens):
                assert one.logprob == pytest.approx(float(table[at, row[at]]), abs=1e-4)
                assert [log for _, log in one.top] == pytest.approx(table[at].topk(number).values.tolist(), abs=1e-4)
        assert all(len(one.top) == number for one in sample.tokens)
    for admit in silent:
        assert sample_of(together[admit.id]).tokens is None
    assert sample_of(together[walking.id]).tokens is None


def test_tokens_end_where_a_stop_string_cuts(engine: Engine, make_admit: MakeAdmit) -> None:
    whole = sample_of(ends(run(engine, [admit := make_admit(output=Text(logprobs=0), max_tokens=20)]))[admit.id])
    assert whole.tokens is not None
    assert len(whole.tokens) == 20
    stop = next(char for char in whole.text[3:] if char.isascii())
    cut = make_admit(output=Text(logprobs=0), max_tokens=20, stop=[stop])
    sample = sample_of(ends(run(engine, [cut]))[cut.id])
    assert sample.tokens is not None
    assert "".join(one.text for one in sample.tokens) == sample.text == whole.text[: whole.text.index(stop)]
    assert len(sample.tokens) < 20
