"""A topic is deleted, so that it can be made anew."""

from __future__ import annotations

import asyncio

from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.connection.cluster import Cluster


async def delete_topic(cluster: Cluster, topic: str) -> None:
    """Returns when the cluster shows it no more: whoever made it before that would find it there, and then gone."""
    async with administrator(cluster) as admin, asyncio.timeout(60):
        await admin.delete_topics([topic])
        while topic in await partitions_by_topic(admin):
            await asyncio.sleep(0.05)
