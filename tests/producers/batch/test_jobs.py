"""Batch jobs on real brokers, with a stand-in for what answers: each row once, whatever becomes of the job."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiokafka.errors import NodeNotReadyError
from tests.producers.batch.stand_in import answering, batcher, end_of, lines, rows

from guideway.delivery.clients.topic_reader import TopicReader
from guideway.infra.local_broker import RunningBroker
from guideway.producers.batch import job_run
from guideway.producers.batch.jobs import Jobs, Wanted
from guideway.producers.batch.service import BatcherSettings, BatchService
from guideway.producers.batch.stored import PIECE_ROWS, ROWS, SentRow
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import batch_topic
from guideway.schemas.wire import BATCH_JOB


async def test_each_row_is_answered_once_in_the_order_of_the_file(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    ns, jobs = unique_name, Jobs(broker.cluster, str(tmp_path))
    texts = [f"text {number}" for number in range(1200)]
    texts[3], texts[700], texts[701] = "", "!fail", "!full"
    async with answering(broker.cluster, ns) as answers, batcher(broker.cluster, tmp_path):
        job = await jobs.submit(ns, rows(texts, ns), Wanted())
        ended = await end_of(jobs, ns, job)
    output, errors = lines(jobs, ns, ended)
    assert ended.state == "done"
    assert [one["id"] for one in output] == [f"r{n}" for n in range(1, 1201) if n not in (4, 701)]
    assert [one["value"] for one in output[:2]] == ["TEXT 0", "TEXT 1"]
    assert [(one["id"], one["line"], one["code"]) for one in errors] == [
        (None, 4, "invalid_data"),
        ("r701", 701, "output_incomplete"),
    ]
    assert ended.counts.completed == 1198
    assert ended.counts.failures == {"invalid_data": 1, "output_incomplete": 1}
    assert (ended.counts.prompt_tokens, ended.counts.output_tokens) == (2 * 1198, 1198)
    assert answers.asked.pop("!full") == 2
    assert set(answers.asked.values()) == {1}


async def test_rows_that_ask_the_same_are_computed_once_and_each_id_has_its_answer(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    ns, jobs = unique_name, Jobs(broker.cluster, str(tmp_path))
    texts = [f"text {number % 7}" for number in range(1100)] + ["!fail", "!fail"]
    async with answering(broker.cluster, ns) as answers, batcher(broker.cluster, tmp_path):
        ended = await end_of(jobs, ns, await jobs.submit(ns, rows(texts, ns), Wanted(dedupe=True)))
    output, errors = lines(jobs, ns, ended)
    assert set(answers.asked.values()) == {1}
    assert [(one["id"], one["value"]) for one in output] == [(f"r{n}", f"TEXT {(n - 1) % 7}") for n in range(1, 1101)]
    assert [one["id"] for one in errors] == ["r1101", "r1102"]
    assert (ended.counts.completed, ended.counts.failed, ended.counts.output_tokens) == (1100, 2, 7)


async def test_a_cancelled_job_ends_with_what_it_has_and_cancels_what_is_under_way(
    broker: RunningBroker, unique_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_run, "_LAST_REPLIES_S", 1.0)
    monkeypatch.setattr(job_run, "WINDOW_ROWS", 600)
    ns, jobs = unique_name, Jobs(broker.cluster, str(tmp_path))
    texts = [f"text {number}" for number in range(400)] + [f"!wait {number}" for number in range(2000)]
    async with answering(broker.cluster, ns) as answers, batcher(broker.cluster, tmp_path):
        job = await jobs.submit(ns, rows(texts, ns), Wanted())
        async with asyncio.timeout(60):
            async for one in jobs.watch(ns, job.id):
                if one.counts.completed == 400:
                    break
        await jobs.cancel(ns, job.id)
        ended = await end_of(jobs, ns, job)
        waiting = sum(text.startswith("!wait") for text in answers.asked)
        async with asyncio.timeout(20):
            while len(answers.cancelled) < waiting:
                await asyncio.sleep(0.05)
    output, errors = lines(jobs, ns, ended)
    assert ended.state == "cancelled"
    assert 0 < waiting <= 600 + PIECE_ROWS
    assert [one["id"] for one in output] == [f"r{n}" for n in range(1, 401)]
    assert [one["id"] for one in errors] == [f"r{n}" for n in range(401, 2401)]
    assert {one["code"] for one in errors} == {"cancelled"}
    with pytest.raises(Refusal, match="has ended already: it is cancelled"):
        await jobs.cancel(ns, job.id)


async def test_rows_without_an_answer_at_the_deadline_fail_and_the_job_ends(
    broker: RunningBroker, unique_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_run, "_LAST_REPLIES_S", 0.5)
    ns, jobs = unique_name, Jobs(broker.cluster, str(tmp_path))
    async with answering(broker.cluster, ns) as answers, batcher(broker.cluster, tmp_path) as batches:
        # To begin takes a busy machine some seconds, which are not of the job's time.
        async with asyncio.timeout(60):
            await asyncio.gather(answers.pipeline.assigned.joined.wait(), batches.pipeline.assigned.joined.wait())
        job = await jobs.submit(ns, rows(["a", "!wait"] + ["b"] * 900, ns), Wanted(deadline_s=8))
        ended = await end_of(jobs, ns, job)
        late = await jobs.submit(ns, rows(["a", "!wait"], ns), Wanted(deadline_s=1))
        assert (await end_of(jobs, ns, late)).state == "expired"
    output, errors = lines(jobs, ns, ended)
    assert ended.state == "expired"
    assert [(one["id"], one["code"]) for one in errors] == [("r2", "deadline_exceeded")]
    assert len(output) == 901


async def test_a_store_that_takes_nothing_holds_a_job_up_and_says_so(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    ns, jobs = unique_name, Jobs(broker.cluster, str(tmp_path))
    async with answering(broker.cluster, ns) as answers:
        job = await jobs.submit(ns, rows([f"text {n}" for n in range(10)], ns), Wanted())
        # Stands where the folder of results is to be: nothing can be written there, as on a disk that is full.
        in_the_way = Path(jobs.folder(ns, job.id).path) / "results"
        in_the_way.write_bytes(b"")
        async with batcher(broker.cluster, tmp_path):
            async with asyncio.timeout(60):
                async for one in jobs.watch(ns, job.id):
                    if one.progress is not None and "the store cannot be used" in one.progress.trouble:
                        break
            in_the_way.unlink()
            ended = await end_of(jobs, ns, job)
    assert (ended.state, ended.counts.completed) == ("done", 10)
    assert set(answers.asked.values()) == {1}


async def test_rows_that_were_exchanged_after_they_were_submitted_are_not_sent(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    ns, jobs = unique_name, Jobs(broker.cluster, str(tmp_path))
    async with answering(broker.cluster, ns) as answers:
        job = await jobs.submit(ns, rows(["a", "b"], ns), Wanted())
        (piece,) = (Path(jobs.folder(ns, job.id).path) / "input").iterdir()
        piece.write_bytes(ROWS.encode([SentRow(1, "r1", f"/{ns}/echo", b'{"text":"other"}', "")]))
        async with batcher(broker.cluster, tmp_path):
            ended = await end_of(jobs, ns, job)
    assert not answers.asked
    assert ended.ended is not None
    assert (ended.state, ended.ended.code, ended.ended.output) == ("failed", "invalid_data", "")
    assert "piece 0 of its input has changed since it was submitted" in ended.ended.message


async def test_a_job_whose_record_stands_twice_in_its_topic_is_carried_out_once(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    ns, jobs = unique_name, Jobs(broker.cluster, str(tmp_path))
    async with answering(broker.cluster, ns) as answers:
        job = await jobs.submit(ns, rows(["a", "b"], ns), Wanted())
        await jobs._send(batch_topic(ns), job.id, BATCH_JOB.encode(job))
        async with batcher(broker.cluster, tmp_path):
            await end_of(jobs, ns, job)
            # Whoever comes next in the same partition.
            await end_of(jobs, ns, await jobs.submit(ns, rows(["c"], ns), Wanted(id=job.id + "x")))
    assert answers.asked == {"a": 1, "b": 1, "c": 1}
    assert (await jobs.job(ns, job.id)).state == "done"


async def test_jobs_that_only_wait_keep_those_of_others_from_nothing(
    broker: RunningBroker, unique_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two namespaces whose endpoints answer nothing, and a batcher with two slots."""
    monkeypatch.setattr(job_run, "RESTS_S", 1.0)
    jobs, names = Jobs(broker.cluster, str(tmp_path)), [f"{unique_name}{n}" for n in range(3)]
    async with AsyncExitStack() as stack:
        answers = [await stack.enter_async_context(answering(broker.cluster, ns)) for ns in names]
        await stack.enter_async_context(batcher(broker.cluster, tmp_path, jobs=2))
        for ns in names[:2]:
            await jobs.submit(ns, rows(["!wait"], ns), Wanted())
        async with asyncio.timeout(60):
            while not all(one.asked for one in answers[:2]):
                await asyncio.sleep(0.05)
        job = await jobs.submit(names[2], rows(["text"], names[2]), Wanted())
        ended = await end_of(jobs, names[2], job)
    assert ended.counts.completed == 1


async def test_a_batcher_that_cannot_read_what_is_cancelled_says_so(
    broker: RunningBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the Kafka client would be a stack trace."""

    async def fails(_: TopicReader) -> bool:
        raise NodeNotReadyError

    monkeypatch.setattr(TopicReader, "find", fails)
    with pytest.raises(Refusal) as caught:
        await BatchService(BatcherSettings(cluster=broker.cluster, store=str(tmp_path))).run()
    assert caught.value.code is FailureCode.BROKER_UNREACHABLE
