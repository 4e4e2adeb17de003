"""What a cluster says of rights, quotas and topics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from guideway.delivery.clients.administrator import administrator
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.rights.survey import Survey
from guideway.usecases.rights.surveying import surveyed


async def survey_of(cluster: Cluster) -> Survey:
    async with administrator(cluster) as admin:
        return await surveyed(admin)


async def survey_when(cluster: Cluster, holds: Callable[[Survey], bool]) -> Survey:
    """The first of which this holds: brokers learn of a change a moment later than the controller that answers."""
    async with asyncio.timeout(30):
        while not holds(survey := await survey_of(cluster)):
            await asyncio.sleep(0.05)
    return survey
