"""The namespaces on which the attacks are tried: their topics, and the rights that guideway gives.

`a` is team A's, the attacker's, and `b` team B's, whose everything contains the word SECRET. `ab` begins as `a` does.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tests.secured.cluster import SecuredCluster

from guideway.delivery.clients.administrator import administrator
from guideway.infra import topics
from guideway.infra.rights import held
from guideway.infra.rights.services import service_rights
from guideway.infra.rights.spaces import Services, Space, fixed_topics, space_rights
from guideway.infra.topic_making import make_topics
from guideway.schemas.manifests import Endpoint, Model
from guideway.schemas.output import Text

SIZE: Final = "tiny"
SECRET: Final = "heliotrope"
"""A word that stands in all that is B's, and nowhere else."""
SPACES: Final = (
    Space("a", team=("User:team-a",), endpoints=("own", "short")),
    Space("b", team=("User:team-b",), endpoints=("private", "shared", "short")),
    Space("ab", team=("User:team-b",), endpoints=("private",)),
    Space("public", team=("User:admin",), endpoints=("echo",)),
)


def lay(secured: SecuredCluster) -> None:
    """Make all topics, and give all rights."""
    secured.until_rights_count(least=asyncio.run(_lay(secured)))


async def _lay(secured: SecuredCluster) -> int:
    model = Model(namespace="public", name=SIZE, source="fake", partitions=2)
    definitions = topics.wanted([model, *(one for space in SPACES for one in _endpoints(space))])
    for space in SPACES:
        definitions += fixed_topics(space.name)
    await make_topics(secured.kafka.internal, {one.name: one for one in definitions}.values())
    rights = [
        *service_rights(Services(), [SIZE]),
        *(one for space in SPACES for one in space_rights(space, Services())),
    ]
    async with administrator(secured.kafka.internal) as admin:
        await held.grant(admin, rights := list(dict.fromkeys(rights)))
    return len(rights)


def _endpoints(space: Space) -> list[Endpoint]:
    return [Endpoint(namespace=space.name, name=one, model_size=SIZE, output=Text()) for one in space.endpoints]
