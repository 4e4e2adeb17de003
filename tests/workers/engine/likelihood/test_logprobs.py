"""The likelihood of a text, as the plain model gives it, whoever else is in the micro-batch."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run

from guideway.schemas.output import Choice
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.messages.from_engine import Finished, Logprobs
from guideway.workers.messages.to_engine import Admit


def asked(admit: Admit) -> Admit:
    return msgspec.structs.replace(admit, logprobs=True)


def likelihood_of(engine: Engine, admit: Admit) -> Logprobs | None:
    end = ends(run(engine, [admit]))[admit.id]
    assert isinstance(end, Finished), end
    return end.samples[0].logprobs


@torch.inference_mode()
def log_probabilities(engine: Engine, admit: Admit, text: str) -> tuple[torch.Tensor, list[int]]:
    """[tokens of text, vocabulary] after the prompt, and the tokens."""
    tokenizer = engine._stopping._tokenizer
    prompt = PromptLayout(tokenizer).encode(admit.request.parts).token_ids
    ids = tokenizer.encode(text, add_special_tokens=False)
    logits = engine._runner._model(torch.tensor([[*prompt, *ids]])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1), ids


def test_of_one_label_it_is_that_of_the_models_own_tokens(engine: Engine, make_admit: MakeAdmit) -> None:
    admit = asked(make_admit(output=Choice(["no way"])))
    table, ids = log_probabilities(engine, admit, "no way")
    found = likelihood_of(engine, admit)
    assert found is not None
    assert found.free == pytest.approx(sum(float(table[i, id_]) for i, id_ in enumerate(ids)), abs=1e-4)
    assert found.allowed == pytest.approx(0, abs=1e-5)


def test_shares_of_labels_sum_to_1(engine: Engine, make_admit: MakeAdmit) -> None:
    """The labels' first tokens differ, so that the first settles which it is."""
    labels = ["yes", "no", "true"]
    each = {label: likelihood_of(engine, asked(make_admit(output=Choice([label])))) for label in labels}
    table, _ = log_probabilities(engine, make_admit(), "y")
    first = {label: float(table[0, engine._stopping._tokenizer.encode(label)[0]]) for label in labels}
    chosen = max(first, key=lambda label: first[label])
    found = likelihood_of(engine, asked(make_admit(output=Choice(labels))))
    assert found is not None
    total = sum(math.exp(value) for value in first.values())
    assert math.exp(found.allowed) == pytest.approx(math.exp(first[chosen]) / total, abs=1e-4)
    best = each[chosen]
    assert best is not None
    assert found.free == pytest.approx(best.free, abs=1e-4)


def test_it_is_the_rows_own_in_a_micro_batch(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact
) -> None:
    lora = make_lora("a/l@1")
    admits = [
        asked(make_admit(f"text {'x' * (i % 5)}", artefacts=[lora] * (i % 2), max_tokens=2 + i)) for i in range(6)
    ]
    silent = [make_admit(f"silent {i}") for i in range(3)]
    together = ends(run(make_engine(max_rows=4, max_step_tokens=70), [*silent, *admits]))
    for admit in admits:
        end, alone = together[admit.id], likelihood_of(make_engine(), admit)
        assert isinstance(end, Finished)
        assert end.samples[0].logprobs is not None
        assert alone is not None
        assert end.samples[0].logprobs.free == pytest.approx(alone.free, abs=1e-4)
        # Without a grammar everything is allowed.
        assert alone.free == alone.allowed
    for admit in silent:
        end = together[admit.id]
        assert isinstance(end, Finished)
        assert end.samples[0].logprobs is None
