"""What the demo says while it waits for its processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from guideway.cli.demo import demo


async def test_a_long_wait_tells_what_the_processes_say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "_NEWS_S", 0.01)
    (log := tmp_path / "worker.log").write_text("converting\n")
    process = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)

    async def work() -> str:
        while not (told := capsys.readouterr().err):
            await asyncio.sleep(0.01)
        return told

    try:
        assert (await demo._Processes({log: process}).watch(work())).startswith("still at it; worker: converting\n")
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
