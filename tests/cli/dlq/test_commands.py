"""`guideway dlq` on real brokers: dead letters are seen, and put back once each whatever happens."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pty
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from tests.cli.dlq.graveyard import RECORDS, Graveyard, Sent

from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.dead_letters import dead_letter
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.replay import replayer
from guideway.delivery.replay.dead_letter_reader import DeadLetterReader
from guideway.delivery.replay.decision import Why
from guideway.delivery.settings import DeliverySettings
from guideway.infra import local_broker, topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.topics import dead_letter_topic, event_topic
from guideway.schemas.record import Outgoing, Record


@pytest.fixture
async def graveyard(broker: RunningBroker, unique_name: str, tmp_path: Path) -> Graveyard:
    made = Graveyard(broker.cluster, unique_name, tmp_path)
    await make_topics(made.cluster, topics.with_dead_letters(made.topic, 3))
    return made


def sent(record: Record) -> Sent:
    return record.key, record.value, tuple(record.headers)


def test_where_there_are_none_nothing_is_put_back(graveyard: Graveyard) -> None:
    for more in ((), ("--dry-run",)):
        report = graveyard.replay(*more)
        assert (report["replayed"], report["skipped"]) == (0, [])
    nowhere = graveyard.command("replay", graveyard.topic, "--offset", "0:7", "--offset", "0:8")
    assert (nowhere.returncode, "no dead letter stands there" in nowhere.stdout) == (0, True)
    near = graveyard.command("show", f"{graveyard.address}x").stderr
    assert f"did you mean {graveyard.dead}?" in near.replace("\n", "")


async def test_list_show_and_replay(graveyard: Graveyard) -> None:
    await graveyard.bury(RECORDS)
    await graveyard.bury([(b"other", b"1", ())], FailureCode.ENGINE_FAILED)

    listed = [json.loads(line) for line in graveyard.command("list", "--json").stdout.splitlines()]
    (tally,) = (one for one in listed if one["topic"] == graveyard.dead)
    assert (tally["records"], tally["replayed"]) == (5, 0)
    assert tally["codes"] == {"internal_error": 4, "engine_failed": 1}
    assert 0 < tally["oldest_ms"] <= tally["newest_ms"]

    shown = graveyard.command("show", graveyard.address, "--code", "internal_error", "--json")
    letters = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [one["origin"]["offset"] for one in letters] == [0, 1, 2, 3]
    assert letters[0]["key"] == {"base64": base64.b64encode(b"\xff\x00key").decode()}
    assert letters[0]["headers"][:2] == [{"name": "h", "value": None}, {"name": "h", "value": {"base64": "/w=="}}]
    assert letters[2]["headers"][0] == {"name": "guideway_dlq_topic", "value": {"text": "its own"}}
    assert "value" not in letters[3]
    assert letters[3]["value_bytes"] == len(b"a secret")
    assert (letters[3]["code"], letters[3]["message"]) == ("internal_error", "say it otherwise")

    assert graveyard.replay("--dry-run")["replayed"] == 5
    assert await graveyard.read() == []
    assert graveyard.replay("--code", "internal_error") == {
        "topic": graveyard.topic,
        "dry_run": False,
        "replayed": 4,
        "skipped": [],
    }
    found = await graveyard.read()
    assert [sent(one) for one in found] == RECORDS, "byte for byte, in order"
    assert {one.partition for one in found} == {2}, "where they stood"

    again = graveyard.replay()
    assert (again["replayed"], [(one["why"], one["records"]) for one in again["skipped"]]) == (
        1,
        [("replayed_already", 4)],
    )
    assert len(await graveyard.read()) == 5
    assert graveyard.replay("--again", "--code", "engine_failed")["replayed"] == 1
    assert len(await graveyard.read()) == 6
    listed = [json.loads(line) for line in graveyard.command("list", "--json").stdout.splitlines()]
    assert [one["replayed"] for one in listed if one["topic"] == graveyard.dead] == [5]


async def test_what_people_see(graveyard: Graveyard) -> None:
    await graveyard.bury([(b"\x1b[2J", b"a secret", (("h", b"1"),)), (None, b"\xff", ()), (b"k", b"x" * 1_200_000, ())])
    listed = graveyard.command("list")
    (line,) = (one for one in listed.stdout.splitlines() if one.startswith(graveyard.dead))
    assert line.split()[1:3] == ["3", "0"]
    assert "internal_error 3" in line

    shown = graveyard.command("show", graveyard.topic).stdout
    assert "a secret" not in shown
    assert "\x1b" not in shown, "what somebody else wrote moves no cursor"
    assert "\\u001b[2J" in shown
    assert f"from      {graveyard.topic} 2:0, written 2023-11-14 22:13:20Z" in shown
    assert "8 bytes, shown with --value" in shown
    assert "left out  value: too large" in shown
    limited = graveyard.command("show", graveyard.dead, "--limit", "2", "--value")
    assert "/w== (base64)" in limited.stdout
    assert "a secret" not in limited.stdout, "the newest two"
    assert "the last 2 of 3" in limited.stderr

    replayed = graveyard.command("replay", graveyard.address, "--yes").stdout
    assert "not all of it was kept" in replayed
    assert len(await graveyard.read()) == 2
    assert "(replayed)" in graveyard.command("show", graveyard.dead).stdout


async def test_refusals_say_what_to_change(graveyard: Graveyard) -> None:
    unknown = graveyard.command("show", "gw.team.nothing.in.v1")
    assert unknown.returncode == 1
    (line,) = unknown.stderr.splitlines()
    assert line.startswith("invalid_setting: ")
    assert graveyard.dead in line
    for arguments, hint in [
        (["--offset", "7"], "PARTITION:OFFSET"),
        (["--code", "nonsense"], "engine_failed"),
    ]:
        run = graveyard.command("replay", graveyard.topic, *arguments)
        assert (run.returncode, run.stderr.startswith("invalid_setting: ")) == (1, True)
        assert hint in run.stderr
    assert graveyard.command("show", graveyard.topic).stdout == "there are no such dead letters\n"


async def test_places_are_put_back_alone_and_those_not_there_are_said(graveyard: Graveyard) -> None:
    await graveyard.bury([(b"k", str(number).encode(), ()) for number in range(3)])
    shown = graveyard.command("show", graveyard.topic, "--json").stdout.splitlines()
    middle = json.loads(shown[1])["offset"]
    report = graveyard.replay("--offset", f"0:{middle}", "--offset", "7:9")
    assert report["replayed"] == 1
    assert report["skipped"] == [{"why": "not_there", "records": 1, "places": ["7:9"]}]
    assert [one.value for one in await graveyard.read()] == [b"1"]
    assert graveyard.replay()["replayed"] == 2
    assert sorted(one.value or b"" for one in await graveyard.read()) == [b"0", b"1", b"2"]


KILLED = """
import os, signal, sys
from aiokafka import AIOKafkaProducer
from guideway.cli import main

