"""A cluster that deletes no topics: they stay, and nobody is told that it does not answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.faults.kafka.cluster import NO_KAFKA, KafkaCluster

from guideway.infra.topic_making import make_topics
from guideway.infra.topic_removal import remove_topics
from guideway.infra.topics import TopicDefinition

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(not os.environ.get("KAFKA_HOME"), reason=NO_KAFKA),
    pytest.mark.timeout(120),
]


async def test_topics_of_a_cluster_that_deletes_none_stay(tmp_path: Path, unique_name: str) -> None:
    with KafkaCluster.up(tmp_path / "kafka", 1, {"delete.topic.enable": "false"}) as kafka:
        await make_topics(kafka.cluster, [TopicDefinition(unique_name)])
        assert await remove_topics(kafka.cluster, [unique_name]) == [unique_name]
