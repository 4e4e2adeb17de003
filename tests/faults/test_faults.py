"""A short set of faults on both kinds of broker; `make faults` runs the whole table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.kafka.cluster import NO_KAFKA

from guideway.infra.local_broker import RunningBroker

from .__main__ import ON_A_CLUSTER, ON_EITHER_BROKER, attempt, is_green
from .faults import FAULTS
from .run import run_fault

REQUESTS = 800
BY_NAME = {fault.name: fault for fault in FAULTS}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ON_EITHER_BROKER)
async def test_each_request_is_answered_once(name: str, broker: RunningBroker, tmp_path: Path) -> None:
    row = await run_fault(BY_NAME[name], tmp_path, REQUESTS, on=broker)
    assert is_green(row), row


@pytest.mark.broker
@pytest.mark.timeout(600)
@pytest.mark.skipif(not os.environ.get("KAFKA_HOME"), reason=NO_KAFKA)
@pytest.mark.parametrize("name", ON_A_CLUSTER)
async def test_each_request_is_answered_once_on_a_cluster_of_its_own(name: str) -> None:
    row = await attempt(BY_NAME[name], REQUESTS)
    assert is_green(row), row


@pytest.mark.broker
@pytest.mark.timeout(400)
@pytest.mark.skipif(not os.environ.get("KAFKA_HOME"), reason=NO_KAFKA)
async def test_the_bench_sees_what_it_is_to_see(broker_of_kind: Callable[[str], RunningBroker], tmp_path: Path) -> None:
    """Without the completed-set results are doubled, and the verdict says so."""
    fault = BY_NAME["kill -9 in mid-generation, each worker 3 times"]
    mutation = "D: commits without the completed-set"
    row = await run_fault(fault, tmp_path, REQUESTS, on=broker_of_kind("apache-kafka"), mutation=mutation)
    assert row.doubled > 0
