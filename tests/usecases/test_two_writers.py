"""Two processes that publish under the same name at the same time: no version comes twice, and none is lost."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from guideway.catalogue.entries import Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.schemas.manifests import Guidance

WRITER = """
import asyncio, sys
from guideway.schemas.manifests import Guidance
from guideway.settings import Settings
from guideway.usecases.apply import apply_made

async def main(namespace, who):
    for number in range(3):
        one = Guidance(namespace=namespace, name="tone", form="text_prompt", text=f"{who} {number}")
        [change] = await apply_made(Settings.from_environ(), [namespace], lambda _: [one])
        print(change.version, one.text, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.timeout(300)
async def test_no_version_comes_twice(broker: RunningBroker, unique_name: str, tmp_path: Path) -> None:
    environ = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.cluster.brokers, "GUIDEWAY_HOME": str(tmp_path)}
    await make_topics(broker.cluster, topics.catalogues([unique_name]))
    writers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITER, unique_name, who), env=environ, stdout=asyncio.subprocess.PIPE
        )
        for who in ("one", "other")
    ]
    said = [(await one.communicate())[0].decode().splitlines() for one in writers]
    assert [one.returncode for one in writers] == [0, 0]
    given = {int(version): text for lines in said for version, _, text in (line.partition(" ") for line in lines)}
    assert sorted(given) == [1, 2, 3, 4, 5, 6]
    async with CatalogueFollower(broker.cluster) as reader:
        identity = Identity("guidance", unique_name, "tone")
        for version, text in given.items():
            found = reader.catalogue.get(identity, version)
            assert isinstance(found, Guidance)
            assert found.text == text
