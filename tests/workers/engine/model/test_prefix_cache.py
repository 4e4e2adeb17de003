"""What prompts begin with is computed once: by whom, for whom, and never for another namespace."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from tests.workers.engine.conftest import MakeAdmit, MakeArtefact, MakeEngine, ends, run

from guideway.schemas.output import Regex
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.guidance.resident import RowGuidance
from guideway.workers.engine.model.kv_cache import States
from guideway.workers.engine.model.prefix_cache import PrefixCache, shared_prefixes_of
from guideway.workers.engine.model.runner import Runner
from guideway.workers.engine.scheduling.chunks import StepPlan
from guideway.workers.engine.scheduling.row import SharedPrefix
from guideway.workers.engine.text.prompt import Prompt, PromptLayout, Span
from guideway.workers.messages.from_engine import Finished
from guideway.workers.messages.to_engine import Admit, Artefact

INSTRUCTION = "Answer with one word, as a clerk would."
ON, OFF = {"prefix_cache_bytes": 2**20}, {"prefix_cache_bytes": 0}


def artefact(**changes: Any) -> Artefact:
    return msgspec.structs.replace(Artefact(name="a/b@1", form="lora", digest="d", folder="f"), **changes)


def prompt(*ids: int, fixed: int = 20) -> Prompt:
    return Prompt([*range(fixed), *ids], [Span("instruction", "e", 2, fixed - 3), Span("input", "caller", fixed, 99)])


def prefixes(prompt: Prompt, *artefacts: Artefact, namespace: str = "a", samples: int = 1) -> list[SharedPrefix]:
    return shared_prefixes_of(prompt, namespace, artefacts, RowGuidance(), samples=samples)


def test_what_stands_before_the_input_is_the_head() -> None:
    (prefix,) = prefixes(prompt(7, 8))
    assert prefix.tokens == 20
    assert prefixes(prompt(9)) == [prefix]
    assert prefixes(prompt(7, 8, fixed=15)) == []
    without_input = Prompt(list(range(30)), [Span("instruction", "e", 0, 30)])
    assert prefixes(without_input)[0].tokens == 29


def test_a_key_covers_all_that_the_head_depends_on() -> None:
    two = [artefact(), artefact(digest="other")]
    others = [
        prefixes(prompt(7)),
        prefixes(prompt(7), namespace="b"),
        prefixes(prompt(7, fixed=21)),
        prefixes(prompt(7), *two),
        prefixes(prompt(7), *two[::-1]),
        *(prefixes(prompt(7), artefact(**change)) for change in ({"scale": 0.5}, {"form": "ia3"}, {"digest": "e"}, {})),
    ]
    assert len({found[0].key for found in others}) == len(others)
    assert prefixes(prompt(7), artefact(name="elsewhere", folder="g")) == prefixes(prompt(8), artefact())


def test_samples_share_the_whole_prompt_but_its_last_token() -> None:
    shared, whole = prefixes(prompt(7, 8, 9), samples=2)
    assert (shared.tokens, whole.tokens) == (20, 22)
    assert prefixes(prompt(7, 8, 1), samples=2)[1] == whole
    assert prefixes(prompt(7, 9, 1), samples=2)[1] != whole


def states(tokens: int) -> States:
    """320 bytes a token."""
    return [(torch.zeros(2, tokens, 10), torch.zeros(2, tokens, 10)) for _ in range(2)]


def test_heads_are_kept_by_least_recent_use() -> None:
    kept = PrefixCache(max_bytes=3200)
    for key in (b"a", b"b"):
        kept.keep(key, states(4), "a")
    assert kept.longest([SharedPrefix(b"a", 4)]) is not None
    kept.keep(b"c", states(5), "a")
    assert [key in kept for key in (b"a", b"b", b"c")] == [True, False, True]
    assert kept.nbytes == 9 * 320
    kept.keep(b"d", states(11), "a")
    assert b"d" not in kept
    assert kept.longest([SharedPrefix(b"a", 4), SharedPrefix(b"c", 5), SharedPrefix(b"d", 11)]) is kept.longest(
        [SharedPrefix(b"c", 5)]
    )
    for key in (b"a", b"c", b"c", b"z"):
        kept.drop(key)
    assert kept.nbytes == 0


def test_a_namespace_with_many_prefixes_pushes_out_its_own_and_not_what_others_use() -> None:
    now = [0.0]
    kept = PrefixCache(max_bytes=3200, clock=lambda: now[0])
    kept.keep(b"small", states(2), "b")
    for number in range(20):
        kept.keep(b"%d" % number, states(2), "a")
        assert b"small" in kept
    assert sum(b"%d" % number in kept for number in range(20)) == 4, "it has all the rest"
    kept.keep(b"large", states(5), "c")
    assert [key in kept for key in (b"small", b"large", b"19")] == [True, True, True]
    now[0] = 601.0
    kept.keep(b"later", states(2), "a")
    assert b"small" not in kept, "what nobody has used for so long goes first"
    assert b"later" in kept


@pytest.fixture
def taken_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that each step takes in."""
    counts: list[int] = []
    run_step = Runner.run

    def counting(runner: Runner, plan: StepPlan) -> Any:
        before = sum(row.cached_tokens for row in runner.rows)
        outcomes = run_step(runner, plan)
        counts.append(sum(row.cached_tokens for row in runner.rows) - before)
        return outcomes

    monkeypatch.setattr(Runner, "run", counting)
    return counts


