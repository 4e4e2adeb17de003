"""Rows of live traffic: a share by the ids, each once, whatever is killed meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.span_reader import OffsetRange, SpanReader
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.topics import call_topic, event_topic
from guideway.schemas.output import Choice
from guideway.schemas.record import Record
from guideway.training.replays.answers import Question
from guideway.usecases.replay import live
from guideway.usecases.replay.folder import Plan, ReplayFolder, Shadowing
from guideway.usecases.replay.live import LiveRows, is_chosen

RULE = Choice(["glad", "sad"])
CLUSTER = Cluster.of("localhost:9092")
OWN, CALLS = event_topic("shop", "mood"), call_topic("shop")


class Topics:
    """In place of a cluster's topics: what they hold, and from which offset on."""

    def __init__(self, **_: Any) -> None:
        self.holds: dict[TopicPartition, list[Record]] = {TopicPartition(OWN, 0): [], TopicPartition(OWN, 1): []}
        self.first: dict[TopicPartition, int] = {}

    def send(self, id_: str, partition: int = 0, topic: str = OWN, value: str = "", **headers: str) -> None:
        held = self.holds.setdefault(tp := TopicPartition(topic, partition), [])
        given = {header.REQUEST_ID: id_, **headers}
        record = Record(
            topic=topic,
            partition=partition,
            offset=len(held),
            timestamp_ms=10**12,
            key=None,
            value=(value or f"text of {id_}").encode(),
            headers=tuple((name, value.encode()) for name, value in given.items()),
        )
        self.holds[tp].append(record)

    async def partitions(self, topic: str) -> int:
        return sum(tp.topic == topic for tp in self.holds)

    async def spans(self, topics: Mapping[str, int]) -> dict[TopicPartition, OffsetRange]:
        return {
            tp: OffsetRange(self.first.get(tp, 0), len(held)) for tp, held in self.holds.items() if tp.topic in topics
        }

    async def read(self, spans: Mapping[TopicPartition, OffsetRange]) -> AsyncGenerator[Record]:
        for tp, span in spans.items():
            for record in self.holds[tp][span.first : span.end]:
                yield record


def plan(rows: int = 100, share: float = 1.0) -> Plan:
    asks = Question(address="/shop/mood", version=1, now=RULE, new=RULE, changes={"a": "b"}, source="x")
    now, new = (Endpoint(namespace="shop", name=name, model_size="small", output=RULE) for name in ("t-now", "t-new"))
    shadow = Shadowing(share=share, promote="never", candidate=None)
    return Plan(id="one", asked_for={}, question=asks, now=now, new=new, rows=rows, shadow=shadow)


async def begun(folder: Path, topics: Topics, made: Plan) -> LiveRows:
    found = ReplayFolder(folder / "shadow")
    if found.plan is None:
        found.begin(made, [])
    rows = LiveRows(found, made, CLUSTER, cast(SpanReader, topics), cast(TopicDirectory, topics))
    await rows.begin()
    return rows


def test_a_share_is_chosen_by_ids_and_another_in_each_shadow() -> None:
    ids = [f"id-{n}" for n in range(20_000)]
    first, second = ({one for one in ids if is_chosen(one, shadow, 0.05)} for shadow in ("one", "two"))
    assert first == {one for one in ids if is_chosen(one, "one", 0.05)}
    assert 850 < len(first) < 1150
    assert len(first & second) < 120, "as many as two draws have in common"
    assert all(is_chosen(one, "one", 1) for one in [*ids, "\ud800"])


async def test_what_came_before_it_began_is_not_live(tmp_path: Path) -> None:
    topics = Topics()
    topics.send("early")
    rows = await begun(tmp_path, topics, plan())
    assert await rows.more() == []
    topics.send("a", 1)
    topics.send("b", 0)
    topics.send("other", topic=CALLS, endpoint="/shop/other")
    topics.send("c", topic=CALLS, endpoint="/shop/mood")
    assert {(one.id, one.content) for one in await rows.more()} == {(i, f"text of {i}") for i in "abc"}
    assert await rows.more() == []
    assert sorted(one.number for one in rows._folder.rows()) == [1, 2, 3]


