"""What doctor finds, and that it says how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from guideway.infra import doctor, noida
from guideway.infra.doctor import Check
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.infra.topics import TopicDefinition, wanted
from guideway.schemas.manifests import Model


def by_name(checks: list[Check]) -> dict[str, Check]:
    assert all(bool(check.mend) != check.ok for check in checks), "a mend where something is wrong, and only there"
    return {check.name: check for check in checks}


def test_python_and_cores() -> None:
    assert doctor.python((3, 12)).ok
    assert not doctor.python((3, 10)).ok
    assert doctor.cores(2).ok
    assert not doctor.cores(1).ok


def test_packages_are_found_but_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {"llguidance": "1.7.0", "msgspec": "0.1"}.__getitem__)
    monkeypatch.delitem(sys.modules, "llguidance", raising=False)
    assert doctor.package("llguidance", (1, 3)) == Check("llguidance", True, "1.7.0")
    assert "llguidance" not in sys.modules
    assert "0.20 or later" in doctor.package("msgspec", (0, 20)).mend
    monkeypatch.undo()
    assert "guideway[worker]" in doctor.package("no-such-package", (1, 0)).mend
    assert not doctor.model_package("no_such_package").ok


@pytest.mark.parametrize(
    ("environ", "ok", "says"),
    [
        ({"KAFKA_BOOTSTRAP_SERVERS": "a:1"}, True, "a:1"),
        ({"KAFKA_HOME": "/nonexistent"}, False, "unpacked Apache Kafka"),
        ({}, True, "noida-db"),
    ],
)
def test_the_broker_that_would_be_used(environ: dict[str, str], ok: bool, says: str) -> None:
    check = doctor.to_start(environ)
    assert (check.ok, says in check.found + check.mend) == (ok, True)


def test_no_broker_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noida, "find_spec", lambda _name: None)
    assert "guideway[local]" in doctor.to_start({}).mend


def test_topics() -> None:
    found = by_name(
        doctor.topics(["gw.public.catalogue.v1", "gw.infer.small.interactive.v1", "gw.infer.small.batch.v1", "x"])
    )
    assert found["catalogue topic"].ok
    assert found["request topics"].found == "small"
    assert not any(check.ok for check in doctor.topics(["gw.infer.small.interactive.v1.dlq"]))
    event, reply = "gw.team.task.in.v1", "gw.team.task.out.v1"
    assert by_name(doctor.topics([event, reply, f"{event}.dlq"]))["reply and dead-letter topics"].ok
    assert f"missing: {event}.dlq" in by_name(doctor.topics([event, reply]))["reply and dead-letter topics"].found


async def test_no_broker_runs(tmp_path: Path) -> None:
    found = by_name(await doctor.checks({}, folder=tmp_path))
    assert "broker up" in found["broker runs"].mend
    assert os.listdir(tmp_path) == []


async def test_an_unreachable_cluster(tmp_path: Path) -> None:
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    found = by_name(await doctor.checks(environ, folder=tmp_path, timeout_s=0.2))
    assert found["broker"].ok
    assert "no Kafka broker answers" in found["broker runs"].mend


async def test_a_cluster_with_its_topics(broker: RunningBroker, unique_name: str) -> None:
    model = Model(namespace="public", name=unique_name, source="package:x/y.gguf")
    await make_topics(broker.cluster, [*wanted([model]), TopicDefinition(unique_name)])
    found = by_name(await doctor.checks({"KAFKA_BOOTSTRAP_SERVERS": broker.cluster.brokers}))
    assert found["broker runs"].found == f"{broker.cluster}, 1 broker(s)"
    assert found["catalogue topic"].ok
    assert unique_name in found["request topics"].found
