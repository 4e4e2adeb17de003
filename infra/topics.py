"""The topics that manifests need, and how they are created. No topic is created by use."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, NotControllerError, TopicAlreadyExistsError, for_code

from guideway.infra.cluster import administrator
from guideway.infra.starting import Progress
from guideway.schemas import names
from guideway.schemas.cancellation import HELD_S
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Manifest, Model

MAX_RECORD_BYTES: Final = 8 * 2**20
"""The largest record: an event with the longest text that a manifest may allow, escaped. Kafka's default is 1 MiB."""
DEAD_LETTER_RETENTION_MS: Final = 30 * 24 * 3600 * 1000
"""People need time to look at dead letters. Kafka's default is 7 days."""

MAX_PARTITIONS_PER_BROKER: Final = 2000
"""Of all topics of guideway on a cluster, copies included: each costs brokers open files, and services connections."""
MAX_TOPIC_PARTITIONS_PER_BROKER: Final = 100
"""Of one topic."""

CANCELLATION_CONFIGS: Final = {
    "retention.ms": str(HELD_S * 1000),
    # Only whole segments go: without this a worker that starts would read a week of them.
    "segment.ms": str(HELD_S * 1000 // 4),
}


@dataclass(frozen=True)
class TopicDefinition:
    """A topic as it should be created. What `configs` does not name is left to the cluster."""

    name: str
    partitions: int = 1
    configs: Mapping[str, str] = field(default_factory=dict)

    def configs_at(self, replication: int) -> dict[str, str]:
        """The settings on a cluster that keeps so many copies: with three, a write is safe once two have it."""
        safe = {"min.insync.replicas": "2"} if replication >= 3 else {}
        return {"max.message.bytes": str(MAX_RECORD_BYTES)} | safe | dict(self.configs)


class TooWide(Refusal):
    """A topic would have more partitions than one may have."""

    def __init__(self, topic: str, message: str) -> None:
        super().__init__(FailureCode.INVALID_SETTING, message)
        self.topic = topic


@dataclass(frozen=True)
class Applied:
    """What `apply` has done. `narrower` exist with fewer partitions than wanted and stay as they are."""

    created: tuple[str, ...]
    existing: tuple[str, ...]
    narrower: tuple[str, ...]
    replication: int


def wanted(manifests: Iterable[Manifest]) -> list[TopicDefinition]:
    """All topics that these manifests need, the catalogue's first; the same topic is listed once."""
    found = [TopicDefinition(names.CATALOGUE_TOPIC, configs={"cleanup.policy": "compact"})]
    targets: list[TopicDefinition] = []
    for manifest in manifests:
        match manifest:
            case Endpoint(namespace=namespace, name=name, partitions=partitions):
                found += _with_dead_letters(names.event_topic(namespace, name), partitions)
                found.append(TopicDefinition(names.reply_topic(namespace, name), partitions))
                targets += [TopicDefinition(names.reply_topic(namespace, to), partitions) for to in manifest.targets]
            case Model(name=size, partitions=partitions):
                for lane in names.LANES:
                    found += _with_dead_letters(names.request_topic(size, lane), partitions)
                found.append(TopicDefinition(names.cancellation_topic(size), configs=CANCELLATION_CONFIGS))
    # A target that is an endpoint itself has said how many partitions it wants.
    by_name: dict[str, TopicDefinition] = {}
    for definition in found + targets:
        by_name.setdefault(definition.name, definition)
    return list(by_name.values())


def training(partitions: int = 8) -> list[TopicDefinition]:
    """The topics of training jobs. partitions: of the topic of jobs, at least as many as trainers."""
    return [
        *_with_dead_letters(names.TRAINING_JOBS_TOPIC, partitions),
        TopicDefinition(names.TRAINING_EVENTS_TOPIC),
        TopicDefinition(names.TRAINING_CANCEL_TOPIC, configs={"cleanup.policy": "compact"}),
    ]


def _with_dead_letters(topic: str, partitions: int) -> list[TopicDefinition]:
    retention = {"retention.ms": str(DEAD_LETTER_RETENTION_MS)}
    return [TopicDefinition(topic, partitions), TopicDefinition(names.dead_letter_topic(topic), configs=retention)]


async def apply(
    bootstrap: str,
    definitions: Iterable[TopicDefinition],
    progress: Progress = lambda _line: None,
    *,
    replication: int | None = None,
    most_per_broker: int = MAX_PARTITIONS_PER_BROKER,
    timeout_s: float = 30.0,
) -> Applied:
    """Create the topics that do not exist, and return when every partition of them has a leader.

    replication: copies; None: three, or as many as there are brokers. Existing topics are never changed.
    Raises Refusal: BROKER_UNREACHABLE without the cluster or the leaders within `timeout_s`, INVALID_SETTING if the
    cluster refuses a topic, or if the partitions would be more than its brokers should carry.
    """
    by_name = {definition.name: definition for definition in definitions}
    async with administrator(bootstrap, timeout_s=timeout_s) as admin:
        cluster = await admin.describe_cluster()
        copies = replication if replication is not None else max(1, min(3, len(cluster["brokers"])))
        there = await partitions_by_topic(admin)
        missing = [definition for name, definition in by_name.items() if name not in there]
        require_room(missing, there, brokers=len(cluster["brokers"]), copies=copies, most_per_broker=most_per_broker)
        deadline = asyncio.get_running_loop().time() + timeout_s
        created = await _create(admin, missing, copies, deadline) if missing else []
        for name in created:
            progress(f"created {name}")
        await _await_leaders(admin, by_name, deadline)
    return Applied(
        created=tuple(created),
        existing=tuple(name for name in by_name if name not in created),
        narrower=tuple(n for n, d in by_name.items() if n in there and len(there[n]) < d.partitions),
        replication=copies,
    )


async def missing(
    bootstrap: str,
    definitions: Iterable[TopicDefinition],
    *,
    replication: int | None = None,
    most_per_broker: int = MAX_PARTITIONS_PER_BROKER,
) -> list[str]:
    """The names of the topics that `apply` would create. Creates nothing. Raises as `apply`, as far as can be known."""
    async with administrator(bootstrap) as admin:
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


async def partitions_by_topic(admin: AIOKafkaAdminClient) -> dict[str, list[Any]]:
    """The topics of the cluster, each with its partitions as the broker describes them."""
    # Ask for all: a cluster that creates topics on demand would create those asked for by name.
    return {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics() if not topic["error_code"]}


async def _create(
    admin: AIOKafkaAdminClient, definitions: list[TopicDefinition], copies: int, deadline: float
) -> list[str]:
    """The names of the topics created here; those that others created meanwhile are left out."""
    pending = {definition.name: definition for definition in definitions}
    created = []
    while pending:
        response = await admin.create_topics(
            [NewTopic(d.name, d.partitions, copies, topic_configs=d.configs_at(copies)) for d in pending.values()]
        )
        for name, code, *reason in response.topic_errors:
            error: type[KafkaError] = for_code(code)
            if error is NotControllerError and asyncio.get_running_loop().time() < deadline:
                continue
            pending.pop(name)
            if code and error is not TopicAlreadyExistsError:
                why = reason[0] if reason and reason[0] else error.__name__
                raise Refusal(FailureCode.INVALID_SETTING, f"the cluster refuses the topic {name}: {why}")
            if not code:
                created.append(name)
        if pending:
            await asyncio.sleep(0.5)
            await admin._client.force_metadata_update()
    return created


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
