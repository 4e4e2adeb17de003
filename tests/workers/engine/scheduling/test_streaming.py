"""Texts told while they are made: the pieces are the text, none is taken back, and none comes too often."""

from __future__ import annotations

import codecs
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from tests.workers.engine.conftest import MakeAdmit, MakeEngine, ends, run
from tests.workers.engine.scheduling.test_stopping import grammars_of, stopping_of
from tests.workers.tokenizers import FAMILIES, tokenizer_of

from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.workers.engine.engine import Engine
from guideway.workers.engine.scheduling.row import Row, RowStatus
from guideway.workers.engine.scheduling.streaming import BETWEEN_S, Certain, Streaming
from guideway.workers.engine.text.prompt import PromptLayout
from guideway.workers.engine.text.sampling import Sampler
from guideway.workers.messages.from_engine import Finished, FromEngine, Generated, Pieces
from guideway.workers.messages.to_engine import Admit

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "n": {"enum": [1, 22]}},
    "required": ["name", "n"],
    "additionalProperties": False,
}


def streamed(admit: Admit) -> Admit:
    return msgspec.structs.replace(admit, partial=True)


def chunks(data: bytes, draw: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = draw.choice([1, 1, 2, 3, 7])
        yield data[at : at + size]
        at += size


# What is certain -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stops", "parts", "told"),
    [
        ([], ["ab", "c"], ["ab", "c"]),
        (["END"], ["one E", "N", "O, E"], ["one ", "", "ENO, "]),
        (["\n\n"], ["one\n", "two\n"], ["one", "\ntwo"]),
        (["aab"], ["aa", "a"], ["", "a"]),
        (["ab", "bcd"], ["xab"[:2], "c"], ["x", "ac"]),
        (["st th", "th"], ["first t", "o"], ["fir", "st to"]),
    ],
)
def test_the_beginning_of_a_stop_string_is_held_back(stops: list[str], parts: list[str], told: list[str]) -> None:
    certain = Certain(stops)
    assert [certain.add(part.encode()) for part in parts] == told


def test_half_a_character_is_held_back() -> None:
    certain = Certain([])
    snow = "❄".encode()
    assert [certain.add(data) for data in (b"a" + snow[:1], snow[1:2], snow[2:] + b"b")] == ["a", "", "❄b"]
    assert certain.add(b"\xff\xfe") == "��"


@pytest.mark.parametrize("seed", range(60))
def test_what_is_told_is_always_the_beginning_of_what_it_ends_as(seed: int) -> None:
    draw = random.Random(seed)
    letters = draw.choice(["ab", "aé", "a❄\n"])
    stops = ["".join(draw.choices(letters, k=draw.randint(1, 4))) for _ in range(draw.randint(0, 3))]
    data = "".join(draw.choices(letters, k=draw.randint(1, 30))).encode()
    if draw.random() < 0.3:
        data += b"\xff\xe2\x82"
    certain, told, seen = Certain(stops), "", b""
    for part in chunks(data, draw):
        seen += part
        if any(stop.encode() in seen for stop in stops):
            break
        told += certain.add(part)
    ends_at = min((at for stop in stops if (at := seen.find(stop.encode())) >= 0), default=len(seen))
    whole = codecs.getincrementaldecoder("utf-8")("replace").decode(seen[:ends_at])
    assert whole.startswith(told)
    if ends_at == len(seen):
        longest = max((len(stop.encode()) for stop in stops), default=1)
        assert len(whole.encode()) - len(told.encode()) < longest


# Rows ----------------------------------------------------------------------------------------------------------------


def told_of(streaming: Streaming, now: float) -> list[str | None]:
    found = streaming.pieces(now)
    return [] if found is None else [piece.text for piece in found.pieces]


