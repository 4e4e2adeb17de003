"""`guideway get`, `delete` and `apply --with-small` as they are typed, on a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.service_topics import catalogue_topic
from guideway.schemas.output import Text
from guideway.schemas.wire import MANIFEST


def test_what_cannot_be_read_is_shown(broker: RunningBroker, unique_name: str) -> None:
    """It was passed over without a word, and an older program wrote over it."""

    async def write() -> None:
        await make_topics(broker.cluster, topics.catalogues([unique_name]))
        async with started(make_producer(broker.cluster, "test"), broker.cluster) as producer:
            for key, value in (
                (f"endpoint/{unique_name}/task@7", b'{"kind":"endpoint/v9"}'),
                (f"endpoint/{unique_name}/task@{'9' * 4301}", b"{}"),
            ):
                await producer.send_and_wait(catalogue_topic(unique_name), key=key.encode(), value=value, partition=0)

    asyncio.run(write())

    def guideway(*arguments: str) -> str:
        environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.cluster.brokers, "COLUMNS": "200"}
        command = [sys.executable, "-m", "guideway", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False).stdout

    def unread() -> list[int]:
        listed = [json.loads(line) for line in guideway("get", "--json").splitlines()]
        return [one["version"] for one in listed if one.get("what") == f"endpoint {unique_name}/task"]

    assert unread() == [7]
    assert "entries that cannot be read" in guideway("doctor")
    assert "deleted" in guideway("delete", "endpoint", f"{unique_name}/task@7", "--anyway")
    assert unread() == []


def test_topics_of_events_are_made_where_there_is_no_room_for_those_of_batches(
    broker: RunningBroker, unique_name: str, tmp_path: Path
) -> None:
    task = Endpoint(namespace=unique_name, name="task", model_size="small", output=Text())
    (tmp_path / "task.yaml").write_bytes(MANIFEST.encode(task))

    def apply(*arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.cluster.brokers, "COLUMNS": "200"}
        command = [sys.executable, "-m", "guideway", "topics", "apply", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    async def there() -> dict[str, int]:
        async with administrator(broker.cluster) as admin:
            return {name: len(found) for name, found in (await partitions_by_topic(admin)).items() if name[:3] == "gw."}

    assert apply().returncode == 0
    before, wanted = asyncio.run(there()), {one.name: one.partitions for one in topics.wanted([task])}
    room = sum((before | wanted).values()) + 1
    refused = apply("-f", str(tmp_path / "task.yaml"), "--max-partitions", str(room))
    assert refused.returncode == 1
    assert "--max-partitions" in refused.stderr
    assert wanted.keys() <= asyncio.run(there()).keys()
    assert apply("-f", str(tmp_path / "task.yaml")).returncode == 0
    assert {one.name for one in topics.batches(unique_name)} <= asyncio.run(there()).keys()


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
