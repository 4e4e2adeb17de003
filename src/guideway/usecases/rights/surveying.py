"""What a cluster holds at this moment: topics, rights, quotas, namespaces, endpoints."""

from __future__ import annotations

from aiokafka.admin import AIOKafkaAdminClient

from guideway.catalogue.entries import Catalogue
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.clients.administrator import partitions_by_topic
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.rights import held
from guideway.infra.rights.survey import Survey
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Model


async def surveyed(admin: AIOKafkaAdminClient, *, with_quotas: bool = True) -> Survey:
    """Raises Refusal(not_allowed) for whoever is no administrator."""
    rights = await held.held(admin)
    topics = {name: len(partitions) for name, partitions in (await partitions_by_topic(admin)).items()}
    return Survey(
        topics=topics,
        rights=None if rights is None else tuple(rights),
        quotas={} if rights is None or not with_quotas else await held.quotas(admin),
    )


async def catalogue_if_any(cluster: Cluster) -> Catalogue:
    """The catalogue as it is now; empty where no topic of it is there yet. Raises Refusal(broker_unreachable)."""
    try:
        async with CatalogueFollower(cluster) as reader:
            return reader.catalogue
    except Refusal as refusal:
        if refusal.code is not FailureCode.INVALID_SETTING:
            raise
        return Catalogue()


def endpoints_of(catalogue: Catalogue, namespace: str) -> list[Endpoint]:
    """The newest version of each endpoint of a namespace."""
    return [one for _, one in catalogue if isinstance(one, Endpoint) and one.namespace == namespace]


def sizes_of(catalogue: Catalogue) -> list[str]:
    """The model sizes."""
    return sorted({one.name for _, one in catalogue if isinstance(one, Model)})