async def test_it_ends_with_as_many_rows_as_were_wanted_and_no_partition_has_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_AT_ONCE", 4)
    topics = Topics()
    rows = await begun(tmp_path, topics, plan(rows=10))
    for number in range(20):
        topics.send(f"p0-{number}", 0)
        topics.send(f"p1-{number}", 1)
    looks = [await rows.more() for _ in range(3)]
    assert [len(one) for one in looks] == [4, 4, 2]
    assert rows.is_full
    assert await rows.more() == []
    found = rows._folder.rows()
    assert [one.number for one in found] == [*range(1, 11)]
    assert len({one.id for one in found}) == 10
    assert {one.id[:2] for one in found} == {"p0", "p1"}


async def test_behind_a_kill_the_same_events_are_read_again_and_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = Topics()
    rows = await begun(tmp_path, topics, plan(share=0.5))
    for number in range(40):
        topics.send(f"a{number}", number % 2)
    before = await rows.more()

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    for number in range(40):
        topics.send(f"b{number}", number % 2)
    with monkeypatch.context() as patched:
        patched.setattr(live, "write_whole", killed)
        with pytest.raises(Killed):
            await rows.more()
    assert len(rows._folder.rows()) > len(before), "they are in the file, and do not count"
    (path := rows._folder.path / "rows.jsonl").write_bytes(path.read_bytes() + b'{"number": 7, "i')

    again = await begun(tmp_path, topics, plan(share=0.5))
    assert again._folder.rows() == before
    topics.send("c0")
    after = await again.more()
    wanted = [one for one in (*(f"{c}{n}" for c in "ab" for n in range(40)), "c0") if is_chosen(one, "one", 0.5)]
    assert sorted(one.id for one in [*before, *after]) == sorted(wanted)
    assert [one.number for one in again._folder.rows()] == [*range(1, len(wanted) + 1)]


async def test_what_is_left_out_and_what_kafka_has_deleted_are_told(tmp_path: Path) -> None:
    topics = Topics()
    rows = await begun(tmp_path, topics, plan())
    topics.send("x" * 300)
    # A quotation mark is one byte in plain text, and two in JSON.
    topics.send("large", value='"' * 900_000)
    topics.send("good")
    assert [one.id for one in await rows.more()] == ["good"]
    for number in range(5):
        topics.send(f"late{number}")
    topics.first[TopicPartition(OWN, 0)] = 6
    assert [one.id for one in await rows.more()] == ["late3", "late4"]
    assert rows.seen.left_out == {
        "refused then too: invalid_header": 1,
        "larger than a record, as JSON": 1,
        "offsets that Kafka had deleted before they were read": 3,
    }
    assert (await begun(tmp_path, topics, plan())).seen == rows.seen


async def test_a_partition_that_is_new_or_a_topic_made_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    topics = Topics()
    for number in range(5):
        topics.send(f"old{number}")
    rows = await begun(tmp_path, topics, plan())
    topics.send("new", 2)
    topics.holds[TopicPartition(OWN, 0)] = []
    topics.send("anew", 0)
    assert {one.id for one in await rows.more()} == {"new", "anew"}


async def test_brokers_that_do_not_answer_are_a_refusal_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = Topics()
    rows = await begun(tmp_path, topics, plan())

    async def gone(_: str) -> int:
        raise KafkaConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(topics, "partitions", gone)
        with pytest.raises(Refusal) as caught:
            await rows.more()
    assert caught.value.code is FailureCode.BROKER_UNREACHABLE
    topics.send("a")
    assert [one.id for one in await rows.more()] == ["a"]


async def test_an_endpoint_without_a_topic_is_refused(tmp_path: Path) -> None:
    topics = Topics()
    topics.holds.clear()
    with pytest.raises(Refusal, match="there is no topic"):
        await begun(tmp_path, topics, msgspec.structs.replace(plan()))