@pytest.fixture
def of_each_kind(
    make_lora: MakeArtefact,
    make_ia3: MakeArtefact,
    make_prefix: MakeArtefact,
    make_soft_prompt: MakeArtefact,
    make_inserted_layer: MakeArtefact,
) -> list[list[Artefact]]:
    lora = make_lora("a/lora@1", target_modules="all-linear")
    each = [lora, make_ia3("a/ia3@1"), make_prefix("a/prefix@1"), make_soft_prompt("a/soft@1", num_virtual_tokens=20)]
    each.append(make_inserted_layer("a/inserted@1"))
    half = msgspec.structs.replace(lora, name="a/lora@1*0.5", scale=0.5)
    return [[], *([one] for one in each), [half], [make_lora("a/dora@1", use_dora=True)], each]


def test_rows_that_begin_alike_generate_what_they_generate_without_sharing(
    make_engine: MakeEngine, make_admit: MakeAdmit, of_each_kind: list[list[Artefact]]
) -> None:
    drawn: dict[str, Any] = {"samples": 2, "temperature": 1.0, "output": Regex("[a-z]{5,9}")}
    greedy: dict[str, Any] = {"instruction": INSTRUCTION, "namespace": "b"}
    admits = [
        make_admit(f"{i} {'x' * 7 * i}", artefacts=artefacts, **settings)
        for i in range(3)
        for artefacts in of_each_kind
        for settings in (greedy, {"instruction": INSTRUCTION, **drawn})
    ]
    alone = ends(run(make_engine(**OFF), admits))
    for settings in (ON, {"prefix_cache_bytes": 20_000}, {**ON, "max_step_tokens": 17, "max_rows": 5}):
        assert ends(run(make_engine(**settings), admits)) == alone


def prompt_tokens(engine: Engine, admit: Admit) -> int:
    return len(PromptLayout(engine._stopping._tokenizer).encode(admit.request.parts).token_ids)


@pytest.mark.parametrize("at_once", [True, False])
def test_the_head_of_an_endpoint_is_taken_in_once(
    make_engine: MakeEngine, make_admit: MakeAdmit, taken_in: list[int], at_once: bool
) -> None:
    engine = make_engine(**ON)
    admits = [make_admit(f"text {i}", instruction=INSTRUCTION, max_tokens=1) for i in range(4)]
    for some in [admits] if at_once else [[admit] for admit in admits]:
        run(engine, some)
    whole = prompt_tokens(engine, admits[0])
    assert taken_in[0] == whole
    assert sum(taken_in[1:]) == engine_tail(engine, admits[0]) * 3
    assert engine._statistics.reused_tokens == (whole - engine_tail(engine, admits[0])) * 3


def engine_tail(engine: Engine, admit: Admit) -> int:
    """Tokens from the input on."""
    prompt = PromptLayout(engine._stopping._tokenizer).encode(admit.request.parts)
    return len(prompt.token_ids) - prompt.fixed_tokens


def test_nothing_is_shared_between_namespaces(
    make_engine: MakeEngine, make_admit: MakeAdmit, taken_in: list[int], make_soft_prompt: MakeArtefact
) -> None:
    engine, public = make_engine(**ON), make_soft_prompt("public/soft@1", num_virtual_tokens=30)
    for namespace in "ab":
        run(engine, [make_admit("t", namespace=namespace, artefacts=[public], instruction=INSTRUCTION, max_tokens=1)])
    assert taken_in[0] == taken_in[1] > 30
    assert engine._statistics.reused_tokens == 0


@pytest.mark.parametrize("samples", [1, 2])
def test_who_calls_an_endpoint_of_others_does_not_learn_what_they_ask(
    make_engine: MakeEngine, make_admit: MakeAdmit, taken_in: list[int], samples: int
) -> None:
    """Of the same text to the same endpoint nothing is there for another caller: the time would tell it."""
    engine, text = make_engine(**ON), "What we plan to buy next year. " * 3
    for caller in ("a", "b", None):
        admit = make_admit(text, namespace="public", instruction=INSTRUCTION, samples=samples, max_tokens=1)
        before, reused = len(taken_in), engine._statistics.reused_tokens
        run(engine, [msgspec.structs.replace(admit, request=msgspec.structs.replace(admit.request, caller=caller))])
        # The samples of one request share its prompt, but its last token.
        whole = prompt_tokens(engine, admit)
        assert sum(taken_in[before:]) == whole + samples - 1
        assert engine._statistics.reused_tokens - reused == (samples - 1) * (whole - 1)


def test_samples_take_in_their_prompt_once(make_engine: MakeEngine, make_admit: MakeAdmit, taken_in: list[int]) -> None:
    engine = make_engine(max_rows=3, **ON)
    admit = make_admit("x" * 100, samples=8, temperature=1.0, max_tokens=1)
    end = ends(run(engine, [admit]))[admit.id]
    assert isinstance(end, Finished)
    assert end == ends(run(make_engine(**OFF), [admit]))[admit.id]
    assert taken_in[:4] == [end.prompt_tokens, 3, 3, 1]
    assert engine._prefix_cache.nbytes == 0


def test_the_next_row_takes_over_from_one_that_is_cancelled(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    engine = make_engine(max_step_tokens=9, **ON)
    admits = [make_admit(f"text {i}", instruction=INSTRUCTION) for i in range(3)]
    for admit in admits:
        engine.add(admit)
    messages = list(engine.step(1000.0))
    assert [row.id for row in engine._runner.rows] == [admits[0].id]
    engine.cancel(admits[0].id)
    messages += engine.step(1000.0)
    assert [row.id for row in engine._runner.rows] == [admits[1].id]
    found = ends(messages + run(engine))
    for admit in admits[1:]:
        assert ends(run(make_engine(**OFF), [admit]))[admit.id] == found[admit.id]
