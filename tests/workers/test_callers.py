"""Programs without an event loop, and the command that sends a file."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.workers.end_to_end import EndToEnd

from guideway import BlockingClient, Completed, Failed, FailureCode, Refusal


async def test_a_program_without_an_event_loop(system: EndToEnd) -> None:
    def program() -> list[object]:
        with BlockingClient(system.cluster) as client:
            one = client.submit(system.address, "one", key="schlüssel", timeout_s=60)
            many = client.submit_all(system.address, (str(n) for n in range(20)), at_a_time=4, timeout_s=60)
            failed = client.submit(system.address, "x" * 30_000, timeout_s=60)
            assert isinstance(failed, Failed)
            with pytest.raises(Refusal) as caught:
                _ = failed.value
            assert caught.value.code is FailureCode.TEXT_TOO_LONG
            with pytest.raises(Refusal, match="unknown_endpoint"):
                client.submit("/nowhere/task", "x")
            return [one.value, *(reply.value for reply in many if isinstance(reply, Completed))]

    async with system.worker():
        assert await asyncio.to_thread(program) == ["one", *map(str, range(20))]


def test_no_broker_is_a_refusal_and_leaves_no_thread() -> None:
    with pytest.raises(Refusal) as caught, BlockingClient("127.0.0.1:1"):
        pass
    assert caught.value.code is FailureCode.BROKER_UNREACHABLE


async def send(system: EndToEnd, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "guideway", "send", system.address, *arguments]
    environ = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": system.cluster.brokers}
    return await asyncio.to_thread(
        subprocess.run, command, env=environ, capture_output=True, text=True, check=False, timeout=120
    )


async def test_a_file_with_bad_lines_is_sent_all_the_same(system: EndToEnd, tmp_path: Path) -> None:
    rows = [f"text {n}" for n in range(30)]
    rows[6], rows[11], rows[20] = '{"text": "a", "text": "b"}', '{"text": ', json.dumps({"text": "x" * 30_000})
    (tmp_path / "rows.txt").write_text("\ufeff" + "\n".join(rows) + "\n", "utf-8")
    async with system.worker():
        done = await send(system, "-f", str(tmp_path / "rows.txt"))
        assert done.returncode == 1
        assert done.stdout.splitlines() == [f"{n}\t{row}" for n, row in enumerate(rows, 1) if row.startswith("text")]
        told = done.stderr.splitlines()
        assert [line.partition(": ")[2].partition(":")[0] for line in told[:3]] == ["line 7", "line 12", "line 21"]
        assert [line.partition(":")[0] for line in told[:3]] == [
            "undecodable_event",
            "undecodable_event",
            "text_too_long",
        ]
        assert told[3:] == ["3 of 30 events have no completed reply"]
        as_json = await send(system, "-f", str(tmp_path / "rows.txt"), "--json")
        assert [json.loads(line)["line"] for line in as_json.stdout.splitlines()] == [*range(1, 31)]


async def test_what_gets_no_reply_is_told_for_each_line_and_what_no_event_can_be_sent_to_once(
    system: EndToEnd, tmp_path: Path
) -> None:
    (tmp_path / "rows.txt").write_text("one\ntwo\nthree\n")
    done = await send(system, "-f", str(tmp_path / "rows.txt"), "--timeout", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("no reply within 1 s: are") == 3
    assert "Traceback" not in done.stderr
    nowhere = await send(
        EndToEnd(system.cluster, "nowhere", tmp_path, system.client, system.reader), "-f", str(tmp_path / "rows.txt")
    )
    assert nowhere.returncode == 1
    assert [line.partition(":")[0] for line in nowhere.stderr.splitlines()] == ["unknown_endpoint"]
