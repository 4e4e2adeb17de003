"""What is made of requests beside the steps: in fair order, within bounds, and each fault its own request's."""

from __future__ import annotations

import base64
import os
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run, text_of, tiny_tokenizer
from tokenizers import Regex as Pattern
from tokenizers import normalizers

from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Choice, Json, OutputRule, Regex, WordLabels
from guideway.schemas.request import Part
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.scheduling.preparation import Turns
from guideway.workers.engine.text import grammar_trial
from guideway.workers.engine.text import grammars as grammars_module
from guideway.workers.engine.text.aside import LOW_PRIORITY, lower
from guideway.workers.engine.text.grammar_trial import GrammarTrial
from guideway.workers.engine.text.grammars import Grammars
from guideway.workers.engine.text.guarded_tokenizer import GuardedTokenizer
from guideway.workers.engine.text.json_grammar import json_source
from guideway.workers.engine.text.prompt import Prompt, PromptLayout
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished, FromEngine
from guideway.workers.messages.to_engine import Admit

PATTERNS = [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}"} for i in range(20)]
ENDLESS = Json({"allOf": PATTERNS})
"""To find out whether these have a text in common takes llguidance time that doubles with each."""


class Gate:
    """Holds up the preparation of texts with `slow` in them until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.reached = threading.Event()
        encode = PromptLayout.encode

        def held(layout: PromptLayout, parts: Sequence[object], **settings: object) -> Prompt:
            if "slow" in str(parts):
                self.reached.set()
                assert self.opened.wait(60)
            return encode(layout, parts, **settings)  # type: ignore[arg-type]

        monkeypatch.setattr(PromptLayout, "encode", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.opened.set()


def steps_until(engine: Engine, id_: str, now: float = 1000.0) -> list[FromEngine]:
    """Messages until the one that ends this request."""
    messages: list[FromEngine] = []
    for _ in range(5000):
        messages += engine.step(now)
        if id_ in ends(messages):
            return messages
    raise AssertionError("it does not end")


def test_rows_go_on_while_a_text_is_prepared(make_engine: MakeEngine, make_admit: MakeAdmit, gate: Gate) -> None:
    """Of others, and of whoever comes meanwhile."""
    engine = make_engine(preparer_threads=2)
    slow, before, after = make_admit("slow"), make_admit("a", namespace="b"), make_admit("c", namespace="c")
    for admit in (before, slow):
        engine.add(admit)
    assert gate.reached.wait(60)
    messages = steps_until(engine, before.id)
    engine.add(after)
    messages += steps_until(engine, after.id)
    assert slow.id not in ends(messages)
    gate.opened.set()
    assert text_of(ends(steps_until(engine, slow.id))[slow.id])


def test_a_namespace_is_held_up_by_its_own_alone(make_engine: MakeEngine, make_admit: MakeAdmit, gate: Gate) -> None:
    engine = make_engine(preparer_threads=2)
    hundred = [make_admit("slow", namespace="a", max_tokens=1) for _ in range(100)]
    other = make_admit("quick", namespace="b")
    for admit in [*hundred, other]:
        engine.add(admit)
    messages = steps_until(engine, other.id)
    assert list(ends(messages)) == [other.id]
    gate.opened.set()
    assert len(ends(run(engine))) == 100


def test_guidance_of_requests_that_wait_to_be_prepared_is_not_in_memory(
    make_engine: MakeEngine, make_admit: MakeAdmit, make_lora: MakeArtefact, gate: Gate
) -> None:
    """They are its namespace's own, and what is held for them would be beyond every budget."""
    engine = make_engine(preparer_threads=2, guidance_bytes=1)
    many = [make_admit("slow", artefacts=[make_lora(f"weather/a{i}@1")], max_tokens=1) for i in range(6)]
    for admit in many:
        engine.add(admit)
    assert gate.reached.wait(60)
    engine.step(1000.0)
    assert engine._guidance.nbytes == 0
    assert engine._ahead.digests == set()
    gate.opened.set()
    assert not any(isinstance(end, Refused) for end in ends(run_for_real(engine, [])).values())