FORMS: list[tuple[str, OutputRule, Sequence[str]]] = [
    ("one small step", Text(), ()),
    (" Füße, naïve: ❄ 犬\n\nend ", Text(), ()),
    ("New York", Choice(["New", "New York", "no"]), ()),
    ("yes", Boolean("yes/no"), ()),
    ("12.5", Number(decimals=2, negative=True), ()),
    ('{"name":"Zoë ❄","n":22}', Json(SCHEMA), ()),
    ("ab-0123", Regex("[a-z]{2}-[0-9é]{3,9}"), ()),
    ("The/DET cat/NOUN ran/VERB", WordLabels(["DET", "NOUN", "VERB"]), ["The", "cat", "ran"]),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pieces_are_the_text_of_every_form_whatever_the_tokenizer(family: str, make_admit: MakeAdmit) -> None:
    tokenizer = tokenizer_of(family)
    layout, stopping = PromptLayout(tokenizer), stopping_of(tokenizer)
    for text, output, words in FORMS:
        admit = streamed(make_admit(output=output, words=words, max_tokens=1000, stop=["##", "❄❄"]))
        sampler = Sampler.of(admit.request.generation, request_id="r", sample=0)
        row = Row(admit=admit, sample=0, prompt_ids=[1], virtual_tokens=0, sampler=sampler)
        if not isinstance(output, Text):
            row.grammar = grammars_of(tokenizer).start(output, words)
        ids = row.grammar.ids(text) if row.grammar is not None else layout.answer_ids(text)
        if ids is None:  # this tokenizer has no such letters
            continue
        streaming, told = Streaming(stopping.bytes_from), []
        streaming.add([row])
        for at, token_id in enumerate([*ids, tokenizer.eos_token_id]):
            # Those that come in any case are there already.
            if row.generated is None and at >= len(row.token_ids):
                stopping.accept(row, token_id)
                if row.generated is not None:
                    row.status = RowStatus.ENDED
                told += told_of(streaming, at)
        assert row.generated is not None
        assert "".join(piece or "lost" for piece in told) == row.generated.text, (family, text)
        assert told_of(streaming, 1e9) == []
        if isinstance(output, Choice | Boolean):
            assert len(told) == 1, "a label that has begun is none"
        elif len(ids) > 12:
            assert len(told) > 2


def test_pieces_of_a_row_keep_their_distance(make_admit: MakeAdmit) -> None:
    tokenizer = tokenizer_of("byte-level gpt2")
    stopping = stopping_of(tokenizer)
    admit = streamed(make_admit(max_tokens=1000))
    sampler = Sampler.of(admit.request.generation, request_id="r", sample=0)
    row = Row(admit=admit, sample=0, prompt_ids=[1], virtual_tokens=0, sampler=sampler)
    streaming = Streaming(stopping.bytes_from)
    streaming.add([row])
    row.token_ids = [*tokenizer.encode("a", add_special_tokens=False)]
    assert told_of(streaming, 100.0) == ["a"]
    row.token_ids += tokenizer.encode("b", add_special_tokens=False)
    assert told_of(streaming, 100.0 + BETWEEN_S * 0.9) == []
    assert told_of(streaming, 100.0 + BETWEEN_S * 1.1) == ["b"]
    row.token_ids += tokenizer.encode("c", add_special_tokens=False)
    # A clock that was set back holds nothing up, and the last piece waits for nothing.
    assert told_of(streaming, 50.0) == ["c"]
    row.generated, row.status = Generated(text="abcd", finish_reason="stop"), RowStatus.ENDED
    assert told_of(streaming, 50.0) == ["d"]
    assert told_of(streaming, 51.0) == []


@pytest.mark.parametrize(("text", "told"), [("other", [None]), ("ab", []), (None, [])])
def test_a_text_that_ends_otherwise_is_said_to_be_lost(
    make_admit: MakeAdmit, text: str | None, told: list[str | None]
) -> None:
    tokenizer = tokenizer_of("byte-level gpt2")
    admit = streamed(make_admit(max_tokens=1000))
    sampler = Sampler.of(admit.request.generation, request_id="r", sample=0)
    row = Row(admit=admit, sample=0, prompt_ids=[1], virtual_tokens=0, sampler=sampler)
    streaming = Streaming(stopping_of(tokenizer).bytes_from)
    streaming.add([row])
    row.token_ids = [*tokenizer.encode("ab", add_special_tokens=False)]
    assert told_of(streaming, 1.0) == ["ab"]
    # None: its request was refused.
    row.generated = None if text is None else Generated(text=text, finish_reason="stop")
    row.status = RowStatus.ENDED
    assert told_of(streaming, 2.0) == told


# The engine ----------------------------------------------------------------------------------------------------------


def texts_told(messages: Sequence[FromEngine]) -> dict[tuple[str, int], str]:
    """(attempt's id, sample) → its pieces, one behind the other; none comes after the request has ended."""
    told: dict[tuple[str, int], str] = defaultdict(str)
    ended = set()
    for message in messages:
        if isinstance(message, Pieces):
            for piece in message.pieces:
                assert piece.id not in ended
                assert piece.text
                told[piece.id, piece.sample] += piece.text
        elif isinstance(message, Finished):
            ended.add(message.id)
    return told


def steps_of(engine: Engine, admits: Sequence[Admit]) -> list[FromEngine]:
    """Steps take so long that each may tell a piece."""
    for admit in admits:
        engine.add(admit)
    messages: list[FromEngine] = []
    for step in range(2000):
        if not engine.has_work:
            break
        messages += engine.step(1000.0 + step * 0.06)
    return messages


def test_the_engine_tells_what_it_finishes_also_of_rows_that_are_preempted(
    make_engine: MakeEngine, make_admit: MakeAdmit
) -> None:
    admits = [
        make_admit("x" * 30, max_tokens=90, stop=["zz", "th th"], namespace="a"),
        make_admit("x" * 40, max_tokens=90, temperature=1.2, samples=3, seed=11, namespace="b"),
        make_admit("x" * 20, max_tokens=90, output=Json(SCHEMA), temperature=1.0, namespace="c"),
        make_admit("x" * 20, output=Choice(["true no", "true yes"]), namespace="c"),
        make_admit("x" * 20, max_tokens=110, output=Regex("[a-zé]{90,100}"), temperature=1.0, namespace="a"),
        make_admit("x" * 20, max_tokens=60, output=WordLabels(["A", "B"]), words=["th", "(x)", "é"], namespace="b"),
        make_admit("x" * 20, max_tokens=5, output=Regex("[a-z]{20}"), namespace="c"),
    ]
    quiet = make_admit("not streamed", max_tokens=30)
    alone = ends(run(make_engine(), [*admits, quiet]))
    engine = make_engine(kv_bytes=512 * 400, max_rows=5)
    messages = steps_of(engine, [*map(streamed, admits), quiet])
    assert ends(messages) == alone, "a text is the same whether it is told or not"
    assert engine._statistics.preempted > 0
    told = texts_told(messages)
    for id_, end in alone.items():
        assert isinstance(end, Finished)
        for sample, one in enumerate(end.samples):
            if id_ == quiet.id:
                assert (id_, sample) not in told
            elif one.failure is None:
                assert told.get((id_, sample), "") == one.text
    assert not engine._streaming._told
    assert any(len(message.pieces) > 3 for message in messages if isinstance(message, Pieces)), "one message a step"


def test_of_a_request_that_is_cancelled_nothing_more_is_told(make_engine: MakeEngine, make_admit: MakeAdmit) -> None:
    engine = make_engine()
    admit = streamed(make_admit(max_tokens=100, output=Regex("[a-z]{100}")))
    engine.add(admit)
    for step in range(5):
        engine.step(1000.0 + step)
    engine.cancel(admit.id)
    assert not any(isinstance(message, Pieces) for message in [*engine.step(1010.0), *engine.step(1011.0)])
    assert not engine._streaming._told
