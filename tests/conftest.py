"""What tests of every room share: real brokers, started when the first test asks and ended with the session."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from guideway.infra import local_broker
from guideway.infra.local_broker import RunningBroker

# Before anything imports huggingface_hub: tests need no network, and must not come to need one.
os.environ["HF_HUB_OFFLINE"] = "1"

# No deadlines: machines are shared, and a slow example is no failure.
settings.register_profile("guideway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("guideway")

KINDS = ("apache-kafka", "noida-db")


def environ_for(kind: str) -> dict[str, str]:
    """Our environment, changed so that `local_broker.up` starts a broker of this kind; skips where it cannot."""
    if kind == "apache-kafka" and not os.environ.get("KAFKA_HOME"):
        pytest.skip("set KAFKA_HOME to an unpacked Apache Kafka to run this on it (Java comes with guideway[local])")
    ours = {"KAFKA_BOOTSTRAP_SERVERS"} | ({"KAFKA_HOME"} if kind == "noida-db" else set())
    return {name: value for name, value in os.environ.items() if name not in ours}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"broker", "broker_environ"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("broker")


@pytest.fixture(scope="module")
def broker_of_kind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RunningBroker]]:
    """Gives a module's broker of a kind, started when it is first asked for; other modules' topics slow none."""
    running: dict[str, RunningBroker] = {}
    with contextlib.ExitStack() as ending:

        def broker_of_kind(kind: str) -> RunningBroker:
            if kind not in running:
                environ = environ_for(kind)
                running[kind] = local_broker.up(tmp_path_factory.mktemp(kind), environ=environ)
                ending.callback(local_broker.down, running[kind].folder, wipe=True)
            return running[kind]

        yield broker_of_kind


@pytest.fixture(scope="module", params=KINDS)
def broker(request: pytest.FixtureRequest, broker_of_kind: Callable[[str], RunningBroker]) -> RunningBroker:
    """A broker with `.bootstrap` and `.kind`, one for a module; each test that uses it runs on both kinds."""
    return broker_of_kind(request.param)


@pytest.fixture(params=KINDS)
def broker_environ(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment in which `local_broker.up` starts a broker; each test that uses it runs with both kinds."""
    return environ_for(request.param)


@pytest.fixture
def own_broker(broker_environ: dict[str, str], tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker that no other test uses, for a test that harms it (`os.kill(own_broker.pid, ...)`, then `up` again)."""
    folder = tmp_path / "broker"
    try:
        yield local_broker.up(folder, environ=broker_environ)
    finally:
        local_broker.down(folder, wipe=True)


@pytest.fixture
def unique_name() -> str:
    """A name that no other test uses, valid as a namespace, an endpoint or a model size."""
    return f"t{uuid.uuid4().hex[:10]}"
