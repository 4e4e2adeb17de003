"""The ground of the attacks, made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .cluster import SecuredCluster, secured_cluster
from .services.ground import lay
from .services.intruder import Intruder
from .services.world import World, running


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredCluster]:
    """One cluster for all tests of this folder: take names of your own (`unique_name`)."""
    with secured_cluster(tmp_path_factory.mktemp("secured")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def secured_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredCluster]:
    """A cluster of this file's own, for tests that answer in place of a service: the services of `world` are in the
    same group, and take their share of the topics."""
    with secured_cluster(tmp_path_factory.mktemp("secured")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def ground(secured: SecuredCluster) -> SecuredCluster:
    """The secured cluster with the namespaces `a`, `b`, `ab` and `public`."""
    lay(secured)
    return secured


@pytest.fixture(scope="session")
def team_a(ground: SecuredCluster) -> Intruder:
    return Intruder(ground, "team-a")


@pytest.fixture(scope="session")
def team_b(ground: SecuredCluster) -> Intruder:
    return Intruder(ground, "team-b")


@pytest.fixture(scope="session")
def world(ground: SecuredCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All services on the ground, and what the teams have applied."""
    with running(ground, tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="session")
def outsider(ground: SecuredCluster) -> Intruder:
    return Intruder(ground, "outsider")
