"""Rows whose labels have biases: each as alone, never outside its labels, and told as the model has it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import pytest
import torch
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run, text_of

from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Boolean, Choice, OutputRule, WordLabels
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished
from guideway.workers.messages.to_engine import Admit

LABELS = ["yes", "no", "true", "true no", "you"]
"""Two begin with the same token, and so do the last and the first: `y`, in part."""
WORDS = ["the", "Earth", "turns"]
RULES: list[tuple[OutputRule, list[str], list[str]]] = [
    (Choice(LABELS), LABELS, []),
    (Boolean("yes/no"), ["yes", "no"], []),
    (WordLabels(["N", "NN", "V"]), ["N", "NN", "V"], WORDS),
]


def leaning(admit: Admit, biases: Mapping[str, float]) -> Admit:
    return msgspec.structs.replace(admit, biases=dict(biases))


def text(engine: Engine, admit: Admit) -> str:
    return text_of(ends(run(engine, [admit]))[admit.id])


def test_a_row_with_biases_is_as_alone_whoever_else_is_there(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact
) -> None:
    lora = make_lora("a/l@1")
    admits = []
    for number in range(24):
        rule, labels, words = RULES[number % 3]
        biases = {label: (number * 7 + place * 5) % 11 - 5.0 for place, label in enumerate(labels)}
        admit = make_admit(
            f"text {number}",
            output=rule,
            words=words,
            artefacts=[lora] * (number % 2),
            max_tokens=40,
            temperature=0.7 * (number % 4 == 3),
        )
        admits.append(leaning(admit, biases if number % 5 else {}))
    admits += [make_admit(f"free {number}") for number in range(4)]
    together = ends(run(make_engine(max_rows=7, max_step_tokens=90), admits))
    alone = make_engine()
    for admit in admits:
        assert text_of(together[admit.id]) == text(alone, admit)


@pytest.mark.parametrize(
    ("rule", "labels", "words"),
    [*RULES, (Choice(["yes", "no", "true"]), ["yes", "no", "true"], []), (WordLabels(["N", "V"]), ["N", "V"], WORDS)],
    ids=lambda one: type(one).__name__,
)
def test_the_label_that_is_favoured_far_enough_is_taken_and_never_another_text(
    engine: Engine, make_admit: MakeAdmit, rule: OutputRule, labels: list[str], words: list[str]
) -> None:
    for wanted in labels:
        for far in (50.0, 1e-3):
            biases = {label: far if label == wanted else -far for label in labels}
            admit = leaning(make_admit(output=rule, words=words, max_tokens=40), biases)
            found = text(engine, admit)
            written = [pair.rpartition("/")[2] for pair in found.split(" ")] if words else [found]
            assert set(written) <= set(labels)
            # Of labels that begin alike, the branch is weighed as a whole before they are.
            if far > 1 and len({label[0] for label in labels}) == len(labels):
                assert set(written) == {wanted}


def test_even_biases_change_nothing(engine: Engine, make_admit: MakeAdmit) -> None:
    """Alike for all labels, whatever they begin with: each text is the one without."""
    for number in range(12):
        admit = make_admit(f"text {number}", output=Choice(["yes", "no", "true", "you"]), temperature=1.0)
        even = dict.fromkeys(["yes", "no", "true", "you"], 7.5)
        assert text(engine, leaning(admit, even)) == text(engine, admit)


def test_a_label_without_a_bias_refuses_its_row_only(engine: Engine, make_admit: MakeAdmit) -> None:
    bad = leaning(make_admit(output=Choice(["yes", "no"])), {"yes": 1.0})
    good = make_admit(output=Choice(["yes", "no"]))
    found = ends(run(engine, [bad, good]))
    end = found[bad.id]
    assert isinstance(end, Refused)
    assert end.code is FailureCode.INTERNAL_ERROR
    assert text_of(found[good.id]) in {"yes", "no"}


def test_how_likely_a_text_was_among_all_texts_is_told_without_its_bias(engine: Engine, make_admit: MakeAdmit) -> None:
    plain = msgspec.structs.replace(make_admit(output=Choice(["yes", "no"])), logprobs=True)
    other = "no" if text(engine, plain) == "yes" else "yes"
    alone = msgspec.structs.replace(plain, request=msgspec.structs.replace(plain.request, output=Choice([other])))
    leant = leaning(plain, {label: 9.0 * (label == other) for label in ("yes", "no")})
    free = []
    for admit in (leant, alone):
        end = ends(run(engine, [admit]))[admit.id]
        assert isinstance(end, Finished)
        assert end.samples[0].text == other
        assert end.samples[0].logprobs is not None
        free.append(end.samples[0].logprobs.free)
    assert free[0] == pytest.approx(free[1], abs=1e-4)


@torch.inference_mode()
def test_partings_are_told_as_the_model_has_them(engine: Engine, make_admit: MakeAdmit) -> None:
    admit = msgspec.structs.replace(make_admit(output=Choice(["yes", "no", "true"])), partings=True)
    tokenizer = engine._stopping._tokenizer
    prompt = PromptLayout(tokenizer).encode(admit.request.parts).token_ids
    logits = engine._runner._model(torch.tensor([prompt])).logits[0, -1]
    first = {label: float(logits[tokenizer.encode(label)[0]]) for label in ("yes", "no", "true")}
    total = math.log(sum(map(math.exp, first.values())))
    end = ends(run(engine, [admit]))[admit.id]
    assert isinstance(end, Finished)
    [parting] = end.samples[0].partings
    assert {branch.labels[0]: branch.log_share for branch in parting} == pytest.approx(
        {label: value - total for label, value in first.items()}, abs=1e-4
    )


def test_partings_are_told_word_by_word_and_only_where_asked(engine: Engine, make_admit: MakeAdmit) -> None:
    rule, labels, words = RULES[2]
    admit = make_admit(output=rule, words=words, max_tokens=40)
    asked = msgspec.structs.replace(admit, partings=True)
    found = []
    for one in (admit, asked):
        end = ends(run(engine, [one]))[one.id]
        assert isinstance(end, Finished)
        found.append(end.samples[0])
    assert found[0].partings == []
    whole = [parting for parting in found[1].partings if len(parting) > 1]
    roots = [parting for parting in whole if sorted(x for b in parting for x in b.labels) == sorted(labels)]
    assert len(roots) == len(words)
    for parting in whole:
        assert sum(math.exp(branch.log_share) for branch in parting) == pytest.approx(1, abs=1e-5)
