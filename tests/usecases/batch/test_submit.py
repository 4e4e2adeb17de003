"""A file becomes a job once, and the command that was interrupted goes on with it."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiokafka.errors import GroupAuthorizationFailedError
from tests.producers.batch.stand_in import answering, batcher, end_of

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.producers.batch.files.form import file_form
from guideway.producers.batch.jobs import Jobs
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.output import Text
from guideway.settings import Settings
from guideway.usecases.batch import jobs as batch_jobs
from guideway.usecases.batch import results
from guideway.usecases.batch.submit import Asked, _as_surveyed, submit

on_kafka = pytest.mark.parametrize("broker", ["apache-kafka"], indirect=True)


async def apply(cluster: Cluster, namespace: str) -> None:
    manifests: list[Manifest] = [
        Model(name="none", namespace="public", source="fake", fingerprint=f"sha256:{'0' * 64}"),
        Endpoint(namespace=namespace, name="echo", model_size="none", output=Text()),
    ]
    await make_topics(cluster, topics.wanted(manifests))
    async with CatalogueFollower(cluster) as reader:
        await publish(cluster, plan_changes(reader.catalogue, manifests))


def written(file: Path, namespace: str, texts: list[str]) -> Path:
    lines = [json.dumps({"id": f"r{n}", "endpoint": f"/{namespace}/echo", "text": one}) for n, one in enumerate(texts)]
    file.write_text("\n".join(lines))
    return file


def asked(file: Path, **more: str) -> Asked:
    return Asked(form=file_form(str(file)), **more)  # type: ignore[arg-type]


@on_kafka
async def test_a_file_that_is_submitted_again_is_the_same_job_until_it_changes(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    ns, cluster = unique_name, broker.cluster
    settings = Settings(home=tmp_path, store=str(tmp_path / "store"), named=cluster)
    await apply(cluster, ns)
    file, out = written(tmp_path / "rows.jsonl", ns, ["a", "b"]), str(tmp_path / "out.jsonl")
    first = await submit(settings, asked(file, out=out), resume=True)
    assert (first.job.namespace, first.job.job.rows, first.is_new) == (ns, 2, True)
    again = await submit(settings, asked(file, out=out), resume=True)
    assert (again.job.job.id, again.is_new) == (first.job.job.id, False)
    written(file, ns, ["a", "c"])
    with pytest.raises(Refusal, match=rf"has changed since batch job {ns}/{first.job.job.id} was submitted"):
        await submit(settings, asked(file, out=out), resume=True)
    jobs = Jobs(cluster, settings.store)
    await jobs.cancel(ns, first.job.job.id)
    changed = await submit(settings, asked(file, out=out), resume=True)
    assert changed.is_new
    async with answering(cluster, ns), batcher(cluster, tmp_path / "store"):
        await end_of(jobs, ns, changed.job.job)
    # Its results may have been lost on their way: they are there to be fetched once more.
    done = (await submit(settings, asked(file, out=out), resume=True)).job
    assert (done.job.id, done.state) == (changed.job.job.id, "done")
    results.write(settings, done, Path(out))
    # Whoever has them wants them anew: the endpoint may be another by now.
    assert (await submit(settings, asked(file, out=out), resume=True)).is_new


@on_kafka
async def test_what_comes_through_a_pipe_again_is_the_same_job(
    broker: RunningBroker, unique_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, store=str(tmp_path / "store"), named=broker.cluster)
    await apply(broker.cluster, unique_name)
    form, out = file_form("-", format="jsonl"), str(tmp_path / "out.jsonl")
    data = written(tmp_path / "rows.jsonl", unique_name, ["a", "b"]).read_bytes()
    found = []
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        found.append(await submit(settings, Asked(form=form, out=out), resume=True))
    assert [one.is_new for one in found] == [True, False]
    assert found[0].job.job.id == found[1].job.job.id
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data + b"\n")))
    with pytest.raises(Refusal, match=r"standard input or how it is read has changed"):
        await submit(settings, Asked(form=form, out=out), resume=True)


def test_a_file_that_somebody_writes_while_it_is_submitted_is_no_job() -> None:
    assert [*_as_surveyed(iter("ab"), 2, "rows.jsonl")] == ["a", "b"]
    for rows in ("a", "abc"):
        with pytest.raises(Refusal, match=rf"had 2 rows at first and {len(rows)} when they were submitted"):
            list(_as_surveyed(iter(rows), 2, "rows.jsonl"))


def test_a_file_that_cannot_be_read_to_its_end_is_not_a_store_that_is_full() -> None:
    def rows() -> Iterator[str]:
        yield "a"
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(Refusal, match=r"rows\.jsonl cannot be read to its end now \(Input/output error\)"):
        list(_as_surveyed(rows(), 2, "rows.jsonl"))


async def test_a_run_that_may_not_carry_out_its_job_says_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(_: Settings) -> bool:
        return False

    class Forbidden:
        async def run(self) -> None:
            raise GroupAuthorizationFailedError("gw.batchers")

    monkeypatch.setattr(batch_jobs, "has_batcher", nobody)
    monkeypatch.setattr(batch_jobs, "batcher", lambda *_, **__: Forbidden())
    settings, said = Settings(home=tmp_path, store=str(tmp_path), named=Cluster("localhost:1")), list[str]()
    standby = batch_jobs.Standby(settings, "shop", say=said.append)
    await standby.run()
    assert not standby.is_needed
    assert "this command cannot carry it out itself (" in said[0]
    assert "group" in said[0]
    assert "It waits until `guideway batcher` runs" in said[0]


@on_kafka
async def test_rows_of_several_namespaces_need_to_be_told_whose_job_it_is(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, store=str(tmp_path / "store"), named=broker.cluster)
    await apply(broker.cluster, unique_name)
    file = written(tmp_path / "rows.jsonl", unique_name, ["a"])
    file.write_text(file.read_text() + '\n{"id": "x", "endpoint": "/other/echo", "text": "b"}')
    with pytest.raises(Refusal, match=r"its first rows name endpoints of .*: say with --namespace") as refused:
        await submit(settings, asked(file))
    assert refused.value.code is FailureCode.INVALID_SETTING
    job = (await submit(settings, asked(file, namespace=unique_name))).job
    assert (job.namespace, job.job.rows) == (unique_name, 2)


@on_kafka
async def test_an_interrupted_run_says_how_to_go_on_and_does(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    ns, cluster, out = unique_name, broker.cluster, tmp_path / "out.jsonl"
    await apply(cluster, ns)
    texts = [f"text {n}" for n in range(600)] + ["!wait"]
    file = written(tmp_path / "rows.jsonl", ns, texts)
    environ = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": str(cluster), "GUIDEWAY_HOME": str(tmp_path)}
    command = (sys.executable, "-m", "guideway", "batch", "run", str(file), "-o", str(out), "--json")
    pipe = asyncio.subprocess.PIPE
    jobs = Jobs(cluster, str(tmp_path / "store"))
    async with answering(cluster, ns) as answers, asyncio.timeout(120):
        child = await asyncio.create_subprocess_exec(*command, env=environ, stdout=pipe, stderr=pipe)
        while not answers.asked["!wait"]:
            assert child.returncode is None
            await asyncio.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, said = await child.communicate()
        assert child.returncode == 130
        assert b"is kept: the same command goes on with it" in said
        assert not out.exists()
        answers.held.set()
        child = await asyncio.create_subprocess_exec(*command, env=environ, stdout=pipe, stderr=pipe)
        told, said = await child.communicate()
        assert child.returncode == 0, said
    assert len(await jobs.list(ns)) == 1
    last = json.loads(told.splitlines()[-1])
    assert (last["state"], last["completed"], last["out"], last["errors"]) == ("done", 601, str(out), "")
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [f"r{n}" for n in range(601)]
    assert set(answers.asked.values()) == {1}


@on_kafka
async def test_a_run_does_the_work_itself_where_batchers_are_there_for_others_only(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    ns, cluster = unique_name, broker.cluster
    settings = Settings(home=tmp_path, store=str(tmp_path / "store"), named=cluster)
    await apply(cluster, ns)
    await make_topics(cluster, topics.batches(f"{ns}-b"))
    found = await submit(settings, asked(written(tmp_path / "rows.jsonl", ns, ["a", "b"])))
    other = batch_jobs.batcher(settings, namespace=f"{ns}-b")
    others = asyncio.create_task(other.run())
    try:
        await asyncio.wait_for(other.pipeline.assigned.joined.wait(), 30)
        standby = batch_jobs.Standby(settings, ns, patience_s=2)
        running = asyncio.create_task(standby.run())
        async with answering(cluster, ns):
            assert (await end_of(Jobs(cluster, settings.store), ns, found.job.job)).state == "done"
        standby.stop()
        await asyncio.wait_for(running, 20)
    finally:
        other.stop(0.1)
        await asyncio.wait_for(others, 20)
    assert standby.is_needed
