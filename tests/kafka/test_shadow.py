"""`guideway shadow` on a running system: killed, gone on with, and the candidate promoted; callers notice nothing.

The engine is fake, for the rows are many: it answers with a digest of the text.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.faults.fake_engine import FINGERPRINT, answer_to
from tests.faults.worker_process import Config
from tests.kafka.conftest import ROOT, System

from guideway.catalogue.changes import plan_changes
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.clients.span_reader import SpanReader
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.producers.client.client import Client
from guideway.schemas.manifests import Endpoint, Guidance, Lineage, Manifest, Model
from guideway.schemas.names.topics import reply_topic
from guideway.schemas.output import Text
from guideway.schemas.reply import Completed
from guideway.settings import Settings
from guideway.usecases.lookup import catalogue_of

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]
ROWS = 200
DIGEST = "sha256:" + "a" * 64
MOOD = Endpoint(namespace="shop", name="mood", model_size="fake", output=Text(), archive=True)
PROMPT = Guidance(
    namespace="shop",
    name="prompt",
    form="text_prompt",
    text="Say it well.",
    lineage=Lineage(
        run="r",
        method="text-prompt",
        code="1",
        seed=1,
        data=DIGEST,
        eval_data=DIGEST,
        metric="accuracy",
        score=[0.95, 0.93, 0.97],
        over_bare=[0.1, 0.05, 0.15],
        rows=400,
    ),
)


@pytest.fixture(scope="module")
def system(broker: RunningBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An endpoint with a candidate, served by an engine without a model."""
    home = tmp_path_factory.mktemp("home")
    made = System(broker.cluster, broker.kind, Settings(home=home, store=str(home / "store"), named=broker.cluster))
    asyncio.run(_applied(made))
    config = Config(brokers=broker.cluster.brokers, size="fake", folder=str(home), lanes=("interactive", "batch"))
    (home / "worker.json").write_bytes(msgspec.json.encode(config))
    environ = {**made.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "EXECUTED_LOG": str(home / "executed")}
    try:
        made.start("endpoints")
        with (home / "worker.log").open("ab") as log:
            command = [sys.executable, "-m", "tests.faults.worker_process", str(home / "worker.json")]
            made.processes["worker"] = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
        yield made
    finally:
        made.stop()


async def _applied(system: System) -> None:
    model = Model(name="fake", namespace="public", source="fake", fingerprint=FINGERPRINT, partitions=1)
    candidate = Endpoint(
        namespace="shop", name="mood-candidate", model_size="fake", guidance=["shop/prompt@1"], output=Text()
    )
    manifests: list[Manifest] = [model, MOOD, PROMPT, candidate]
    await make_topics(system.cluster, topics.wanted(manifests))
    async with CatalogueFollower(system.cluster) as reader:
        await publish(system.cluster, plan_changes(reader.catalogue, manifests))


def test_a_killed_shadow_misses_nothing_promotes_the_candidate_and_callers_notice_nothing(
    system: System, tmp_path: Path
) -> None:
    out = tmp_path / "shadow"
    command = ["shadow", "/shop/mood", "--candidate", "--promote", "if_better", "--share", "1", "--rows", str(ROWS)]
    command += ["--in-flight", "32", "--out", str(out), "--json"]
    first = subprocess.Popen(
        [sys.executable, "-m", "guideway", *command], env=system.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _until(first, (out / "seen.json").exists)
    asyncio.run(_live(system, 0, 80))
    answers = out / "answers.jsonl"
    _until(first, lambda: answers.exists() and answers.read_bytes().count(b"\n") >= 4)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    kept = answers.read_bytes().rpartition(b"\n")[0].splitlines()
    asyncio.run(_live(system, 80, 210))

    done = system.command(*command)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_bytes().splitlines()]
    assert [one["number"] for one in rows] == [*range(1, ROWS + 1)]
    assert {one["id"] for one in rows} == {f"live-{n}" for n in range(ROWS)}, "what came behind the kill as well"
    lines = answers.read_bytes().splitlines()
    assert lines[: len(kept)] == kept, "what was answered is not asked again"
    assert len(lines) == 2 * ROWS
    assert (told["rows"], told["outcome"]["promoted"], told["outcome"]["version"]) == (ROWS, True, 2)
    assert "The candidate was promoted: it is version 2" in Path(told["report"]).read_text()

    catalogue = asyncio.run(catalogue_of(system.settings))
    _, now = catalogue.endpoint("shop", "mood")
    assert (now.guidance, now.archive) == (["shop/prompt@1"], True)
    assert not [one for one in catalogue.owned("endpoint", "shop") if "-replay-" in one.name]
    # Callers' requests were answered once each, and no other record stands where they look.
    assert asyncio.run(_replies(system)) == 210


def _until(process: subprocess.Popen[bytes], is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


async def _live(system: System, first: int, end: int) -> None:
    """What callers send, and are answered."""
    async with Client(system.cluster) as client:
        replies = await asyncio.gather(
            *(client.submit("/shop/mood", f"n={n}", request_id=f"live-{n}", timeout_s=60) for n in range(first, end))
        )
    assert all(isinstance(one, Completed) for one in replies), replies[:1]
    assert [one.samples[0].value for one in replies if isinstance(one, Completed)] == [
        answer_to(f"n={n}") for n in range(first, end)
    ]


async def _replies(system: System) -> int:
    """How many records stand on the endpoint's own reply topic."""
    found = 0
    async with SpanReader.connected(system.cluster, "test") as reader:
        async for _ in reader.read(await reader.spans({reply_topic("shop", "mood"): 1})):
            found += 1
    return found