commit = AIOKafkaProducer.commit_transaction
left = [{commits}]

async def killed(self):
    if {after} and not left[0]:
        await commit(self)
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    await commit(self)

AIOKafkaProducer.commit_transaction = killed
sys.argv[0] = "guideway"
main()
"""


@pytest.mark.parametrize("after", [False, True])
async def test_a_replay_that_is_killed_and_run_again_puts_back_once(graveyard: Graveyard, after: bool) -> None:
    """SIGKILL in the second transaction: before its commit, and right after it."""
    values = [str(number).encode() for number in range(450)]
    await graveyard.bury([(b"k", values[0], ())])
    producer = make_producer(graveyard.cluster, "test")
    async with started(producer, graveyard.cluster):
        for number, value in enumerate(values[1:], 1):
            record = Record(
                topic=graveyard.topic, partition=number % 3, offset=number, timestamp_ms=1, key=None, value=value
            )
            letter = dead_letter(record, FailureCode.INTERNAL_ERROR, "why")
            await producer.send(letter.topic, value=letter.value, headers=list(letter.headers))
        await producer.flush()
    program = graveyard.home / "killed.py"
    program.write_text(KILLED.format(commits=1, after=after))
    killed = graveyard.command("replay", graveyard.topic, program=(str(program),))
    assert killed.returncode == -signal.SIGKILL
    rest = graveyard.replay()
    assert rest["replayed"] == (50 if after else 250)
    assert graveyard.replay()["replayed"] == 0
    found = await graveyard.read()
    assert sorted(one.value or b"" for one in found) == sorted(values)


async def test_a_failed_commit_is_a_refusal_that_says_it_is_safe(
    graveyard: Graveyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await graveyard.bury(RECORDS)

    class Unlucky(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka has no types
        async def send_offsets_to_transaction(self, *_: Any) -> None:
            raise KafkaError("no")

    with monkeypatch.context() as patched:
        patched.setattr("guideway.delivery.clients.kafka_client.AIOKafkaProducer", Unlucky)
        with pytest.raises(Refusal, match="it is safe to run this again") as caught:
            await graveyard.put_back()
        with pytest.raises(Refusal, match="with --again these are put back once more"):
            await graveyard.put_back(again=True)
    assert caught.value.code is FailureCode.BROKER_UNREACHABLE
    assert await graveyard.read() == []
    assert len((await graveyard.put_back()).replayed) == 4
    assert [sent(one) for one in await graveyard.read()] == RECORDS


async def test_a_replay_that_another_took_over_from_writes_nothing_more(
    graveyard: Graveyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await graveyard.bury(RECORDS)
    plain = replayer._PartitionReplay.flush

    async def overtaken(self: Any) -> None:
        monkeypatch.setattr(replayer._PartitionReplay, "flush", plain)
        await graveyard.put_back()
        await plain(self)

    monkeypatch.setattr(replayer._PartitionReplay, "flush", overtaken)
    with pytest.raises(Refusal, match="another replay"):
        await graveyard.put_back()
    assert [sent(one) for one in await graveyard.read()] == RECORDS


async def test_dead_letters_of_the_pipeline_go_back_and_are_worked_on(graveyard: Graveyard) -> None:
    """What a handler could not do the first time, from the event topic to the event topic."""
    async with started(make_producer(graveyard.cluster, "test"), graveyard.cluster) as producer:
        for number in range(6):
            await producer.send_and_wait(graveyard.topic, str(number).encode(), key=b"k\xff", headers=[("h", b"\xff")])

    def broken(record: Record) -> list[Outgoing]:
        raise KeyError("a bug")

    def mended(record: Record) -> list[Outgoing]:
        return []

    await work(graveyard, broken, 6)
    assert len(await graveyard.read(graveyard.dead)) == 6
    assert len((await graveyard.put_back()).replayed) == 6
    worked = await work(graveyard, mended, 6)
    assert sorted(map(sent, worked)) == [(b"k\xff", str(n).encode(), (("h", b"\xff"),)) for n in range(6)]
    ((why, places),) = (await graveyard.put_back()).skipped.items()
    assert (why, len(places)) == (Why.REPLAYED, 6)


async def work(graveyard: Graveyard, handle: Callable[[Record], list[Outgoing]], wanted: int) -> list[Record]:
    """Run a pipeline on the event topic until so many records were worked on, and end it, which publishes."""
    seen: list[Record] = []
    enough = asyncio.Event()

    async def counted(record: Record) -> list[Outgoing]:
        seen.append(record)
        if len(seen) >= wanted:
            enough.set()
        return handle(record)

    settings = DeliverySettings(cluster=graveyard.cluster)
    pipeline = Pipeline(settings, group=f"{graveyard.topic}.group", topics=[graveyard.topic], handle=counted)
    running = asyncio.create_task(pipeline.run())
    try:
        async with asyncio.timeout(60):
            await enough.wait()
    finally:
        pipeline.stop()
        await running
    return seen


async def test_an_unfinished_transaction_holds_nobody_up(graveyard: Graveyard) -> None:
    await graveyard.bury([(b"k", b"1", ())])
    producer = make_producer(graveyard.cluster, "test", transactional_id=f"{graveyard.topic}.open")
    async with started(producer, graveyard.cluster):
        await producer.begin_transaction()
        await producer.send_and_wait(graveyard.dead, b"not yet there")
        assert graveyard.replay()["replayed"] == 1
        await producer.abort_transaction()


@pytest.mark.parametrize(("answer", "put_back"), [(b"n\n", 0), (b"y\n", 1)])
async def test_in_a_terminal_it_asks_first(graveyard: Graveyard, answer: bytes, put_back: int) -> None:
    await graveyard.bury([(b"k", b"1", ())])
    ours, terminal = pty.openpty()
    try:
        os.write(ours, answer)
        run = graveyard.command("replay", graveyard.topic, stdin=terminal)
    finally:
        os.close(ours)
        os.close(terminal)
    assert f"Put 1 dead letter back on {graveyard.topic}?" in run.stderr
    assert run.returncode == 1 - put_back
    assert len(await graveyard.read()) == put_back


async def test_a_broker_that_dies_on_the_way_is_a_refusal_and_nothing_is_lost_or_doubled(
    own_broker: RunningBroker,
    broker_environ: dict[str, str],
    unique_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if own_broker.kind != "apache-kafka":
        pytest.skip("noida-db does not keep what it holds over a kill")
    graveyard = Graveyard(own_broker.cluster, unique_name, tmp_path)
    await make_topics(graveyard.cluster, topics.with_dead_letters(graveyard.topic, 3))
    await graveyard.bury(RECORDS)
    plain = replayer._PartitionReplay._transact

    async def dying(self: Any, *arguments: Any) -> None:
        if self._report.replayed:
            # Not sooner: a Kafka that is killed before its markers are written may leave them out for ever.
            async with DeadLetterReader.connected(graveyard.cluster) as reader, asyncio.timeout(20):
                while not (await reader.replayed(self._tp)).low:
                    await asyncio.sleep(0.05)
            assert own_broker.pid is not None
            os.kill(own_broker.pid, signal.SIGKILL)
        await plain(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(replayer, "MAX_RECORDS", 2)
        patched.setattr(replayer, "FLUSH_TIMEOUT_S", 3.0)
        patched.setattr(replayer._PartitionReplay, "_transact", dying)
        with pytest.raises(Refusal, match="2 put back so far") as caught:
            await graveyard.put_back()
    assert caught.value.code is FailureCode.BROKER_UNREACHABLE
    while local_broker.status(own_broker.folder) is not None:
        await asyncio.sleep(0.05)
    await asyncio.to_thread(local_broker.up, own_broker.folder, environ=broker_environ)
    report = await graveyard.put_back()
    assert (len(report.replayed), [len(places) for places in report.skipped.values()]) == (2, [2])
    assert [sent(one) for one in await graveyard.read()] == RECORDS


async def test_a_topic_that_takes_no_such_record_says_so(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    if broker.kind != "apache-kafka":
        pytest.skip("noida-db has no such limit")
    graveyard = Graveyard(broker.cluster, unique_name, tmp_path)
    small = topics.TopicDefinition(graveyard.topic, 3, {"max.message.bytes": "1000"})
    await make_topics(graveyard.cluster, [small, topics.TopicDefinition(graveyard.dead)])
    await graveyard.bury([(b"k", b"x" * 5_000, ()), (b"k", b"1", ())])
    with pytest.raises(Refusal, match=r"raise its max\.message\.bytes; 0 put back so far") as caught:
        await graveyard.put_back()
    assert caught.value.code is FailureCode.REPLY_TOO_LARGE


async def test_what_cannot_be_noted_is_not_put_back(graveyard: Graveyard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayer, "MAX_METADATA_CHARS", 0)
    await graveyard.bury(RECORDS)
    await graveyard.bury([(b"last", b"1", ())], FailureCode.ENGINE_FAILED)
    report = await graveyard.put_back(code=FailureCode.ENGINE_FAILED)
    assert (report.replayed, list(report.skipped)) == ([], [Why.NO_ROOM])
    assert await graveyard.read() == []
    assert len((await graveyard.put_back()).replayed) == 5, "from the first on there is always room"


async def test_a_partition_that_is_no_more_is_left_to_the_key(graveyard: Graveyard) -> None:
    await graveyard.bury(RECORDS)
    assert len((await graveyard.put_back(partitions=2)).replayed) == 4
    assert {one.key for one in await graveyard.read()} == {key for key, _, _ in RECORDS}


def test_no_broker_is_one_line(tmp_path: Path) -> None:
    for arguments in (["list"], ["show", "/team/x"], ["replay", "/team/x"]):
        nowhere = Graveyard(Cluster("nowhere:1"), "x", tmp_path)
        nowhere.brokers = ""
        run = nowhere.command(*arguments)
        (line,) = run.stderr.splitlines()
        assert (run.returncode, line.startswith("broker_unreachable: ")) == (1, True)


async def test_many_topics_are_listed_as_one_is(graveyard: Graveyard) -> None:
    """The client learns of one topic in a tenth of a second, one after the other, where it is not told of all."""
    many = [dead_letter_topic(event_topic("many", f"{graveyard.namespace}-{n}")) for n in range(260)]
    await make_topics(graveyard.cluster, [topics.TopicDefinition(name) for name in many])
    await graveyard.bury(RECORDS)
    async with DeadLetterReader.connected(graveyard.cluster) as reader:
        spans = await reader.letters.spans(dict.fromkeys([graveyard.dead, *many], 1))
    assert len(spans) == 261
    assert [tp.topic for tp, span in spans.items() if len(span)] == [graveyard.dead]
    async with started(make_producer(graveyard.cluster, "test"), graveyard.cluster) as producer:
        for name in many:
            await producer.send(name, b"1", headers=[("guideway_dlq_code", b"internal_error")])
        await producer.flush()
    listed = [json.loads(line) for line in graveyard.command("list", "--json").stdout.splitlines()]
    ours = {one["topic"]: one["records"] for one in listed if one["topic"] in {graveyard.dead, *many}}
    assert ours == dict.fromkeys(many, 1) | {graveyard.dead: 4}
