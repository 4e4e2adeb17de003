"""Evaluates guidance on rows, with the engine, the grammars and the output parser of serving."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from guideway.schemas.calibration import Calibration, tempered
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.output import Boolean, Choice, OutputRule, Text, WordLabels, weighs
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.training.data.examples import Example
from guideway.training.evaluation.intervals import quantile
from guideway.training.evaluation.scoring import Answer, Evaluation, Latency, counts_of, evaluation_of
from guideway.training.runs.task import BARE
from guideway.workers.answers import completed_reply
from guideway.workers.calibration.calibrating import asked, made_of
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished, Generated, Logprobs
from guideway.workers.messages.to_engine import Admit, Artefact, EngineSettings
from guideway.workers.output_parser import read_value

if TYPE_CHECKING:
    from guideway.workers.engine.engine import Engine
    from guideway.workers.engine.model.base_model import BaseModel

_ALONE_ROWS: Final = 12
"""How many rows are run alone to measure latency, after one for warming up."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What is evaluated: what an endpoint adds to a request, and its output rule."""

    label: str
    """`bare`, `text-prompt`, `present`, or a method's name."""
    instructions: list[str] = []
    """Text prompts in order."""
    artefacts: list[Artefact] = []
    output: OutputRule
    generation: Generation = Generation()
    calibration: Calibration | None = None
    """How its labels are calibrated."""


Progress = Callable[[str, int, int], None]
"""Called before every step: a subject's label, how many of its rows have an answer, and of how many. An exception from
it ends the evaluation."""