def test_a_thread_that_waits_for_a_long_call_lets_others_work(
    make_engine: MakeEngine, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More namespaces have long grammars than there are threads, and one asks something short."""
    opened, reached = threading.Event(), threading.Semaphore(0)
    compiled = Grammars._compiled

    def held(grammars: Grammars, *others: Any) -> Any:
        reached.release()
        assert opened.wait(60)
        return compiled(grammars, *others)

    monkeypatch.setattr(Grammars, "_compiled", held)
    engine = make_engine(preparer_threads=1)
    long = [make_admit(output=Regex(f"[a-{char}]{{3}}"), namespace=char) for char in "bcd"]
    short = make_admit("short", namespace="z")
    for admit in (*long, short):
        engine.add(admit)
    assert reached.acquire(timeout=60)
    assert list(ends(steps_until(engine, short.id))) == [short.id]
    opened.set()
    found = ends(run(engine))
    assert [len(text_of(found[admit.id])) for admit in long] == [3, 3, 3]


def test_what_is_prepared_is_cancelled_and_expires(make_engine: MakeEngine, make_admit: MakeAdmit, gate: Gate) -> None:
    engine = make_engine(preparer_threads=1)
    late, cancelled = make_admit("slow", deadline_ms=1_000_500), make_admit("slow", namespace="b")
    queued = make_admit("slow", namespace="c")
    for admit in (late, cancelled, queued):
        engine.add(admit)
    assert engine.has_work
    assert ends(engine.step(1000.0)) == {}
    engine.cancel(cancelled.id)
    engine.cancel(queued.id)
    found = ends(engine.step(1001.0))
    codes = {id_: end.code for id_, end in found.items() if isinstance(end, Refused)}
    assert codes == {
        cancelled.id: FailureCode.CANCELLED,
        queued.id: FailureCode.CANCELLED,
        late.id: FailureCode.DEADLINE_EXCEEDED,
    }
    assert not engine.has_work


def test_what_goes_wrong_in_preparation_is_its_own_requests(
    make_engine: MakeEngine, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        """As Rust raises it."""

    encode = PromptLayout.encode

    def panics(layout: PromptLayout, parts: Sequence[object], **settings: object) -> Prompt:
        if "panic" in str(parts):
            raise Panic
        return encode(layout, parts, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(PromptLayout, "encode", panics)
    engine = make_engine(preparer_threads=2)
    bad, good = make_admit("panic"), make_admit("good")
    found = ends(run(engine, [bad, good]))
    end = found[bad.id]
    assert isinstance(end, Refused)
    assert end.code is FailureCode.INTERNAL_ERROR
    assert text_of(found[good.id])


def test_namespaces_take_turns_and_none_is_in_work_twice() -> None:
    turns: Turns[str] = Turns()
    for name, namespace in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c")]:
        turns.add(name, "interactive", namespace)
    assert [turns.take(), turns.take()] == ["a1", "b1"]
    turns.release("a")
    assert [turns.take(), turns.take(), turns.take()] == ["c1", "a2", None]
    turns.release("a")
    turns.add("b2", "interactive", "b")
    turns.release("b")
    assert [turns.take(), turns.take(), turns.take()] == ["a3", "b2", None]


def test_the_batch_lane_gets_one_in_eight() -> None:
    turns: Turns[str] = Turns()
    for i in range(20):
        turns.add(f"i{i}", "interactive", "a")
        turns.add(f"b{i}", "batch", "z")
    taken = []
    for _ in range(16):
        taken.append(turns.take())
        turns.release("a")
        turns.release("z")
    assert [place for place, name in enumerate(taken) if str(name).startswith("b")] == [7, 15]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The characters of each text that is tokenised."""
    found: list[int] = []
    encode_all = GuardedTokenizer.encode_all

    def counted(guarded: GuardedTokenizer, texts: Sequence[str]) -> object:
        found.extend(len(text) for text in texts)
        return encode_all(guarded, texts)

    monkeypatch.setattr(GuardedTokenizer, "encode_all", counted)
    return found


BASE64 = base64.b64encode(random.Random(3).randbytes(525_000)).decode()


@pytest.mark.parametrize("text", [BASE64, "a" * 700_000, "\U0001f600" * 200_000, "long " * 140_000, "#" * 700_000])
def test_a_hopeless_text_is_refused_at_the_sight_of_its_beginning(
    engine: Engine, make_admit: MakeAdmit, encoded: list[int], text: str
) -> None:
    admit = make_admit(text, instruction="Be brief.")
    encoded.clear()
    end = ends(run(engine, [admit]))[admit.id]
    assert isinstance(end, Refused)
    assert end.code is FailureCode.TEXT_TOO_LONG
    assert f"shorten the input (caller), which has {len(text)} characters" in end.message
    assert sum(encoded) < 10_000


def test_a_long_text_of_few_tokens_is_taken(tiny_merging: PromptLayout) -> None:
    """A tokenizer may make one token of any number of spaces: only the tokens count."""
    text = " " * 100_000
    parts = [Part(kind="input", source="caller", text=text)]
    assert len(tiny_merging.encode(parts, limit=64).token_ids) < 64


@pytest.fixture
def tiny_merging() -> PromptLayout:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Pattern(" +"), " ")
    return PromptLayout(tokenizer)


