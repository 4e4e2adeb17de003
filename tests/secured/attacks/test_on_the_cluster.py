"""What team A tries with a plain Kafka client on what is not A's: the cluster refuses it, and nothing has changed.

Each attack is one entry, with the sentence of attacks.md as its id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from tests.secured.cluster import EVERY_RIGHT, SecuredCluster
from tests.secured.services.ground import SECRET, SIZE
from tests.secured.services.intruder import Intruder, refused

from guideway.schemas.names.addresses import BATCH_REPLIES, GATEWAY
from guideway.schemas.names.groups import ENDPOINTS_GROUP, transactional_id, workers_group
from guideway.schemas.names.service_topics import (
    AUDIT_TOPIC,
    CALIBRATIONS_TOPIC,
    KEYS_TOPIC,
    ROUTED_TOPIC,
    USAGE_TOPIC,
    accepted_topic,
    batch_cancel_topic,
    batch_events_topic,
    batch_topic,
    shadows_topic,
)
from guideway.schemas.names.topics import (
    batch_call_topic,
    cancellation_topic,
    partial_topic,
    reply_topic,
    request_topic,
)

Attack = Callable[[Intruder], Any]

REQUESTS: Final = request_topic(SIZE, "interactive")
OF_B: Final = (
    "gw.b.private.in.v1",
    "gw.b.private.in.v1.dlq",
    "gw.b.private.out.v1",
    "gw.b.call.v1",
    "gw.b.call.out.v1",
    "gw.b.catalogue.v1",
    "gw.b.training.v1",
    "gw.b.training-events.v1",
    "gw.b.batch.v1",
    "gw.b.batch-call.v1",
    "gw.b.batch-events.v1",
    "gw.ab.private.in.v1",
)
OF_THE_PLATFORM: Final = (REQUESTS, f"{REQUESTS}.dlq", cancellation_topic(SIZE), AUDIT_TOPIC)

READS: Final[Mapping[str, str]] = {
    "read B's events": "gw.b.private.in.v1",
    "read B's dead letters": "gw.b.private.in.v1.dlq",
    "read B's replies": "gw.b.private.out.v1",
    "read what B calls": "gw.b.call.v1",
    "read the replies to what B calls": "gw.b.call.out.v1",
    "read B's manifests": "gw.b.catalogue.v1",
    "read B's training jobs": "gw.b.training.v1",
    "read what happens to B's training jobs": "gw.b.training-events.v1",
    "read events of a namespace whose name begins as A's does": "gw.ab.private.in.v1",
    "read the requests of all teams": REQUESTS,
    "read the dead letters of workers": f"{REQUESTS}.dlq",
    "read who cancels what": cancellation_topic(SIZE),
    "read the audit trail": AUDIT_TOPIC,
    "read the calibrations of all teams": CALIBRATIONS_TOPIC,
    "read where routers send events": ROUTED_TOPIC,
    "read what gateways are answered for B": reply_topic("b", GATEWAY),
    "read what gateways are answered for its own callers": reply_topic("a", GATEWAY),
    "read what gateways are told piece by piece for B": partial_topic("b", GATEWAY),
    "read what gateways have accepted for B": accepted_topic("b"),
    "read the keys of all callers at gateways": KEYS_TOPIC,
    "read B's batch jobs": batch_topic("b"),
    "read what rows of B's batch jobs ask": batch_call_topic("b"),
    "read what rows of its own batch jobs are answered": reply_topic("a", BATCH_REPLIES),
    "read what B's shadows have answered": shadows_topic("b"),
    "read what others use of their limits": USAGE_TOPIC,
}
WRITES: Final[Mapping[str, str]] = {
    "publish an event to B's endpoint": "gw.b.private.in.v1",
    "forge a reply of B's endpoint": "gw.b.private.out.v1",
    "forge a reply of an endpoint of its own": "gw.a.own.out.v1",
    "forge a reply to what it has called": "gw.a.call.out.v1",
    "forge a dead letter of its own": "gw.a.own.in.v1.dlq",
    "call in B's name": "gw.b.call.v1",
    "write B's manifests": "gw.b.catalogue.v1",
    "write the platform's manifests": "gw.public.catalogue.v1",
    "publish to an endpoint of public past its own address": "gw.public.echo.in.v1",
    "submit a training job in B's name": "gw.b.training.v1",
    "forge progress of its own training job": "gw.a.training-events.v1",
    "submit a batch job in B's name": batch_topic("b"),
    "cancel a batch job of B's": batch_cancel_topic("b"),
    "call in B's name, for work that may wait": batch_call_topic("b"),
    "forge how its own batch job has ended": batch_events_topic("a"),
    "forge what a row of its own batch job is answered": reply_topic("a", BATCH_REPLIES),
    "forge how a shadow of B's has ended": shadows_topic("b"),
    "write a request by hand": REQUESTS,
    "write a cancellation by hand": cancellation_topic(SIZE),
    "forge a calibration": CALIBRATIONS_TOPIC,
    "forge the audit trail": AUDIT_TOPIC,
    "forge a router's answer": ROUTED_TOPIC,
    "forge what a gateway is answered": reply_topic("a", GATEWAY),
    "forge pieces of what a gateway is answered": partial_topic("a", GATEWAY),
    "forge what a gateway has accepted": accepted_topic("a"),
    "make itself a key for gateways": KEYS_TOPIC,
    "forge what it uses of its limits": USAGE_TOPIC,
    "write to a namespace whose name begins as A's does": "gw.ab.private.in.v1",
}


def acl(principal: str) -> AclBinding:
    return AclBinding(
        ResourceType.TOPIC,
        "gw.b.private.in.v1",
        ResourcePatternType.LITERAL,
        principal,
        "*",
        AclOperation.READ,
        AclPermissionType.ALLOW,
    )


def altered(kind: ResourceType, name: str, setting: str, value: str) -> Attack:
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(kind, name, incremental_configs=[entry])
    return lambda who: who.administer(lambda admin: admin.incremental_alter_configs([resource]))


def moved(group: str, topic: str, offset: int) -> Attack:
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, offset)])
    return lambda who: who.administer(lambda admin: admin.alter_consumer_group_offsets([wanted]))


def past_user(who: Intruder) -> Any:
    upsertion = UserScramCredentialUpsertion(
        "team-b", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), b"known to A", b"salt" * 4
    )
    return who.administer(lambda admin: admin.alter_user_scram_credentials([upsertion]))


OTHERS: Final[Mapping[str, Attack]] = {
    "become a member of the endpoint service": lambda who: who.join(ENDPOINTS_GROUP, "gw.a.own.in.v1"),
    "become a worker": lambda who: who.join(workers_group(SIZE), "gw.a.own.in.v1"),
    "become a member of B's group": lambda who: who.join("b.reports", "gw.a.own.out.v1"),
    "become a member of a group whose name begins as its own do": lambda who: who.join("ab.x", "gw.a.own.out.v1"),
    "commit that the endpoint service has read B's events": moved(ENDPOINTS_GROUP, "gw.b.private.in.v1", 10**9),
    "commit that the endpoint service has not read its own events": moved(ENDPOINTS_GROUP, "gw.a.own.in.v1", 0),
    "wind the workers' offsets back": moved(workers_group(SIZE), REQUESTS, 0),
    "delete the endpoint service's group": lambda who: who.administer(
        lambda admin: admin.delete_consumer_groups([ENDPOINTS_GROUP])
    ),
    "see how far workers are": lambda who: who.administer(
        lambda admin: admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(workers_group(SIZE))])
    ),
    "see who is in B's group": lambda who: who.administer(lambda admin: admin.describe_consumer_groups(["b.reports"])),
    "fence the endpoint service off its partition": lambda who: who.begin_transaction(
        transactional_id(ENDPOINTS_GROUP, "gw.b.private.in.v1", 0)
    ),
    "fence a worker off its partition": lambda who: who.begin_transaction(
        transactional_id(workers_group(SIZE), REQUESTS, 0)
    ),
    "take the lock of B's catalogue": lambda who: who.begin_transaction("gw.b.catalogue.writer"),
    "take the lock of the platform's catalogue": lambda who: who.begin_transaction("gw.public.catalogue.writer"),
    "take a transactional id of B's own": lambda who: who.begin_transaction("b.loader"),
    "make a topic in B's name": lambda who: who.administer(
        lambda admin: admin.create_topics([NewTopic("gw.b.copy.out.v1", 1)])
    ),
    "make a topic in its own name": lambda who: who.administer(
        lambda admin: admin.create_topics([NewTopic("gw.a.copy.out.v1", 1)])
    ),
    "delete B's topic": lambda who: who.administer(lambda admin: admin.delete_topics(["gw.b.private.in.v1"])),
    "delete its own reply topic, and with it the workers' peace": lambda who: who.administer(
        lambda admin: admin.delete_topics(["gw.a.own.out.v1"])
    ),
    "delete B's records": lambda who: who.administer(
        lambda admin: admin.delete_records([TopicPartition("gw.b.private.in.v1", 0, -1)])
    ),
    "delete requests": lambda who: who.administer(
        lambda admin: admin.delete_records([TopicPartition(REQUESTS, 0, -1)])
    ),
    "let B's records expire": altered(ResourceType.TOPIC, "gw.b.private.in.v1", "retention.ms", "1"),
    "stop compaction of the platform's catalogue": altered(
        ResourceType.TOPIC, "gw.public.catalogue.v1", "cleanup.policy", "delete"
    ),
    "change settings of a broker": altered(ResourceType.BROKER, "1", "log.retention.ms", "1"),
    "read settings of B's topic": lambda who: who.administer(
        lambda admin: admin.describe_configs([ConfigResource(ResourceType.TOPIC, "gw.b.private.in.v1")])
    ),
    "read settings of a broker": lambda who: who.administer(
        lambda admin: admin.describe_configs([ConfigResource(ResourceType.BROKER, "1")])
    ),
    "give B's topic more partitions": lambda who: who.administer(
        lambda admin: admin.create_partitions([NewPartitions("gw.b.private.in.v1", 50)])
    ),
    "give its own topic a thousand partitions": lambda who: who.administer(
        lambda admin: admin.create_partitions([NewPartitions("gw.a.own.in.v1", 1000)])
    ),
    "give itself a right": lambda who: who.administer(lambda admin: admin.create_acls([acl("User:team-a")])),
    "take B's rights away": lambda who: who.administer(
        lambda admin: admin.delete_acls(
            [
                AclBindingFilter(
                    ResourceType.ANY,
                    None,
                    ResourcePatternType.ANY,
                    "User:team-b",
                    None,
                    AclOperation.ANY,
                    AclPermissionType.ANY,
                )
            ]
        )
    ),
    "set B's password": past_user,
    "see how much B writes": lambda who: who.administer(
        lambda admin: admin.list_offsets({TopicPartition("gw.b.private.in.v1", 0): OffsetSpec.latest()})
    ),
    "see the partitions of B's topic": lambda who: who.administer(
        lambda admin: admin.describe_topics(TopicCollection(["gw.b.private.in.v1"]))
    ),
}


@contextmanager
def nothing_changes(ground: SecuredCluster) -> Iterator[None]:
    """What is B's and the platform's has as many records, topics, rights and partitions as before."""
    before = state(ground)
    yield
    assert state(ground) == before


def state(ground: SecuredCluster) -> Mapping[str, object]:
    admin = ground.admin
    listed = {
        name: len(topic.partitions)
        for name, topic in admin.list_topics(timeout=20).topics.items()
        if name.startswith(("gw.b.", "gw.ab.", "gw.public.", "gw.infer.", "gw.audit", "gw.calib", "gw.a.own.out"))
    }
    latest = admin.list_offsets(
        {TopicPartition(name, number): OffsetSpec.latest() for name, count in listed.items() for number in range(count)}
    )
    earliest = admin.list_offsets({TopicPartition(name, 0): OffsetSpec.earliest() for name in listed})
    return {
        "topics": listed,
        # Where services run, they write requests and replies meanwhile.
        "ends": {
            (at.topic, at.partition): found.result(20).offset
            for at, found in latest.items()
            if not at.topic.startswith(("gw.infer.", "gw.audit.")) and not at.topic.endswith(".out.v1")
        },
        "beginnings": {at.topic: found.result(20).offset for at, found in earliest.items()},
        "rights": len(admin.describe_acls(EVERY_RIGHT).result(20)),
    }


@pytest.fixture(scope="module", autouse=True)
def _all_stays_as_it_is(ground: SecuredCluster, team_b: Intruder) -> Iterator[None]:
    team_b.send("gw.b.private.in.v1", SECRET)
    team_b.send("gw.b.call.v1", SECRET)
    with nothing_changes(ground):
        yield


@pytest.fixture(params=["team-a", "outsider"])
def intruder(request: pytest.FixtureRequest, team_a: Intruder, outsider: Intruder) -> Intruder:
    return {"team-a": team_a, "outsider": outsider}[request.param]


@pytest.mark.parametrize("what", READS)
def test_reading_is_refused(intruder: Intruder, what: str) -> None:
    with refused():
        intruder.read(READS[what])


@pytest.mark.parametrize("what", WRITES)
def test_writing_is_refused(intruder: Intruder, what: str) -> None:
    with refused():
        intruder.send(WRITES[what], b"forged", key=b"endpoint/b/private@9")


@pytest.mark.parametrize("what", OTHERS)
def test_the_administrators_part_is_refused(intruder: Intruder, what: str) -> None:
    with refused():
        OTHERS[what](intruder)


def test_a_listing_shows_what_is_its_own(team_a: Intruder, team_b: Intruder, outsider: Intruder) -> None:
    """List topics and groups, to learn who else is there."""
    team_b.join("b.reports", "gw.b.private.out.v1")
    seen = set(team_a.admin.list_topics(timeout=20).topics)
    assert "gw.a.own.in.v1" in seen
    assert {one for one in seen if not one.startswith("gw.a.")} == {"gw.public.catalogue.v1"}
    assert not outsider.admin.list_topics(timeout=20).topics
    groups = team_a.admin.list_consumer_groups().result(20)
    assert all(one.group_id.startswith("a.") for one in groups.valid)


@pytest.mark.parametrize(
    "asked", [("configs", "--describe", "--entity-type", "users"), ("acls", "--list")], ids=" ".join
)
def test_who_can_log_in_and_who_has_which_rights_is_not_told(ground: SecuredCluster, asked: tuple[str, ...]) -> None:
    """By Kafka's own tools: librdkafka ends the process at the one refusal, and makes nothing of the other."""
    told = ground.tool(*asked, principal="team-a")
    assert "ClusterAuthorizationException" in told.stdout + told.stderr
    assert "team-b" not in told.stdout


def test_what_is_its_own_works(team_a: Intruder) -> None:
    """The refusals above come from rights, and not from a client that can do nothing."""
    team_a.send("gw.a.own.in.v1", b"x")
    assert [one.value() for one in team_a.read("gw.a.own.in.v1")][-1:] == [b"x"]
    team_a.join("a.reports", "gw.a.own.out.v1")
    team_a.begin_transaction("a.loader")
    team_a.begin_transaction("gw.a.catalogue.writer")
    with pytest.raises(KafkaException, match=r"UNKNOWN_TOPIC_OR_PART|TOPIC_AUTHORIZATION"):
        team_a.send("gw.nowhere.x.in.v1", b"x")
