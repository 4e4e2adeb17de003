"""Which namespaces this user does not see: on a cluster with rights, what is hidden cannot be told from what is not."""

from __future__ import annotations

from collections.abc import Collection

from aiokafka.admin import AIOKafkaAdminClient

from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.rights.held import held
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import catalogue_topic


async def hidden(cluster: Cluster, namespaces: Collection[str]) -> frozenset[str]:
    """Those of these namespaces whose catalogue this user may not read; none on a cluster without rights.

    Raises Refusal(broker_unreachable).
    """
    async with administrator(cluster) as admin:
        there = await partitions_by_topic(admin)
        unseen = frozenset(one for one in namespaces if catalogue_topic(one) not in there)
        return unseen if unseen and await _has_rights(admin) else frozenset()


async def holds_rights(cluster: Cluster) -> bool:
    """Whether the cluster gives rights at all. Raises Refusal(broker_unreachable)."""
    async with administrator(cluster) as admin:
        try:
            return await held(admin) is not None
        except Refusal as refusal:
            if refusal.code is FailureCode.NOT_ALLOWED:
                return True
            raise


async def _has_rights(admin: AIOKafkaAdminClient) -> bool:
    try:
        await held(admin)
    except Refusal as refusal:
        if refusal.code is FailureCode.NOT_ALLOWED:
            return True
        raise
    # There are none, or we may see them all, and then all topics too.
    return False