@pytest.mark.parametrize(
    ("rule", "words", "code", "says"),
    [
        (WordLabels(["N"]), ["w"] * 5, FailureCode.TEXT_TOO_LONG, "5 words and their labels are at least 10 tokens"),
        (WordLabels(["N"]), ["word"] * 3, FailureCode.TEXT_TOO_LONG, "3 words and their labels are at least"),
        (Choice(["no idea at all", "certainly"]), [], FailureCode.OUTPUT_INCOMPLETE, "max_tokens is 8: raise it"),
    ],
    ids=str,
)
def test_what_cannot_come_to_its_end_is_not_begun(
    engine: Engine, make_admit: MakeAdmit, rule: OutputRule, words: list[str], code: FailureCode, says: str
) -> None:
    admit = make_admit(output=rule, words=words, max_tokens=8)
    end = ends(run(engine, [admit]))[admit.id]
    assert isinstance(end, Refused)
    assert end.code is code
    assert says in end.message


def test_many_words_are_refused_before_they_are_looked_at(
    engine: Engine, make_admit: MakeAdmit, encoded: list[int]
) -> None:
    admit = make_admit(output=WordLabels(["N"]), words=["word"] * 100_000, max_tokens=32)
    encoded.clear()
    end = ends(run(engine, [admit]))[admit.id]
    assert isinstance(end, Refused)
    assert end.code is FailureCode.TEXT_TOO_LONG
    assert encoded == []


