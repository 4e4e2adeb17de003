"""Tokens that a grammar leaves no choice about take no steps of their own, and everything is as if they did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from tests.workers.engine.conftest import (
    MakeAdmit,
    MakeEngine,
    base_of,
    ends,
    merging_tokenizer,
    run,
    text_of,
    tiny_llama,
    tiny_tokenizer,
)

from guideway.schemas.failures import FailureCode
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, WordLabels
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.model import runner
from guideway.workers.engine.model.kv_cache import pages_for
from guideway.workers.engine.model.runner import Runner
from guideway.workers.engine.scheduling import stopping
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.scheduling.stopping import Stopping
from guideway.workers.engine.text.grammars import Grammars
from guideway.workers.messages.every_child import Refused
from guideway.workers.messages.from_engine import Finished, FromEngine, Pieces
from guideway.workers.messages.to_engine import Admit, EngineSettings

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "kind": {"enum": ["cat", "category", "dog"]},
        "fixed": {"const": "always the same é"},
        "age": {"type": "integer", "maximum": 120},
    },
    "required": ["name", "kind", "fixed", "age"],
    "additionalProperties": False,
}
WORDS = ["The", "Earth", "is", "(x)", "é"]


@pytest.fixture
def various(make_admit: MakeAdmit) -> list[Admit]:
    json: dict[str, Any] = {"output": Json(SCHEMA), "max_tokens": 200}
    words: dict[str, Any] = {"output": WordLabels(["A", "AB", "C"]), "words": WORDS, "max_tokens": 200}
    found = [
        make_admit("json", **json),
        make_admit("json, drawn", **json, temperature=1.0, samples=3, seed=1),
        make_admit("json, few tokens", output=Json(SCHEMA), max_tokens=17),
        make_admit("json, stopped", **json, stop=["fix"]),
        make_admit("words", **words),
        make_admit("words, drawn", **words, temperature=1.5, top_p=0.9, samples=2),
        make_admit("words, stopped", **words, stop=["Earth"]),
        make_admit("one label", output=Choice(["only this"]), max_tokens=20),
        make_admit("const", output=Json({"const": [1, "two", 3]}), max_tokens=60),
        make_admit("const, few tokens", output=Json({"const": [1, "two", 3]}), max_tokens=4),
        make_admit("common beginning", output=Choice(["the one", "the other", "the oth"]), max_tokens=20),
        make_admit("told", output=Choice(["the one", "the other", "the oth"], probabilities=True), max_tokens=20),
        make_admit(
            "told, drawn",
            output=Choice(["the one", "the other", "the oth"], probabilities=True),
            max_tokens=20,
            temperature=2.0,
            samples=2,
        ),
        make_admit("one told", output=Choice(["only this"], probabilities=True), max_tokens=20),
        make_admit(
            "one told, drawn",
            output=Choice(["only this"], probabilities=True),
            max_tokens=20,
            temperature=1.0,
            samples=2,
        ),
        make_admit("yes?", output=Boolean("true/false")),
        make_admit("number", output=Number(decimals=2), max_tokens=20),
        make_admit("regex", output=Regex("[a-z]{2} the same, and [0-9]{2} more"), max_tokens=60),
        make_admit("free"),
        make_admit("free, drawn", temperature=1.0),
    ]
    biased = {"the one": 0.5, "the other": -0.5, "the oth": 0.0}
    asked = make_admit("biased", output=Choice([*biased]), max_tokens=20)
    found.append(msgspec.structs.replace(asked, biases=biased, partings=True))
    return [*found, msgspec.structs.replace(make_admit("scored", **json), logprobs=True)]


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From here on, each token is asked for."""

    def one_by_one() -> None:
        monkeypatch.setattr(Stopping, "_follow", lambda stopping, row: 0)
        monkeypatch.setattr(Stopping, "begin", lambda stopping, row, rows: 0)
        monkeypatch.setattr(Stopping, "_draft", lambda stopping, row, rows: ())

    return one_by_one


def taken_apart(found: dict[str, Finished | Refused]) -> tuple[Any, list[float]]:
    """All but the numbers with a fraction, and these."""
    numbers: list[float] = []

    def without(value: Any) -> Any:
        match value:
            case float():
                numbers.append(value)
                return None
            case dict():
                return {key: without(content) for key, content in value.items()}
            case list():
                return [*map(without, value)]
        return value

    return without({id_: msgspec.to_builtins(found[id_]) for id_ in sorted(found)}), numbers


