"""Logs: one form for everybody, a few lines for what is said again and again, and wrong settings refused."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from guideway import logs
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.infra.topics import TopicDefinition
from guideway.logs import Sparing
from guideway.schemas.failures import FailureCode, Refusal

PROGRAM = """
import asyncio, logging, sys, warnings
import structlog
from guideway import logs
own = logging.getLogger("early")
own.addHandler(logging.StreamHandler()); own.propagate = False
logs.configure()
structlog.get_logger().info("ours", number=1)
structlog.get_logger().debug("too low")
logging.getLogger("aiokafka.conn").error("Unable to connect to %s", "broker:9092")
logging.getLogger("aiokafka.conn").info("password=secret")
logging.getLogger("qdrant_client").warning("slow")
own.warning("adopted")
from tqdm.auto import tqdm
for _ in tqdm(range(3)):
    pass
warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
for number in range(1000):
    logging.getLogger("aiokafka.client").error("Unable to request metadata from node %s", number)
    structlog.get_logger().warning("partition reopens", partition=number)
try:
    raise ValueError("why")
except ValueError:
    logging.getLogger("asyncio").exception("Task exception was never retrieved")
"""


def told(**environ: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-W", "default", "-c", PROGRAM],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not ended.stdout
    assert "secret" not in ended.stderr
    return ended.stderr.splitlines()


def test_all_lines_are_json_those_of_libraries_and_warnings_included() -> None:
    lines = [json.loads(line) for line in told()]
    events = [(one.get("logger"), one["level"], one["event"]) for one in lines]
    assert events[:4] == [
        (None, "info", "ours"),
        ("aiokafka.conn", "error", "Unable to connect to broker:9092"),
        ("qdrant_client", "warning", "slow"),
        ("early", "warning", "adopted"),
    ]
    assert "DeprecationWarning: deprecated" in next(text for name, _, text in events if name == "py.warnings")
    assert [name for name, _, text in events if text.startswith("Unable to request")] == ["aiokafka.client"] * 5
    assert len([text for _, _, text in events if text == "partition reopens"]) == 5
    assert "ValueError: why" in lines[-1]["exception"]
    assert all("timestamp" in one for one in lines)


def test_or_text_from_a_level_on() -> None:
    lines = told(GUIDEWAY_LOG_FORMAT="text", GUIDEWAY_LOG_LEVEL="error")
    assert "Unable to connect to broker:9092" in lines[0]
    assert not any(line.startswith("{") or "ours" in line or "slow" in line for line in lines)


@pytest.mark.parametrize(("name", "value"), [("GUIDEWAY_LOG_FORMAT", "xml"), ("GUIDEWAY_LOG_LEVEL", "loud")])
def test_a_wrong_setting_is_refused_with_what_there_is(name: str, value: str) -> None:
    with pytest.raises(Refusal, match=f"{name} is '{value}': it is one of") as caught:
        logs.configure(environ={name: value})
    assert caught.value.code is FailureCode.INVALID_SETTING
    ended = subprocess.run(
        [sys.executable, "-m", "guideway", "worker"],
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert name in ended.stderr
    assert "Traceback" not in ended.stderr


def until(holds: Callable[[], bool], within_s: float) -> None:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s
        time.sleep(0.2)


def test_a_broker_that_goes_away_takes_a_few_dozen_lines_to_tell(own_broker: RunningBroker, tmp_path: Path) -> None:
    asyncio.run(make_topics(own_broker.cluster, [*topics.wanted([]), TopicDefinition("gw.team.task.in.v1", 8)]))
    written = tmp_path / "endpoints.log"
    environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": own_broker.cluster.brokers}
    with written.open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "guideway", "endpoints", "--no-restart"], stdout=log, stderr=log, env=environ
        )
    try:
        until(lambda: "partitions assigned" in written.read_text(), 60)
        assert own_broker.pid is not None
        os.kill(own_broker.pid, signal.SIGKILL)
        until(lambda: "log lines were left out" in written.read_text(), 90)
        assert service.poll() is None
    finally:
        service.kill()
        service.wait()
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert any(one.get("logger", "").startswith("aiokafka") for one in lines), "libraries included"
    assert len(lines) < 100
    assert sum(one.get("number", 0) for one in lines if one["event"] == "log lines were left out") > 50


def test_a_few_lines_of_a_kind_in_each_span() -> None:
    sparing = Sparing(burst=2, every_s=30)
    assert [sparing.admits("a", now) for now in (0, 1, 2, 29.9)] == [True, True, False, False]
    assert (sparing.left_out("a"), sparing.ends_at("a")) == (2, 30)
    assert sparing.admits("b", 3), "each kind for itself"
    assert [sparing.admits("a", now) for now in (30, 31, 32)] == [True, True, False]
    assert (sparing.left_out("a"), sparing.left_out("never seen")) == (1, 0)


def test_kinds_are_bounded() -> None:
    sparing = Sparing(burst=1, kinds=3)
    for kind in "abcd":
        sparing.admits(kind, 0)
    assert len(sparing._seen) == 3
    assert sparing.admits("a", 1), "forgotten"


def test_how_many_were_left_out_is_said_at_the_end() -> None:
    now = [0.0]
    limiter = logs._Limiter(Sparing(burst=1, every_s=30), clock=lambda: now[0])
    assert limiter(None, "error", {"event": "away from 10.0.0.1", "logger": "x"})["event"] == "away from 10.0.0.1"
    for number in range(7):
        with pytest.raises(structlog.DropEvent):
            limiter(None, "error", {"event": f"away from 10.0.0.{number}", "logger": "x"})
    (kind,) = limiter._telling
    with structlog.testing.capture_logs() as lines:
        limiter.tell(kind, "away from #")
    assert [(one["event"], one["number"], one["of"]) for one in lines] == [
        ("log lines were left out", 7, "away from #")
    ]


def test_libraries_are_heard_from_warnings_on_whatever_the_level() -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    try:
        logs.configure(environ={"GUIDEWAY_LOG_LEVEL": "debug"})
        assert root.level == logging.WARNING
        logs.configure(environ={"GUIDEWAY_LOG_LEVEL": "error"})
        assert root.level == logging.ERROR
        assert len([one for one in root.handlers if isinstance(one, logs._FromLibraries)]) == 1
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
        logging.captureWarnings(capture=False)
        structlog.reset_defaults()


def test_what_others_wrote_commands_no_terminal() -> None:
    program = (
        "import structlog\nfrom guideway import logs\nlogs.configure(as_json=False)\nlog = structlog.get_logger()\n"
        "evil = '\\x1b[2J\\x9b2J\\u202e\\r\\n'\n"
        "log.info(f'read {evil}', file=evil, what=[evil], raw=evil.encode())\n"
        "try:\n    raise ValueError(evil)\nexcept ValueError:\n    log.exception('failed')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", timeout=60, check=True
    )
    assert "read \\u001b[2J" in ended.stderr
    assert not [one for one in ended.stderr if one != "\n" and not one.isprintable()]