class Evaluator:
    """One engine on one base model, for any number of subjects. Not thread-safe.

    The engine puts hooks on the model and packs its weights. Use the model for nothing else meanwhile, and do not wrap
    it by PEFT.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        max_context_tokens: int,
        max_rows: int = 32,
        progress: Progress = lambda _label, _done, _of: None,
    ) -> None:
        from guideway.workers.engine.engine import Engine
        from guideway.workers.engine.text.prompt import PromptLayout

        self._engine: Engine = Engine(base, EngineSettings(max_rows=max_rows), max_context_tokens=max_context_tokens)
        self._layout = PromptLayout(base.tokenizer)
        self._progress = progress
        self._numbers = iter(range(2**62))

    def evaluate(self, subject: Subject, rows: Sequence[Example], *, latency: bool = True) -> Evaluation:
        """Figures and answers on `rows`, which all enter at once, like a topic's backlog.

        latency: whether some of the rows also run alone, one after the other.

        Raises: Refusal if the subject's guidance or output rule is at fault. The fault of a single row (too long, an
        answer without end) counts as a wrong answer, with its code.
        """
        biases = self._biases(subject)
        began = time.perf_counter()
        ends = self._run(subject, rows, biases)
        took_s = time.perf_counter() - began
        answers = [self._answer(subject, row, end) for row, end in zip(rows, ends, strict=True)]
        _raise_common_failure(answers, ends)
        return evaluation_of(
            subject.label,
            subject.output,
            answers,
            rows_per_s=len(rows) / took_s if rows else 0.0,
            latency=self._latency(subject, rows, biases) if latency and rows else None,
        )

    def generate(self, instruction: str, inputs: Sequence[str], generation: Generation) -> list[list[str]]:
        """Free texts of the bare model: for each input its samples without those that failed."""
        subject = Subject(label=BARE, instructions=[instruction], output=Text(), generation=generation)
        ends = self._run(subject, [Example(number, text, "") for number, text in enumerate(inputs, 1)])
        finished = [end.samples if isinstance(end, Finished) else [] for end in ends]
        return [[one.text for one in samples if one.failure is None] for samples in finished]

    def _biases(self, subject: Subject) -> dict[str, float]:
        """Label → its bias, measured as serving measures it."""
        if (rule := subject.calibration) is None:
            return {}
        like = _request(subject, Example(0, "", ""))
        return made_of(rule, like, [self._ends(subject, some) for some in asked(rule, like)]).biases

    def _ends(self, subject: Subject, requests: Sequence[Request]) -> list[Finished | Refusal]:
        admits = [self._admit(subject, request, partings=True) for request in requests]
        return [
            Refusal(end.code, end.message) if isinstance(end, Refused) else end for end in self._go(subject, admits)
        ]

    def _run(
        self, subject: Subject, rows: Sequence[Example], biases: Mapping[str, float] | None = None
    ) -> list[Finished | Refused]:
        requests = [_request(subject, row) for row in rows]
        # An endpoint that weighs its labels answers by their probabilities; they are told, and nothing else is needed.
        wanted = not weighs(subject.output)
        admits = [self._admit(subject, request, logprobs=wanted, biases=dict(biases or {})) for request in requests]
        return self._go(subject, admits)

    def _admit(self, subject: Subject, request: Request, **wanted: Any) -> Admit:
        id_ = f"evaluation-{next(self._numbers)}"
        return Admit(id=id_, request=request, artefacts=subject.artefacts, **wanted)

    def _go(self, subject: Subject, admits: Sequence[Admit]) -> list[Finished | Refused]:
        ids = [admit.id for admit in admits]
        for admit in admits:
            self._engine.add(admit)
        ends: dict[str, Finished | Refused] = {}
        while self._engine.has_work:
            self._progress(subject.label, len(ends), len(ids))
            for message in self._engine.step(time.time()):
                if isinstance(message, Finished | Refused):
                    ends[message.id] = message
        return [ends[id_] for id_ in ids]

    def _answer(self, subject: Subject, row: Example, end: Finished | Refused) -> Answer:
        words = words_of(subject.output, row.text)
        expected = read_value(row.answer, subject.output, words)
        given: Any = None
        failure = ""
        try:
            if isinstance(end, Refused):
                raise Refusal(end.code, end.message)
            given = completed_reply(_request(subject, row), end, self._engine.fingerprint).value
        except Refusal as refusal:
            failure = refusal.code.value
        sample = _sample(end)
        logprobs = sample.logprobs if sample is not None else None
        told = _probabilities(subject.output, sample)
        return Answer(
            text=row.text,
            expected=expected,
            given=given,
            failure=failure,
            counts=counts_of(subject.output, expected, None if failure else given),
            log_probability=_confidence(told, sample),
            label_shares=[told[label] for label in answer_labels(subject.output)]
            if told
            else _label_shares(logprobs, self._first_tokens(subject.output)),
            prompt_tokens=end.prompt_tokens if isinstance(end, Finished) else 0,
            output_tokens=end.output_tokens if isinstance(end, Finished) else 0,
        )

    def _first_tokens(self, rule: OutputRule) -> list[int]:
        """The first token of each label, as the grammar writes it; empty if two labels share one."""
        labels = answer_labels(rule)
        tokens = [self._layout.answer_ids(label)[0] for label in labels]
        return tokens if len({*tokens}) == len(labels) else []

    def _latency(self, subject: Subject, rows: Sequence[Example], biases: Mapping[str, float]) -> Latency:
        took: list[float] = []
        for row in (*rows[:1], *rows[:_ALONE_ROWS]):
            began = time.perf_counter()
            self._run(subject, [row], biases)
            took.append((time.perf_counter() - began) * 1000)
        alone = took[1:]
        return Latency(rows=len(alone), median_ms=quantile(alone, 0.5), p95_ms=quantile(alone, 0.95))


def words_of(output: OutputRule, text: str) -> list[str]:
    """The words of the text that a rule of word labels labels; empty for other rules."""
    return text.split() if isinstance(output, WordLabels) else []


def _request(subject: Subject, row: Example) -> Request:
    """The request that the endpoint service and a worker's retrieval make of an event with the row's text."""
    instructions = [Part(kind="instruction", source="endpoint", text=text) for text in subject.instructions if text]
    return Request(
        id="row",
        namespace="training",
        endpoint="evaluation",
        endpoint_version=1,
        parts=[*instructions, *row.context, Part(kind="input", source="caller", text=row.text)],
        guidance=[],
        output=answering(subject.output),
        words=words_of(subject.output, row.text),
        generation=subject.generation,
        reply_to=[ReplyAddress(topic="none")],
        deadline_ms=None,
    )


def answer_labels(rule: OutputRule) -> list[str]:
    """The answers that the rule allows, if it lists them; else empty."""
    match rule:
        case Choice(labels):
            return list(labels)
        case Boolean(spelling):
            return spelling.split("/")
    return []


def _label_shares(logprobs: Logprobs | None, tokens: Sequence[int]) -> list[float]:
    if logprobs is None or not logprobs.first.keys() >= {*tokens}:
        return []
    return [logprobs.first[token] for token in tokens]


def _sample(end: Finished | Refused) -> Generated | None:
    """The sample whose value is used; if none is complete, the first."""
    if isinstance(end, Refused):
        return None
    return next((one for one in end.samples if one.failure is None), end.samples[0])


def _probabilities(rule: OutputRule, sample: Generated | None) -> dict[str, float]:
    """Label → probability as replies tell it; empty where they do not."""
    if sample is None or sample.probabilities is None or not isinstance(rule, Choice | Boolean):
        return {}
    return tempered(sample.probabilities, rule.label_temperature)


def _confidence(told: Mapping[str, float], sample: Generated | None) -> float | None:
    """The logarithm of the probability of the sample's text."""
    if sample is None or not told:
        return sample.logprobs.allowed if sample is not None and sample.logprobs is not None else None
    probability = told.get(sample.text, 0.0)
    return math.log(probability) if probability > 0 else -math.inf


def answering(rule: OutputRule) -> OutputRule:
    """The rule as it is evaluated: a doubtful answer counts as an answer, as a person would be shown it."""
    if isinstance(rule, Choice | Boolean):
        return msgspec.structs.replace(rule, min_confidence=None, below=None)
    return rule


_OF_THE_ROW: Final = frozenset({FailureCode.TEXT_TOO_LONG, FailureCode.OUTPUT_INCOMPLETE})


def _raise_common_failure(answers: Sequence[Answer], ends: Sequence[Finished | Refused]) -> None:
    """Raises Refusal if no row has an answer and the rows are not the cause: it would look like a bad score."""
    refused = [end for end in ends if isinstance(end, Refused) and end.code not in _OF_THE_ROW]
    if refused and len(refused) == len(answers):
        raise Refusal(refused[0].code, refused[0].message)
