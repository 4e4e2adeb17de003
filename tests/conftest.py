"""What tests of every room share: real brokers, started when the first test asks and ended with the session."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.secured.cluster import SecuredCluster, secured_cluster
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from guideway.infra import local_broker
from guideway.infra.local_broker import RunningBroker

# Before anything imports huggingface_hub: tests need no network, and must not come to need one.
os.environ["HF_HUB_OFFLINE"] = "1"

# No deadlines: machines are shared, and a slow example is no failure.
settings.register_profile("guideway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("guideway")

SECURED = "tests/secured/"
KINDS = ("apache-kafka", "noida-db")
ONE_OF_KINDS = KINDS if os.environ.get("GUIDEWAY_EVERY_BROKER") or not os.environ.get("KAFKA_HOME") else KINDS[:1]
"""For tests of a whole system, which take long: Apache Kafka where it is there. `make test-brokers` runs both."""
ON_BOTH = ("tests/delivery/", "tests/catalogue/", "tests/infra/", "tests/usecases/")
"""Folders whose tests of brokers run on both kinds: they have all that we ask of a broker. The others' are of the whole
that is made of it."""


def environ_for(kind: str) -> dict[str, str]:
    """Our environment, changed so that `local_broker.up` starts a broker of this kind; skips where it cannot."""
    if kind == "apache-kafka" and not os.environ.get("KAFKA_HOME"):
        pytest.skip("set KAFKA_HOME to an unpacked Apache Kafka to run this on it (Java comes with guideway[local])")
    ours = {"KAFKA_BOOTSTRAP_SERVERS"} | ({"KAFKA_HOME"} if kind == "noida-db" else set())
    return {name: value for name, value in os.environ.items() if name not in ours}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if {"broker", "broker_environ", "secured"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("broker")
    if ONE_OF_KINDS == KINDS:
        return
    left = {item for item in items if KINDS[1] in item.name and not item.nodeid.startswith(ON_BOTH)}
    config.hook.pytest_deselected(items=[*left])
    items[:] = [item for item in items if item not in left]


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Where processes share the tests, each file stays whole, and one of them has the secured cluster's folder."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return SECURED if file.startswith(SECURED) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByFile:
    return _ByFile(config, log)


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
    """A broker with `.cluster` and `.kind`, one for a module; each test that uses it runs on both kinds."""
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


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredCluster]:
    """A cluster of this file's own: its tests would find the services, rights and models that others leave on one."""
    with secured_cluster(tmp_path_factory.mktemp("secured")) as cluster:
        yield cluster


@pytest.fixture
def unique_name() -> str:
    """A name that no other test uses, valid as a namespace, an endpoint or a model size."""
    return f"t{uuid.uuid4().hex[:10]}"
