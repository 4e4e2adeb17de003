"""`shadow:` of an endpoint on a running system: `guideway shadows` killed while it asks, before it promotes and behind
that; the candidate is promoted once, and callers notice nothing.

The engine is fake, for the rows are many.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from tests.faults.fake_engine import FINGERPRINT
from tests.faults.worker_process import Config
from tests.kafka.conftest import ROOT, System
from tests.kafka.test_shadow import MOOD, PROMPT, _live

from guideway.catalogue.entries import Catalogue
from guideway.delivery.clients.span_reader import SpanReader
from guideway.infra.local_broker import RunningBroker
from guideway.schemas.kinds.shadow import Shadow
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.names import header
from guideway.schemas.names.service_topics import catalogue_topic, shadows_topic
from guideway.schemas.names.topics import dead_letter_topic, event_topic, reply_topic
from guideway.schemas.output import Text
from guideway.schemas.record import Record
from guideway.schemas.services.shadow import ShadowRow, ShadowState
from guideway.schemas.wire import SHADOW
from guideway.settings import Settings
from guideway.usecases.apply import apply_made
from guideway.usecases.lookup import catalogue_of
from guideway.usecases.shadows.view import shadows_of

pytestmark = [pytest.mark.broker, pytest.mark.timeout(150)]
ROWS = 200
TOPIC = shadows_topic("shop")
SHADOWED = msgspec.structs.replace(MOOD, shadow=Shadow(share=1, rows=ROWS, promote="if_better"))


@pytest.fixture(scope="module")
def system(broker: RunningBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """An endpoint that declares a shadow of its candidate, served by an engine without a model."""
    home = tmp_path_factory.mktemp("home")
    made = System(broker.cluster, broker.kind, Settings(home=home, store=str(home / "store"), named=broker.cluster))
    asyncio.run(_applied(made))
    config = Config(brokers=broker.cluster.brokers, size="fake", folder=str(home), lanes=("interactive", "batch"))
    (home / "worker.json").write_bytes(msgspec.json.encode(config))
    try:
        made.start("endpoints")
        environ = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "EXECUTED_LOG": str(home / "executed")}
        _start(made, "worker", "tests.faults.worker_process", str(home / "worker.json"), **environ)
        yield made
    finally:
        made.stop()


async def _applied(system: System) -> None:
    model = Model(name="fake", namespace="public", source="fake", fingerprint=FINGERPRINT, partitions=1)
    candidate = Endpoint(
        namespace="shop", name="mood-candidate", model_size="fake", guidance=["shop/prompt@1"], output=Text()
    )
    made: list[Manifest] = [PROMPT, SHADOWED, candidate]
    await apply_made(system.settings, {"public"}, lambda _there: [model])
    await apply_made(system.settings, {"shop"}, lambda _there: made)


def _start(system: System, name: str, module: str, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    with (system.home / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=log,
            stderr=log,
            env={**system.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **environ},
        )
    system.processes[name] = process
    return process


def test_a_shadow_is_carried_out_through_kills_and_promotes_once(system: System) -> None:
    first = _start(system, "shadows", "tests.kafka.shadow_process", "never")
    _until(lambda: _shown(system).get("stage") == "running" and _has_trials(system))
    sent = _send_until(system, 0, lambda: _shown(system)["rows"] >= 40)
    first.send_signal(signal.SIGKILL)
    first.wait()

    # It goes on with the rows that are there, and dies when the candidate is about to be promoted.
    second = _start(system, "shadows", "tests.kafka.shadow_process", "before")
    sent = _send_until(system, sent, lambda: second.poll() is not None or _shown(system)["rows"] >= ROWS)
    assert second.wait(60) == -signal.SIGKILL
    assert _shown(system)["stage"] == "promoting"
    assert _endpoint(system) == (1, [])

    # The next decides again, and dies when that is done.
    third = _start(system, "shadows", "tests.kafka.shadow_process", "behind")
    assert third.wait(60) == -signal.SIGKILL
    assert _endpoint(system) == (2, ["shop/prompt@1"])

    # The next sees that it is done, and says so.
    system.start("shadows", "--namespace", "shop", "--no-restart")
    _until(lambda: _shown(system)["stage"] == "ended")
    told = _shown(system)
    assert (told["outcome"], told["version"], told["changes"]) == (
        "promoted",
        2,
        {"candidate": "/shop/mood-candidate@1"},
    )
    assert told["figures"]["rows"] >= ROWS
    assert told["figures"]["answered_new"][0] == 1
    assert _endpoint(system) == (2, ["shop/prompt@1"])
    assert not _has_trials(system)

    records = asyncio.run(_records(system, TOPIC))
    written = [(one.key, SHADOW.decode(one.value)) for one in records if one.value is not None]
    rows = Counter(key for key, message in written if isinstance(message, ShadowRow))
    assert ROWS <= len(rows) <= sent
    assert set(rows.values()) == {1}, "each event counts once, whatever was killed"
    assert {one.key for one in records if one.value is None} == set(rows), "nothing of them is kept"
    states = [(one.stage, one.outcome) for _, one in written if isinstance(one, ShadowState)]
    assert states[-1] == ("ended", "promoted")
    [promoted] = [
        one.key
        for one in asyncio.run(_records(system, catalogue_topic("shop")))
        if one.header(header.APPLIED_BY) == b"shadow"
    ]
    assert promoted == b"endpoint/shop/mood@2"

    # Callers' requests were answered once each, and no other record stands where they look.
    replies = asyncio.run(_records(system, reply_topic("shop", "mood")))
    assert len(replies) == sent
    assert not asyncio.run(_records(system, dead_letter_topic(event_topic("shop", "mood"))))
    described = system.command("describe", "endpoint", "shop/mood").stdout
    assert "# shadow: ended with" in described
    assert "its candidate was promoted: it is version 2 of the endpoint" in described


def _send_until(system: System, first: int, is_enough: Callable[[], bool]) -> int:
    """Callers that call until then; returns how many calls there were, with those before."""
    until = time.monotonic() + 60
    while not is_enough():
        assert time.monotonic() < until, _shown(system)
        asyncio.run(_live(system, first, first + 40))
        first += 40
    return first


def _until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.1)


def _shown(system: System) -> dict[str, Any]:
    """As `guideway shadows list` tells it."""
    found: dict[str, Any] = msgspec.to_builtins(asyncio.run(shadows_of(system.settings, "shop"))[0])
    return found


def _catalogue(system: System) -> Catalogue:
    return asyncio.run(catalogue_of(system.settings))


def _endpoint(system: System) -> tuple[int, list[str]]:
    version, now = _catalogue(system).endpoint("shop", "mood")
    return version, now.guidance


def _has_trials(system: System) -> bool:
    return any("-replay-" in one.name for one in _catalogue(system).owned("endpoint", "shop"))


async def _records(system: System, topic: str) -> list[Record]:
    async with SpanReader.connected(system.cluster, "test") as reader:
        return [one async for one in reader.read(await reader.spans({topic: 1}))]
