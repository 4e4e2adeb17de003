"""The example clients over SASL_SSL, logged in as team A by the client.properties that each of them knows."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from tests.kafka.callers import CLIENTS, command_of

from .cluster import Mechanism
from .services.world import World, value_of

pytestmark = pytest.mark.timeout(300)


def run(world: World, client: str, address: str, timeout_s: str = "60") -> subprocess.CompletedProcess[str]:
    # kcat of Debian 12 has a librdkafka before 2.6.1, which cannot log in to Kafka 4 by SCRAM.
    mechanism: Mechanism = "PLAIN" if client == "kcat" else "SCRAM-SHA-512"
    login = world.secured.client_properties("team-a", mechanism=mechanism, jaas=client == "spring")
    return subprocess.run(
        [*command_of(client), world.secured.brokers, address, "Is the Earth round?", timeout_s],
        env={**os.environ, "KAFKA_CLIENT_CONFIG": str(login)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.parametrize("client", CLIENTS)
def test_an_example_client_is_answered(world: World, client: str) -> None:
    done = run(world, client, "/a/own")
    assert done.returncode == 0, done.stderr
    assert value_of(json.loads(done.stdout))["parts"][-1][2] == "Is the Earth round?"


@pytest.mark.parametrize("client", CLIENTS)
def test_an_example_client_says_that_it_may_not(world: World, client: str) -> None:
    done = run(world, client, "/b/private", "10")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