@pytest.mark.parametrize(
    "settings",
    [
        {"max_rows": 32},
        {"max_rows": 3},
        {"max_rows": 32, "max_step_tokens": 1},
        {"max_rows": 32, "max_step_tokens": 7},
        {"max_rows": 32, "kv_bytes": 512 * 300},
    ],
    ids=str,
)
def test_everything_is_as_token_by_token(
    settings: dict[str, Any], make_engine: MakeEngine, various: list[Admit], one_by_one: Callable[[], None]
) -> None:
    engine = make_engine(**settings)
    found = ends(run(engine, various))
    one_by_one()
    plain = make_engine(max_rows=32)
    expected = ends(run(plain, various))
    assert taken_apart(found)[0] == taken_apart(expected)[0]
    # Probabilities are those of other products of the same numbers.
    assert taken_apart(found)[1] == pytest.approx(taken_apart(expected)[1], rel=1e-4)
    assert engine._statistics.forced_tokens > 200
    assert plain._statistics.forced_tokens < 10, "only the way through labels, which is the same in both"
    if "kv_bytes" in settings:
        assert engine._statistics.preempted > 0
    else:
        assert engine._statistics.output_tokens == plain._statistics.output_tokens


MERGED = ('":', '":"', '","', '""', '":-', "12")
"""A tokenizer with these may divide the same characters in several ways, by what comes after them."""
DIVIDED = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 3},
        "age": {"type": "integer", "maximum": 12},
        "no": {"type": "string", "maxLength": 2},
    },
    "required": ["name", "age", "no"],
    "additionalProperties": False,
}
NESTED = {
    "type": "object",
    "properties": {
        "who": {
            "type": "object",
            "properties": {"of": {"type": "string", "maxLength": 5}, "in": {"type": "number"}},
            "required": ["of", "in"],
            "additionalProperties": False,
        },
        "many": {"type": "array", "items": {"type": "string", "maxLength": 2}, "minItems": 1, "maxItems": 3},
        "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"const": "z"}], "items": False, "minItems": 2},
        "maybe": {"type": "integer", "maximum": 12},
        "last": {"type": "string", "maxLength": 2},
    },
    "required": ["who", "many", "pair", "last"],
    "additionalProperties": False,
}
"""Values that end in several ways, and values after whose end much is certain."""


@pytest.fixture
def divided(make_admit: MakeAdmit) -> list[Admit]:
    """Texts whose characters come in any case, and whose tokens do not."""
    json: dict[str, Any] = {"output": Json(DIVIDED), "max_tokens": 80}
    return [
        *(make_admit(f"json {i}", **json) for i in range(6)),
        *(make_admit(f"drawn {i}", **json, temperature=1.0 + i, samples=3, seed=i) for i in range(4)),
        make_admit("nucleus", **json, temperature=2.0, top_p=0.7, samples=3),
        *(make_admit(f"short {i}", output=Json(DIVIDED), max_tokens=most) for i, most in enumerate(range(3, 20))),
        make_admit("stopped", **json, stop=['":"']),
        *(make_admit(f"nested {i}", output=Json(NESTED), max_tokens=150, temperature=i / 2, seed=i) for i in range(5)),
        make_admit(
            "nested, stopped", output=Json(NESTED), max_tokens=150, temperature=1.0, samples=3, stop=['},"', "9"]
        ),
        msgspec.structs.replace(make_admit("scored", **json), logprobs=True),
        make_admit("words", output=WordLabels(["A", "AB"]), words=WORDS, max_tokens=60, temperature=1.0),
        make_admit("told", output=Choice(["the one", "the oth"], probabilities=True), max_tokens=20),
        make_admit("pattern", output=Regex('[a-z]{2}":"[a-z"]{3}'), max_tokens=30, temperature=1.0, samples=4),
        *(make_admit(f"free {i}", max_tokens=100) for i in range(4)),
    ]


