"""`guideway get`, `delete` and `apply --with-small` as they are typed, on a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.schemas import names


def test_what_cannot_be_read_is_shown(broker: RunningBroker, unique_name: str) -> None:
    """It was passed over without a word, and an older program wrote over it."""

    async def write() -> None:
        await topics.apply(broker.bootstrap, topics.wanted([]))
        async with started(make_producer(broker.bootstrap, "test"), broker.bootstrap) as producer:
            for key, value in (
                (f"endpoint/{unique_name}/task@7", b'{"kind":"endpoint/v9"}'),
                (f"endpoint/{unique_name}/task@{'9' * 4301}", b"{}"),
            ):
                await producer.send_and_wait(names.CATALOGUE_TOPIC, key=key.encode(), value=value, partition=0)

    asyncio.run(write())

    def guideway(*arguments: str) -> str:
        environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "COLUMNS": "200"}
        command = [sys.executable, "-m", "guideway", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False).stdout

    def unread() -> list[int]:
        listed = [json.loads(line) for line in guideway("get", "--json").splitlines()]
        return [one["version"] for one in listed if one.get("what") == f"endpoint {unique_name}/task"]

    assert unread() == [7]
    assert "entries that cannot be read" in guideway("doctor")
    assert "deleted" in guideway("delete", "endpoint", f"{unique_name}/task@7")
    assert unread() == []


def test_a_fresh_broker_offers_a_model_to_try_things_out_with(tmp_path: Path) -> None:
    """The README's own endpoint was refused in a fresh folder: nobody had told where `small` comes from."""
    (tmp_path / "mood.yaml").write_text(
        "kind: endpoint/v1\nnamespace: shop\nname: mood\nmodel_size: small\noutput: {type: choice, labels: [a, b]}\n"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}

    def guideway(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "guideway", *arguments]
        return subprocess.run(
            command,
            env=environ | {"GUIDEWAY_HOME": str(tmp_path / "home")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    try:
        assert "model size small: SmolLM2-135M" in guideway("broker", "up").stderr
        assert "model size small" not in guideway("broker", "up").stderr, "it is there already"
        applied = guideway("apply", "-f", "mood.yaml")
        assert (applied.returncode, applied.stderr) == (0, "")
        well = guideway("doctor")
        assert "All is well." in well.stdout or well.returncode == 1, "a machine may lack cores or room"
        guideway("delete", "endpoint", "shop/mood")
        guideway("delete", "model", "small")
        refused = guideway("apply", "-f", "mood.yaml")
        assert refused.returncode == 1
        assert "there is no model size 'small': `guideway apply --with-small` adds the one" in refused.stderr
        assert guideway("apply", "--with-small", "-f", "mood.yaml").stdout.count("created") == 2
        assert "has a model size small already" in guideway("apply", "--with-small").stderr
    finally:
        guideway("broker", "down", "--wipe")
