"""Topics are made as they are defined. No topic is made by use."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    NotControllerError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.starting import Progress
from guideway.infra.topics import TopicDefinition
from guideway.schemas.failures import FailureCode, Refusal

MAX_PARTITIONS_PER_BROKER: Final = 2000
"""Of all topics of guideway on a cluster, copies included: each costs brokers open files, and services connections."""
MAX_TOPIC_PARTITIONS_PER_BROKER: Final = 100
"""Of one topic."""


class TooWide(Refusal):
    """A topic would have more partitions than one may have."""

    def __init__(self, topic: str, message: str) -> None:
        super().__init__(FailureCode.INVALID_SETTING, message)
        self.topic = topic


@dataclass(frozen=True)
class MadeTopics:
    """What `make_topics` has done. `narrower` exist with fewer partitions than wanted and stay as they are.

    `refused` may not be created by this user, who may not see them either if they exist.
    """

    created: tuple[str, ...]
    existing: tuple[str, ...]
    narrower: tuple[str, ...]
    replication: int
    refused: tuple[str, ...] = ()


async def make_topics(
    cluster: Cluster,
    definitions: Iterable[TopicDefinition],
    progress: Progress = lambda _line: None,
    *,
    replication: int | None = None,
    most_per_broker: int = MAX_PARTITIONS_PER_BROKER,
    timeout_s: float = 30.0,
    without_right: bool = False,
) -> MadeTopics:
    """Create the topics that do not exist, and return when every partition of them has a leader.

    replication: copies; None: three, or as many as there are brokers. Existing topics are never changed.
    without_right: leave out those that this user may not create; else that is refused.
    Raises Refusal: BROKER_UNREACHABLE without the cluster or the leaders within `timeout_s`, INVALID_SETTING if the
    cluster refuses a topic, or if the partitions would be more than its brokers should carry.
    """
    by_name = {definition.name: definition for definition in definitions}
    async with administrator(cluster, timeout_s=timeout_s) as admin:
        brokers = len((await admin.describe_cluster())["brokers"])
        copies = replication if replication is not None else max(1, min(3, brokers))
        there = await partitions_by_topic(admin)
        missing = [definition for name, definition in by_name.items() if name not in there]
        require_room(missing, there, brokers=brokers, copies=copies, most_per_broker=most_per_broker)
        deadline = asyncio.get_running_loop().time() + timeout_s
        created, refused = await _create(admin, missing, copies, deadline) if missing else ([], [])
        if refused and not without_right:
            raise Refusal(
                FailureCode.NOT_ALLOWED,
                f"this user may not create the topic {refused[0]}: ask whoever runs the cluster for it",
            )
        for name in created:
            progress(f"created {name}")
        await _await_leaders(admin, by_name.keys() - set(refused), deadline)
    return MadeTopics(
        created=tuple(created),
        existing=tuple(name for name in by_name if name not in created and name not in refused),
        narrower=tuple(n for n, d in by_name.items() if n in there and len(there[n]) < d.partitions),
        replication=copies,
        refused=tuple(refused),
    )


async def missing_topics(
    cluster: Cluster,
    definitions: Iterable[TopicDefinition],
    *,
    replication: int | None = None,
    most_per_broker: int = MAX_PARTITIONS_PER_BROKER,
) -> list[str]:
    """The topics that `make_topics` would create. Creates none. Raises as it does, as far as can be known before."""
    async with administrator(cluster) as admin:
        brokers = len((await admin.describe_cluster())["brokers"])
        there = await partitions_by_topic(admin)
    absent = [
        one for one in {definition.name: definition for definition in definitions}.values() if one.name not in there
    ]
    copies = replication if replication is not None else max(1, min(3, brokers))
    require_room(absent, there, brokers=brokers, copies=copies, most_per_broker=most_per_broker)
    return [one.name for one in absent]


def require_room(
    missing: Sequence[TopicDefinition],
    there: Mapping[str, Collection[Mapping[str, Any]]],
    *,
    brokers: int,
    copies: int,
    most_per_broker: int,
) -> None:
    """Raises Refusal(invalid_setting) if these topics have more partitions than the brokers should carry. Pure."""
    brokers = max(1, brokers)
    for definition in missing:
        if definition.partitions > MAX_TOPIC_PARTITIONS_PER_BROKER * brokers:
            raise TooWide(
                definition.name,
                f"the topic {definition.name} would have {definition.partitions} partitions, at most "
                f"{MAX_TOPIC_PARTITIONS_PER_BROKER} for each of the cluster's {brokers} brokers may be: lower "
                "`partitions` in its manifest",
            )
    new = copies * sum(definition.partitions for definition in missing)
    ours = sum(
        len(partition.get("replicas") or (0,))
        for name, found in there.items()
        if name.startswith("gw.")
        for partition in found
    )
    if new and ours + new > most_per_broker * brokers:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"these manifests need {new} more partitions (copies included), which makes {ours + new} of guideway's on "
            f"{brokers} broker(s), and {most_per_broker} on each is the limit: lower `partitions`, add brokers, or "
            "raise the limit with --max-partitions",
        )


async def _create(
    admin: AIOKafkaAdminClient, definitions: list[TopicDefinition], copies: int, deadline: float
) -> tuple[list[str], list[str]]:
    """The names of the topics created here, and of those that this user may not create.

    Those that others created meanwhile are left out.
    """
    pending = {definition.name: definition for definition in definitions}
    created, refused = [], []
    while pending:
        response = await admin.create_topics(
            [NewTopic(d.name, d.partitions, copies, topic_configs=d.configs_at(copies)) for d in pending.values()]
        )
        for name, code, *reason in response.topic_errors:
            error: type[KafkaError] = for_code(code)
            if error is NotControllerError and asyncio.get_running_loop().time() < deadline:
                continue
            pending.pop(name)
            if error in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
                refused.append(name)
            elif code and error is not TopicAlreadyExistsError:
                why = reason[0] if reason and reason[0] else error.__name__
                raise Refusal(FailureCode.INVALID_SETTING, f"the cluster refuses the topic {name}: {why}")
            if not code:
                created.append(name)
        if pending:
            await asyncio.sleep(0.5)
            await admin._client.force_metadata_update()
    return created, refused


async def _await_leaders(admin: AIOKafkaAdminClient, names_wanted: Iterable[str], deadline: float) -> None:
    while True:
        there = await partitions_by_topic(admin)
        waiting = [name for name in names_wanted if not _led(there.get(name, []))]
        if not waiting:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise Refusal(
                FailureCode.BROKER_UNREACHABLE,
                f"the topics {', '.join(waiting[:5])} have partitions without a leader: are all brokers running?",
            )
        await asyncio.sleep(0.1)


def _led(partitions: list[Any]) -> bool:
    return bool(partitions) and all(p["leader"] >= 0 and not p["error_code"] for p in partitions)