@pytest.mark.parametrize("worth", [None, 1e9], ids=["drafts that pay", "all drafts"])
@pytest.mark.parametrize(
    "settings",
    [
        {"max_rows": 64},
        {"max_rows": 3},
        {"max_rows": 64, "max_step_tokens": 1},
        {"max_rows": 64, "max_step_tokens": 7},
        {"max_rows": 64, "kv_bytes": 512 * 300},
    ],
    ids=str,
)
def test_drafts_change_nothing_but_the_number_of_steps(
    settings: dict[str, Any],
    worth: float | None,
    divided: list[Admit],
    kernels: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if worth:
        monkeypatch.setattr(stopping, "tokens_of_a_step", lambda rows: worth)
    merging = tiny_tokenizer(*MERGED)

    def engine() -> Engine:
        base = base_of(tiny_llama(merging, seed=3), merging)
        own = EngineSettings(reader_threads=0, preparer_threads=0, **settings)
        return Engine(base, own, max_context_tokens=512)

    drafting, plain = engine(), engine()
    taken: list[int] = []
    asked = Counter[Stopping]()
    accept_all = Stopping.accept_all

    def noting(owner: Stopping, row: Row, token_ids: list[int], rows: int) -> tuple[int, int]:
        asked[owner] += 1
        if row.draft:
            taken.append(len(token_ids))
        return accept_all(owner, row, token_ids, rows)

    monkeypatch.setattr(Stopping, "accept_all", noting)
    found = ends(run(drafting, divided))
    monkeypatch.setattr(Stopping, "_draft", lambda stopping, row, rows: ())
    expected = ends(run(plain, divided))
    assert taken_apart(found)[0] == taken_apart(expected)[0]
    # Probabilities are those of other products of the same numbers.
    assert taken_apart(found)[1] == pytest.approx(taken_apart(expected)[1], rel=1e-4)
    assert {1, 2} <= {*taken}, "some come true, and some do not"
    assert not worth or max(taken) > 3, "an end comes true with what is certain after it"
    if "kv_bytes" in settings:
        assert drafting._statistics.preempted > 0
    assert drafting._statistics.output_tokens == plain._statistics.output_tokens or "kv_bytes" in settings
    assert asked[drafting._stopping] < asked[plain._stopping]
    assert drafting._scheduler.running == drafting._scheduler.waiting == 0


@pytest.mark.parametrize("most_tokens", [24, 40])
def test_a_draft_that_comes_true_in_part_leaves_no_more_than_the_row_has(
    most_tokens: int, kernels: object, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its first token is chosen, others may be forced that are divided in another way."""
    merging = merging_tokenizer(("d", "q"), ("b", "d"), ("c", "b"), ("a", "cb"), ("acb", "dq"))
    output = Regex("[mn]acbd[qz][a-z]{4}acbd[qz][a-z]{4}")
    admits = [
        make_admit(f"x {i}", namespace="ab"[i % 2], output=output, max_tokens=40, temperature=1.0, seed=i)
        for i in range(12)
    ]
    settings = EngineSettings(reader_threads=0, preparer_threads=0, max_rows=16, max_step_tokens=most_tokens)
    drafting, plain = (
        Engine(base_of(tiny_llama(merging, seed=3), merging), settings, max_context_tokens=512) for _ in range(2)
    )
    found = ends(run(drafting, admits))
    monkeypatch.setattr(Stopping, "_draft", lambda stopping, row, rows: ())
    assert taken_apart(found) == taken_apart(ends(run(plain, admits)))


def test_a_person_in_json_takes_few_steps(kernels: object, make_admit: MakeAdmit) -> None:
    """Where the model divides characters as its tokenizer does, it is asked for what it chooses alone."""
    merging = tiny_tokenizer(*MERGED)
    base = base_of(tiny_llama(merging), merging)
    engine = Engine(base, EngineSettings(reader_threads=0, preparer_threads=0), max_context_tokens=512)
    grammars = engine._admission._preparation._grammars
    grammar = grammars.start(Json(DIVIDED), [])
    assert grammar is not None
    for token in grammar.forced:
        grammar.accept(token)
    assert merging.decode(grammar.draft(1.0)) == '":"'
    ahead = grammar.ahead(*grammar.draft(1.0))
    assert grammar.draft(1.0), "it has not moved"
    assert not ahead.draft(1.0)


def test_the_next_texts_take_fewer_steps(
    kernels: object, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a value ended before, its end is drafted with what is certain after it."""
    merging = tiny_tokenizer(*MERGED)
    settings = EngineSettings(reader_threads=0, preparer_threads=0)
    engine = Engine(base_of(tiny_llama(merging, seed=3), merging), settings, max_context_tokens=512)

    def asked() -> tuple[int, list[str]]:
        before = engine._statistics.steps
        json: dict[str, Any] = {"output": Json(NESTED), "max_tokens": 150, "temperature": 0.5}
        texts = [text_of(*ends(run(engine, [make_admit(**json, seed=seed)])).values()) for seed in range(8)]
        return engine._statistics.steps - before, texts

    found = [asked() for _ in range(3)]
    monkeypatch.setattr(Stopping, "_draft", lambda stopping, row, rows: ())
    steps, texts = asked()
    assert all(others == texts for _, others in found)
    assert found[2][0] < found[0][0] < steps


def test_a_value_that_does_not_end_is_soon_not_drafted_for(kernels: object) -> None:
    merging = tiny_tokenizer(*MERGED)
    grammars = Grammars(merging, vocabulary=len(merging), eos_ids=[])
    member = {"type": "string"}
    schema = {"type": "object", "properties": {"name": member, "age": member}, "required": ["name", "age"]}

    def drafted(text: str) -> int:
        grammar = grammars.start(Json(schema), [])
        assert grammar is not None
        for token in merging.encode('{"name":"', add_special_tokens=False):
            grammar.accept(token)
        tokens = 0
        for token in merging.encode(text, add_special_tokens=False):
            tokens += len(grammar.draft(21.0))
            grammar.accept(token)
        return tokens

    assert not drafted("x" * 20), "how the model divides an end was not seen yet"
    drafted('x","')
    assert 0 < drafted("x" * 100) < 100
    found = [drafted("x" * 100) for _ in range(5)]
    assert not found[-1]


@pytest.mark.parametrize(("chars", "is_drafted"), [(1, True), (300, False)])
def test_others_do_not_wait_for_a_long_draft(chars: int, is_drafted: bool) -> None:
    merging = tiny_tokenizer(*MERGED)
    members = {"a": {"type": "string"}, "b": {"const": "x" * chars}, "c": {"type": "string"}}
    schema = {"type": "object", "properties": members, "required": ["a", "b", "c"]}
    grammars = Grammars(merging, vocabulary=len(merging), eos_ids=[])
    for text in ('{"a":"y","b":', '{"a":"y'):
        grammar = grammars.start(Json(schema), [])
        assert grammar is not None
        for token in merging.encode(text, add_special_tokens=False):
            grammar.draft(1e9)
            grammar.accept(token)
    assert grammar is not None
    drafted = grammar.draft(1e9)
    assert bool(drafted) is is_drafted
    assert not drafted or merging.decode(drafted) == '","b":"x","c":"'


@pytest.mark.parametrize(
    ("output", "words", "share"),
    [(WordLabels(["A", "B"]), WORDS, 0.45), (Json(SCHEMA), [], 0.45), (Choice(["only this"]), [], 0.0)],
    ids=["words", "json", "one label"],
)
def test_forced_tokens_take_no_steps(
    output: OutputRule,
    words: list[str],
    share: float,
    make_engine: MakeEngine,
    make_admit: MakeAdmit,
    one_by_one: Callable[[], None],
) -> None:
    admit = make_admit(output=output, words=words, max_tokens=200)
    engine = make_engine()
    run(engine, [admit])
    one_by_one()
    plain = make_engine()
    run(plain, [admit])
    assert engine._statistics.steps <= share * plain._statistics.steps


def test_what_is_forced_streams_and_is_told_once(make_engine: MakeEngine, various: list[Admit]) -> None:
    engine = make_engine(max_rows=32)
    messages: list[FromEngine] = []
    for admit in various:
        engine.add(msgspec.structs.replace(admit, partial=True))
    while engine.has_work:
        messages += engine.step(1000.0 + 0.06 * len(messages))
    told: dict[tuple[str, int], str] = {}
    for message in messages:
        if isinstance(message, Pieces):
            for piece in message.pieces:
                told[piece.id, piece.sample] = told.get((piece.id, piece.sample), "") + (piece.text or "")
    for id_, end in ends(messages).items():
        if isinstance(end, Finished):
            for sample, one in enumerate(end.samples):
                assert one.failure is not None or told.get((id_, sample), "") == one.text


def test_other_rows_do_not_wait_for_a_long_forced_text(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    """It is taken in as a prompt is: by pieces beside others."""
    engine = make_engine(max_step_tokens=32, max_rows=4)
    long = make_admit("long", output=Regex(f"[ab]{'x' * 300}[ab]"), max_tokens=400, namespace="law")
    short = make_admit("short", max_tokens=60)
    for admit in (long, short):
        engine.add(admit)
    most = 0
    while engine.has_work:
        before = {row: row.cached_tokens for row in engine._runner.rows}
        engine.step(1000.0)
        most = max(most, *(row.cached_tokens - before.get(row, row.cached_tokens) for row in engine._runner.rows), 0)
    assert 0 < most <= 32


def test_a_row_that_begins_with_more_than_there_is_room_for_waits(
    make_engine: MakeEngine, make_admit: MakeAdmit
) -> None:
    """It is admitted by its prompt, and then has 180 tokens at once."""
    engine = make_engine(max_rows=8, kv_bytes=512 * 400)
    admits = [make_admit(id=char, output=Regex(f"{char * 180}[ab]{{2}}"), max_tokens=200) for char in "xyz"]
    found = ends(run(engine, [make_admit("x" * 100, id="free", max_tokens=150), *admits]))
    assert [text_of(found[f"attempt-{char}"])[:180] for char in "xyz"] == [char * 180 for char in "xyz"]
    assert isinstance(found["attempt-free"], Finished)
    assert engine._statistics.preempted > 0
    assert engine._scheduler.running == engine._scheduler.waiting == 0


def test_forced_tokens_count_for_their_namespace(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    engine = make_engine()
    charged: dict[str, int] = {}
    charge = engine._scheduler._waiting.charge

    def noting(row: Row, tokens: int) -> None:
        charged[row.id] = charged.get(row.id, 0) + tokens
        charge(row, tokens)

    engine._scheduler._waiting.charge = noting  # type: ignore[method-assign]
    (end,) = ends(run(engine, [make_admit(output=Json(SCHEMA), max_tokens=200)])).values()
    assert isinstance(end, Finished)
    # The end of the text is known without a step; its first token comes with the prompt.
    assert end.prompt_tokens + end.output_tokens - 2 <= charged[end.id] <= end.prompt_tokens + end.output_tokens


def test_a_text_that_a_rule_gives_alone_needs_no_model(
    make_engine: MakeEngine, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Engine = make_engine()
    monkeypatch.setattr(type(engine._runner), "run", lambda *_: pytest.fail("the model runs"))
    admit = make_admit(output=Json({"const": "é"}), max_tokens=30, samples=2)
    (end,) = ends(run(engine, [admit])).values()
    assert text_of(end) == '"é"'
    assert engine._scheduler.running == engine._scheduler.waiting == 0


def test_a_forced_text_that_is_too_long_is_refused_as_before(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    (end,) = ends(run(make_engine(), [make_admit(output=Json({"const": "x" * 50}), max_tokens=5)])).values()
    assert isinstance(end, Finished)
    assert end.samples[0].failure is not None
    assert end.samples[0].failure.code is FailureCode.OUTPUT_INCOMPLETE
    assert end.output_tokens == 5


@pytest.mark.parametrize("is_ragged", [True, False])
@pytest.mark.parametrize("pages", [12, 16, 20])
def test_tokens_that_were_taken_back_hold_no_room(
    is_ragged: bool, pages: int, make_engine: MakeEngine, make_admit: MakeAdmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A way through long labels is taken back. The rows of others are admitted to that room, and have to find it."""
    if not is_ragged:
        monkeypatch.setattr(runner, "use_fast_layers", lambda model: {})
    engine = make_engine(max_rows=32, kv_bytes=512 * 16 * pages)
    labels = [*("a" + c for c in "12"), *("b" * 100 + c for c in "12")]
    told = [make_admit("y" * i, output=Choice(labels, probabilities=True), max_tokens=110) for i in range(6)]
    free = [make_admit("x" * i, max_tokens=40, namespace="other") for i in range(16)]
    arrange = Runner._arrange

    def checking(runner: Runner, groups: Sequence[Sequence[Row]]) -> None:
        held = [len(pages) for pages in runner._kv._held[: len(runner.rows)]]
        assert held == [pages_for(row.total_tokens + len(row.draft) + 1) for row in runner.rows]
        arrange(runner, groups)

    monkeypatch.setattr(Runner, "_arrange", checking)
    found = ends(run(engine, [*told, *free]))
    assert [end for end in found.values() if isinstance(end, Refused)] == []
    assert engine._runner._kv.is_empty