def test_a_grammar_that_takes_too_long_is_refused_and_not_tried_again(
    engine: Engine, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    compiles = GrammarTrial.compiles

    def counted(trial: GrammarTrial, source: str) -> bool:
        tried.append(source)
        return compiles(trial, source)

    monkeypatch.setattr(GrammarTrial, "compiles", counted)
    admits = [make_admit(output=ENDLESS), make_admit(output=ENDLESS), make_admit(output=Regex("[a-z]{3}"))]
    found = ends(run(engine, admits))
    for admit in admits[:2]:
        end = found[admit.id]
        assert isinstance(end, Refused)
        assert end.code is FailureCode.OUTPUT_UNSATISFIABLE
        assert "takes too long" in end.message
    assert text_of(found[admits[2].id])
    assert len(tried) == 2


def test_compiled_grammars_are_kept_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    grammars = Grammars(tokenizer, vocabulary=300, eos_ids={tokenizer.eos_token_id}, max_bytes=30_000)
    made: list[object] = []
    make = Grammars._made

    def counted(self: Grammars, rule: OutputRule, words: Sequence[str], biases: Mapping[str, float] | None) -> object:
        made.append(rule)
        return make(self, rule, words, biases)

    monkeypatch.setattr(grammars_module.Grammars, "_made", counted)
    small, large = Choice(["yes", "no"]), Choice([f"{i:0100}" for i in range(100)])
    for rule in (small, small, large, small, large):
        grammars.start(rule, [])
    assert made == [small, large, large], "one that is too large is kept by nobody, and puts nobody out"
    middle = [Choice([f"{i:050}{j}" for i in range(10)]) for j in range(3)]
    for rule in (*middle, middle[2], middle[0]):
        grammars.start(rule, [])
    assert made[3:] == [*middle, middle[0]], "the one that was used longest ago went"


def test_a_refusal_says_so_again(make_admit: MakeAdmit, engine: Engine) -> None:
    admits = [make_admit(output=Regex("(a")) for _ in range(2)]
    first, second = (ends(run(engine, [admit]))[admit.id] for admit in admits)
    assert isinstance(first, Refused)
    assert isinstance(second, Refused)
    assert first.message == second.message


def test_the_trial_goes_on_after_one_that_did_not_end() -> None:
    trial = GrammarTrial()
    source = json_source(ENDLESS.schema)
    assert not trial.compiles(source)
    assert trial.compiles(json_source({"type": "string"}))
    assert trial.compiles("no grammar at all")


def test_a_long_trial_has_a_low_priority_and_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    trial, lowered = GrammarTrial(), threading.Event()
    found: list[int] = []

    def noting(id_: int) -> None:
        lower(id_)
        found.append(os.getpriority(os.PRIO_PROCESS, id_))
        lowered.set()

    monkeypatch.setattr(grammar_trial, "lower", noting)
    with ThreadPoolExecutor(1) as thread:
        long = thread.submit(trial.compiles, json_source(ENDLESS.schema))
        assert lowered.wait(60)
        assert trial.compiles(json_source({"type": "string"}))
        assert not long.done()
        assert not long.result()
    assert min(found) >= LOW_PRIORITY
    assert trial.compiles(json_source({"type": "integer"}))


def test_trials_beside_steps_have_a_low_priority_from_their_start(
    monkeypatch: pytest.MonkeyPatch, make_engine: MakeEngine, make_admit: MakeAdmit
) -> None:
    """Else the first milliseconds of each, and the start of a process, take a core from the threads of a step."""
    grammar_trial.grammar_trial.cache_clear()
    found: list[int] = []

    def noting(id_: int) -> None:
        lower(id_)
        found.append(os.getpriority(os.PRIO_PROCESS, id_))

    monkeypatch.setattr(grammar_trial, "lower", noting)
    admit = make_admit(output=Regex("[a-z]{4}"))
    assert isinstance(ends(run_for_real(make_engine(preparer_threads=2), [admit]))[admit.id], Finished)
    assert found
    assert min(found) >= LOW_PRIORITY


def test_a_grammar_that_took_long_and_compiles_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests are checked alone in a thread, and with others where everybody waits: the second time costs nothing."""
    monkeypatch.setattr(grammar_trial, "_AT_ONCE_S", 0.0)
    trial, source = GrammarTrial(), json_source({"type": "string"})
    assert trial.compiles(source)
    monkeypatch.setattr(grammar_trial, "_Process", None)
    assert trial.compiles(source)


def test_namespaces_whose_grammars_take_long_hold_up_no_other(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    """More of them than may compute: each waits for itself alone."""
    slow = [
        make_admit(namespace=f"slow{i}", output=Json({"title": str(i), "allOf": PATTERNS[: 20 - i]})) for i in range(5)
    ]
    quick = make_admit(namespace="quick", output=Choice(["yes", "no"]))
    *_, last = found = [*ends(run_for_real(make_engine(preparer_threads=2), [*slow, quick])).values()]
    assert found[0].id == quick.id
    assert isinstance(last, Refused)
    assert all("takes too long" in end.message for end in found if isinstance(end, Refused))
    assert len(found) == 6


def run_for_real(engine: Engine, admits: Sequence[Admit]) -> list[FromEngine]:
    """All messages, by steps as many as it takes."""
    for admit in admits:
        engine.add(admit)
    messages: list[FromEngine] = []
    while engine.has_work:
        messages += engine.step(1000.0)
    return messages
