"""Which dead letters go back, as what, and how it is noted: without a broker."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.replay.decision import Ledger, Replayed, Selection, Why, code_of, decide, original_of, read_back
from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas.failures import FailureCode
from guideway.schemas.record import Outgoing, Record, Withheld

TOPIC = "gw.team.task.in.v1"
OURS = ["guideway_dlq_topic", "guideway_dlq_code", "guideway_dlq_omitted", "__connect.errors.topic", "h"]
HEADERS = st.lists(st.tuples(st.sampled_from(OURS), st.none() | st.binary(max_size=8)), max_size=6)
SOME = st.binary(max_size=30)


def record(**fields: object) -> Record:
    plain = {"topic": TOPIC, "partition": 2, "offset": 7, "timestamp_ms": 9, "key": b"k", "value": b"v"}
    return Record(**plain | fields)  # type: ignore[arg-type]


def as_read(out: Outgoing, offset: int = 0) -> Record:
    """What a reader of its topic gets of a record that was published."""
    return Record(
        topic=out.topic,
        partition=out.partition or 0,
        offset=offset,
        timestamp_ms=11,
        key=out.key,
        value=out.value,
        headers=tuple(out.headers),
    )


def letter(dead: Record | None = None, code: FailureCode = FailureCode.INTERNAL_ERROR, offset: int = 0) -> Record:
    return as_read(dead_letter(dead or record(), code, "why"), offset)


@given(key=st.none() | SOME, value=st.none() | SOME, headers=HEADERS)
def test_a_dead_letter_goes_back_byte_for_byte(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    """Whatever headers the record had itself, ours included."""
    back = original_of(letter(record(key=key, value=value, headers=headers)))
    # A record with neither cannot be published: `dead_letter` has given it an empty value.
    expected = b"" if key is None and value is None else value
    assert back == Outgoing(topic=TOPIC, key=key, value=expected, headers=tuple(headers), partition=2)


@given(headers=HEADERS)
def test_a_dead_letter_of_a_dead_letter_goes_back_one_step(headers: list[tuple[str, bytes | None]]) -> None:
    first = letter(record(headers=headers), offset=5)
    second = letter(first, FailureCode.ENGINE_FAILED)
    assert second.topic == f"{TOPIC}.dlq.dlq"
    back = original_of(second)
    assert isinstance(back, Outgoing)
    assert as_read(back, 5) == msgspec.structs.replace(first, timestamp_ms=11)
    read = read_back(second)
    assert read is not None
    assert (read.code, read.partition, read.offset, read.timestamp_ms) == ("engine_failed", 0, 5, 11)


@pytest.mark.parametrize("part", ["key", "value", "headers"])
def test_what_was_not_kept_whole_does_not_go_back(part: str) -> None:
    big = b"x" * 1_100_000
    one = letter(record(**{part: [("h", big)] if part == "headers" else big}))
    assert original_of(one) is Why.OMITTED
    read = read_back(one)
    assert read is not None
    assert read.omitted == (part,)


@pytest.mark.parametrize(
    "changed",
    [
        {"topic": "gw.other.task.in.v1.dlq"},
        {"headers": []},
        {"headers": [("guideway_dlq_topic", TOPIC.encode())]},
        {"headers": [*letter().headers, ("added-later", b"")]},
        {"headers": [*letter().headers, ("guideway_dlq_offset", b"x")]},
        {"headers": [*letter().headers, ("guideway_dlq_message", b"\xff")]},
        {"headers": [*letter().headers, ("guideway_dlq_partition", b"-1")]},
        {"headers": [*letter().headers, ("guideway_dlq_topic", b"gw.victim.task.in.v1")]},
        {"value": b"x" * MAX_RECORD_BYTES},
        {"value": Withheld.of(62_000_000)},
    ],
)
def test_what_is_no_dead_letter_of_the_topic_does_not_go_back(changed: dict[str, object]) -> None:
    """Least of all to another topic, which a header could name."""
    assert original_of(msgspec.structs.replace(letter(), **changed)) is Why.FOREIGN


def test_what_is_selected() -> None:
    one = letter(code=FailureCode.ENGINE_FAILED, offset=4)
    assert code_of(one) == "engine_failed"
    nothing, this = Replayed(), Replayed(0, frozenset({4}))
    assert isinstance(decide(one, Selection(), nothing), Outgoing)
    assert isinstance(decide(one, Selection(code=FailureCode.ENGINE_FAILED), nothing), Outgoing)
    assert isinstance(decide(one, Selection(places=frozenset({(0, 4)})), nothing), Outgoing)
    assert decide(one, Selection(code=FailureCode.INTERNAL_ERROR), this) is None
    assert decide(one, Selection(places=frozenset({(1, 4)})), nothing) is None
    assert decide(one, Selection(), this) is Why.REPLAYED
    assert isinstance(decide(one, Selection(again=True), this), Outgoing)
    gone = Selection(orphaned=lambda out: out.topic == TOPIC)
    assert decide(one, gone, nothing) is Why.NO_ENDPOINT
    assert decide(one, gone, this) is Why.REPLAYED


def test_every_reason_has_a_sentence() -> None:
    assert all(why.sentence for why in Why)


@given(st.data())
def test_the_ledger_notes_exactly_what_was_put_back_over_interrupted_replays(data: st.DataObject) -> None:
    """Several replays of a partition with gaps; each selects, commits in batches and may end at any point."""
    offsets = sorted(data.draw(st.sets(st.integers(0, 60), min_size=1)))
    replayed, put_back, first = Replayed(), set[int](), 0
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(first, 20))  # retention takes the oldest
        there = [offset for offset in offsets if offset >= first]
        flags = st.booleans()
        ledger = Ledger(replayed, first)
        waiting: list[int] = []
        for offset in there[: data.draw(st.integers(0, len(there)))]:
            ledger.receive(offset)
            if offset not in replayed and data.draw(flags):
                waiting.append(offset)
            if data.draw(flags) and waiting:
                chosen, commit = ledger.commit_of(waiting, 3_800)
                assert chosen == waiting
                ledger.apply(commit)
                put_back.update(chosen)
                replayed = Replayed.of_commit(commit.low, commit.metadata)
                waiting = []
        assert {offset for offset in there if offset in replayed} == {one for one in put_back if one >= first}


def test_transaction_markers_cost_no_metadata() -> None:
    """5,000 dead letters, each in a transaction of its own: put back or not, a run of them takes a few characters."""
    ledger, waiting = Ledger(Replayed(), 0), list[int]()
    for offset in range(0, 10_000, 2):
        ledger.receive(offset)
        waiting += [offset] if offset else []
    chosen, _ = ledger.commit_of(waiting, 30)
    assert chosen == waiting
    # Unselected ones with markers between them are one run, too.
    ledger = Ledger(Replayed(), 0)
    for offset in range(0, 10_000, 2):
        ledger.receive(offset)
    chosen, commit = ledger.commit_of([9_998], 30)
    assert chosen == [9_998]
    assert commit.low == 0


def test_what_has_no_room_is_held_back() -> None:
    ledger = Ledger(Replayed(), 0)
    for offset in range(8_000):
        ledger.receive(offset)
    odd = list(range(1, 8_000, 2))
    put_back = list[int]()
    while True:
        chosen, commit = ledger.commit_of(odd[len(put_back) :], 3_800)
        if not chosen:
            break
        assert len(commit.metadata) <= 3_800
        ledger.apply(commit)
        put_back += chosen
    assert 1_000 < len(put_back) < len(odd)
    assert put_back == odd[: len(put_back)]
