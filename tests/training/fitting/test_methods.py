"""Each method on a tiny model: it begins as it should, learns, leaves the model alone, and serves as it was trained."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.workers.engine.conftest import base_of, ends, run, tiny_llama, tiny_tokenizer

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.output import Choice, Text
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.training.data.examples import Example
from guideway.training.fitting.encoding import Encoded, Encoder
from guideway.training.fitting.methods import text_embeddings, trainable
from guideway.training.fitting.trainable import Trainable
from guideway.training.fitting.trainer import Trainer
from guideway.training.runs.task import Schedule, StopRules
from guideway.training.runs.task_methods import (
    Ia3Method,
    InsertedLayerMethod,
    LoraMethod,
    Method,
    PrefixMethod,
    PTuningMethod,
    SoftPromptMethod,
)
from guideway.training.runs.train_method import checksum
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.kernels.linears.int8_linear import keep_linears_in_int8
from guideway.workers.engine.model.base_model import BaseModel
from guideway.workers.messages.from_engine import BatchReport, Finished
from guideway.workers.messages.to_engine import Admit, Artefact, EngineSettings

LABELS = Choice(labels=["yes", "no"])
METHODS: list[Method] = [
    SoftPromptMethod(virtual_tokens=6, learning_rate=0.05),
    PTuningMethod(virtual_tokens=6, encoder_hidden_size=32),
    PrefixMethod(virtual_tokens=6, learning_rate=0.05),
    LoraMethod(rank=4, targets=["q_proj", "v_proj", "down_proj"], learning_rate=0.01),
    Ia3Method(targets=["k_proj", "v_proj", "down_proj"], feedforward=["down_proj"], learning_rate=0.05),
    InsertedLayerMethod(bottleneck=8, learning_rate=0.01),
]
ROWS = [Example(i, f"{'thin' if i % 2 else 'thick'} {i}", LABELS.labels[i % 2]) for i in range(40)]
each = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)


def tiny() -> BaseModel:
    tokenizer = tiny_tokenizer()
    return base_of(tiny_llama(tokenizer), tokenizer)


def encoded(base: BaseModel) -> list[Encoded]:
    return Encoder(base, instruction="Thin?", output=LABELS, max_tokens=512, answer_tokens=8).encode(
        ROWS, virtual_tokens=6
    )


@each
def test_it_learns_leaves_the_model_alone_and_serves_as_it_was_trained(method: Method, tmp_path: Path) -> None:
    base = tiny()
    rows = encoded(base)
    weights = [*base.model.parameters(), *base.model.buffers()]
    before = checksum(weights)
    torch.manual_seed(1)
    with trainable(method, base, initial_text="yes or no", model_name="tiny") as part:
        assert {one.dtype for one in part.parameters.values()} == {torch.float32}
        trainer = Trainer(
            part,
            rows,
            rows[:16],
            schedule=Schedule(rows_per_step=8),
            stop=StopRules(max_steps=40),
            learning_rate=method.learning_rate,
        )
        first = trainer.evaluate()
        while trainer.fired is None:
            trainer.step()
        last = trainer.evaluate()
        part.save(tmp_path)
        expected = [-_loss_without_end(part, row) for row in rows[:4]]
    assert last < 0.7 * first
    assert checksum(weights) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    found = _served([(row, _artefact(method, tmp_path)) for row in ROWS[:4]])
    # LoRAs are saved in bfloat16.
    assert found == pytest.approx(expected, abs=0.05 if isinstance(method, LoraMethod) else 2e-4)


@each
def test_peft_loads_what_it_saves(method: Method, tmp_path: Path) -> None:
    if isinstance(method, InsertedLayerMethod):
        pytest.skip("PEFT has no inserted layers")
    base = tiny()
    torch.manual_seed(1)
    with trainable(method, base, initial_text="yes or no", model_name="tiny") as part:
        part.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["inference_mode"]) == ("tiny", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = PeftModel.from_pretrained(tiny().model, tmp_path)
    assert torch.isfinite(loaded(input_ids=torch.tensor([[1, 2, 3]])).logits).all()


@pytest.mark.parametrize("method", METHODS[::3], ids=lambda method: method.label)
def test_it_learns_through_weights_of_8_bits(method: Method) -> None:
    base = tiny()
    keep_linears_in_int8(base.model)
    rows = encoded(base)
    weights = [*base.model.parameters(), *base.model.buffers()]
    before = checksum(weights)
    torch.manual_seed(1)
    with trainable(method, base, initial_text="yes or no", model_name="tiny") as part:
        schedule, stop = Schedule(rows_per_step=8), StopRules(max_steps=40)
        trainer = Trainer(part, rows, rows[:16], schedule=schedule, stop=stop, learning_rate=method.learning_rate)
        first = trainer.evaluate()
        while trainer.fired is None:
            trainer.step()
        assert trainer.evaluate() < 0.7 * first
    assert checksum(weights) == before


def test_all_of_them_serve_in_one_micro_batch_as_each_does_alone(tmp_path: Path) -> None:
    artefacts = []
    for method in METHODS:
        base = tiny()
        torch.manual_seed(1)
        with trainable(method, base, initial_text="yes or no", model_name="tiny") as part:
            schedule, stop = Schedule(rows_per_step=8), StopRules(max_steps=4)
            trainer = Trainer(part, encoded(base), [], schedule=schedule, stop=stop, learning_rate=method.learning_rate)
            for _ in range(4):
                trainer.step()
            part.save(tmp_path / method.label)
        artefacts.append(_artefact(method, tmp_path / method.label))
    asked = list(zip(ROWS, artefacts, strict=False))
    alone = [_served([one])[0] for one in asked]
    assert _served(asked) == pytest.approx(alone, abs=1e-4)
    assert len({round(value, 3) for value in alone}) > 1


@each
def test_rows_that_begin_alike_give_the_loss_and_gradients_of_each_alone(method: Method) -> None:
    base = tiny()
    torch.manual_seed(1)
    with trainable(method, base, initial_text="yes or no", model_name="") as part:
        _stir(part)
        rows = [replace(row, weight=1.0 + place % 3) for place, row in enumerate(encoded(base)[:12])]
        alone = [_with_gradients(part, [row]) for row in rows]
        loss, gradients = _with_gradients(part, rows)
        assert part.shared_tokens(rows) >= 10
        assert part.computed_tokens(rows) < 0.6 * sum(part.computed_tokens([row]) for row in rows)
    assert loss == pytest.approx(sum(one for one, _ in alone), rel=1e-5)
    for name, found in gradients.items():
        expected = torch.stack([each[name] for _, each in alone]).sum(0)
        assert expected.abs().max() > 0
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item()), name


def test_rows_share_what_all_of_them_begin_with_and_not_the_place_before_an_answer() -> None:
    part = Trainable(tiny().model, torch.nn.Module(), lambda folder: None)
    beginning = list(range(40, 80))
    same = [Encoded([*beginning, 1, 2], 2), Encoded([*beginning, 1, 2], 2), Encoded([*beginning, 9, 3, 4], 2)]
    assert part.shared_tokens(same) == 39
    assert part.shared_tokens([*same, Encoded([*beginning[:33], 7, 8, 5], 1)]) == 33
    # Alone, or with little in common, each row is run as it is.
    assert part.shared_tokens(same[:1]) == 0
    assert part.shared_tokens([*same, Encoded([*beginning[:3], 7, 8, 5], 1)]) == 0
    with torch.no_grad():
        whole = sum(part.answer_loss([row])[0].item() for row in same)
        assert part.answer_loss(same)[0].item() == pytest.approx(whole, rel=1e-5)


def test_with_dropout_every_row_has_noise_of_its_own() -> None:
    base = tiny()
    with trainable(LoraMethod(targets=["q_proj"], dropout=0.1), base, initial_text="", model_name="") as part:
        assert part.shared_tokens(encoded(base)) == 0


@pytest.mark.parametrize(
    "method", [LoraMethod(targets=["q_proj"]), Ia3Method(targets=["k_proj"]), InsertedLayerMethod()], ids=str
)
def test_adapters_begin_as_nothing(method: Method) -> None:
    base, bare = tiny(), tiny()
    rows = encoded(base)
    plain = Trainable(bare.model, torch.nn.Module(), lambda folder: None)
    with trainable(method, base, initial_text="", model_name="") as part, torch.no_grad():
        assert part.answer_loss(rows)[0].item() == pytest.approx(plain.answer_loss(rows)[0].item(), rel=1e-5)


def test_virtual_tokens_begin_as_the_text() -> None:
    """Of a soft prompt and of a P-tuning encoder alike; a prefix begins as what the model keeps of the text."""
    base = tiny()
    rows = encoded(base)
    losses = []
    for method in METHODS[:2]:
        base = tiny()
        with trainable(method, base, initial_text="yes or no", model_name="") as part, torch.no_grad():
            assert part.soft is not None
            assert torch.allclose(part.soft(), text_embeddings(base, "yes or no", 6), atol=1e-4)
            losses.append(part.answer_loss(rows)[0].item())
    with trainable(METHODS[2], tiny(), initial_text="yes or no", model_name="") as part, torch.no_grad():
        losses.append(part.answer_loss(rows)[0].item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


def test_pieces_of_a_step_come_to_the_same_as_the_whole() -> None:
    after = []
    for most in (10_000, 60, 1):
        base = tiny()
        torch.manual_seed(1)
        with trainable(METHODS[0], base, initial_text="yes", model_name="") as part:
            schedule = Schedule(rows_per_step=8, tokens_at_once=most)
            trainer = Trainer(part, encoded(base), [], schedule=schedule, stop=StopRules(), learning_rate=0.01)
            for _ in range(3):
                trainer.step()
            after.append(next(iter(part.parameters.values())).detach().clone())
    assert torch.allclose(after[0], after[1], atol=1e-4)
    assert torch.allclose(after[0], after[2], atol=1e-4)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (LoraMethod(targets=["nowhere"]), "targets"),
        (Ia3Method(targets=["nowhere"]), "targets"),
        (InsertedLayerMethod(after_layers=[7]), "names layer 7, and the model has 2"),
    ],
    ids=["lora", "ia3", "inserted layer"],
)
def test_what_the_model_does_not_have_is_refused(method: Method, words: str) -> None:
    with pytest.raises(Refusal, match=words) as caught, trainable(method, tiny(), initial_text="", model_name=""):
        pass
    assert caught.value.code is FailureCode.INVALID_SETTING


def test_rows_that_are_too_long_or_cannot_be_served_are_refused() -> None:
    base = tiny()
    with pytest.raises(Refusal, match=r"row 7 is \d+ tokens longer than the 60") as caught:
        Encoder(base, instruction="", output=LABELS, max_tokens=60, answer_tokens=8).encode(
            [Example(7, "long " * 20, "yes")]
        )
    assert caught.value.code is FailureCode.INVALID_DATA
    with pytest.raises(Refusal, match="row 8: its answer is not of the task's output type"):
        Encoder(base, instruction="", output=LABELS, max_tokens=60, answer_tokens=8).encode([Example(8, "x", "maybe")])
    text = Encoder(base, instruction="", output=Text(), max_tokens=60, answer_tokens=8)
    assert text.encode([Example(8, "x", "abc")])
    with pytest.raises(Refusal, match=r"row 9: its answer is \d+ tokens longer than the 8 of the task's generation"):
        text.encode([Example(9, "x", "long " * 20)])
    roomy = Encoder(base, instruction="", output=LABELS, max_tokens=60, answer_tokens=59)
    with pytest.raises(Refusal, match="room for 59 of an answer included"):
        roomy.encode([Example(10, "x y z", "yes")])


def _stir(part: Trainable) -> None:
    """Move the parameters off their beginning, where the gradient of some of them is 0."""
    with torch.no_grad():
        for parameter in part.parameters.values():
            parameter.add_(0.02 * torch.randn_like(parameter))


def _with_gradients(part: Trainable, rows: Sequence[Encoded]) -> tuple[float, dict[str, torch.Tensor]]:
    loss, _ = part.answer_loss(rows)
    gradients = torch.autograd.grad(loss, list(part.parameters.values()))
    return loss.item(), dict(zip(part.parameters, gradients, strict=True))


def _loss_without_end(part: Trainable, row: Encoded) -> float:
    with torch.no_grad():
        loss, _ = part.answer_loss([Encoded(row.ids[:-1], row.answer - 1)])
    return loss.item()


def _artefact(method: Method, folder: Path) -> Artefact:
    return Artefact(name=f"a/{method.label}@1", form=method.guidance_form, digest=method.label, folder=str(folder))


def _served(asked: Sequence[tuple[Example, Artefact]]) -> list[float]:
    """log p of the rows' answers, each with its artefact, all in one micro-batch of the engine that serves."""
    engine = Engine(tiny(), EngineSettings(max_rows=32, reader_threads=0, preparer_threads=0), max_context_tokens=512)
    admits = [
        Admit(
            id=str(number),
            request=Request(
                id=str(number),
                namespace="a",
                endpoint="b",
                endpoint_version=1,
                parts=[
                    Part(kind="instruction", source="endpoint", text="Thin?"),
                    Part(kind="input", source="caller", text=row.text),
                ],
                guidance=[],
                output=Choice(labels=[row.answer]),
                words=[],
                generation=Generation(),
                reply_to=[ReplyAddress(topic="none")],
                deadline_ms=None,
            ),
            artefacts=[artefact],
            logprobs=True,
        )
        for number, (row, artefact) in enumerate(asked)
    ]
    messages = run(engine, admits)
    most = max(len(message.rows) for message in messages if isinstance(message, BatchReport))
    # Rows with the same guidance may wait for the first of them, whose beginning they share.
    assert most == len(asked) or len({artefact.digest for _, artefact in asked}) == 1
    found = []
    for number in range(len(asked)):
        end = ends(messages)[str(number)]
        assert isinstance(end, Finished), end
        likelihood = end.samples[0].logprobs
        assert likelihood is not None
        found.append(likelihood.free)
    return found
