"""The secured cluster is what the other tests take it for: nobody comes in without a login, nobody has a right."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from .certificates import Authority
from .cluster import PRINCIPALS, SecuredCluster


def make_topic(secured: SecuredCluster, name: str) -> str:
    secured.admin.create_topics([NewTopic(name, 1)])[name].result(30)
    return name


def test_every_principal_logs_in(secured: SecuredCluster) -> None:
    for one in PRINCIPALS:
        assert AdminClient(secured.librdkafka(one)).list_topics(timeout=20).brokers


async def test_nobody_has_a_right_that_was_not_given(secured: SecuredCluster, unique_name: str) -> None:
    topic = make_topic(secured, f"gw.{unique_name}.task.in.v1")
    theirs = AdminClient(secured.librdkafka("team-a"))
    assert topic not in theirs.list_topics(timeout=20).topics
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        theirs.create_topics([NewTopic(topic + "x", 1)])[topic + "x"].result(30)
    async with AIOKafkaProducer(**secured.aiokafka("team-a")) as producer:
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(topic, b"x")


async def test_a_right_that_was_given_counts(secured: SecuredCluster, unique_name: str) -> None:
    topic = make_topic(secured, f"gw.{unique_name}.task.out.v1")
    secured.allow("team-a", "write", "describe", topic=topic)
    secured.allow("team-b", "read", "describe", topic=f"gw.{unique_name}.*")
    async with AIOKafkaProducer(**secured.aiokafka("team-a")) as producer:
        await producer.send_and_wait(topic, b"x")
    reading = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
    async with AIOKafkaConsumer(topic, **secured.aiokafka("team-b"), **reading) as consumer:
        assert (await asyncio.wait_for(consumer.getone(), 20)).value == b"x"


def test_a_principal_can_be_added(secured: SecuredCluster, unique_name: str) -> None:
    added = secured.add_principal(unique_name, "its secret")
    assert AdminClient(secured.librdkafka(added)).list_topics(timeout=20).brokers


def test_plain_and_java_words_log_in_too(secured: SecuredCluster) -> None:
    plain = secured.librdkafka("team-a") | {"sasl.mechanism": "PLAIN"}
    assert AdminClient(plain).list_topics(timeout=20).brokers
    listed = secured.tool("topics", "--list", principal="outsider")
    assert (listed.returncode, "gw." in listed.stdout) == (0, False), listed.stderr


def test_a_certificate_is_a_login(secured: SecuredCluster) -> None:
    shown = secured.authority.issue("team-a", client=True)
    settings = {
        "bootstrap.servers": secured.certificate_brokers,
        "security.protocol": "SSL",
        "ssl.ca.location": str(secured.authority.certificate),
        "ssl.certificate.location": str(shown.certificate),
        "ssl.key.location": str(shown.key),
    }
    topic = make_topic(secured, "by-certificate")
    secured.allow("team-a", "write", "describe", topic=topic)
    producer = Producer(settings)
    outcomes: list[object] = []
    producer.produce(topic, b"x", on_delivery=lambda error, _: outcomes.append(error))
    assert producer.flush(20) == 0
    assert outcomes == [None]


@pytest.mark.parametrize("how", ["no login", "wrong password", "another authority", "plaintext"])
async def test_whoever_cannot_log_in_stays_outside(secured: SecuredCluster, how: str) -> None:
    settings = secured.aiokafka("team-a")
    match how:
        case "no login":
            settings = {name: value for name, value in settings.items() if not name.startswith("sasl")}
            settings["security_protocol"] = "SSL"
        case "wrong password":
            settings["sasl_plain_password"] = "guessed"
        case "another authority":
            other = Authority.made(secured.folder / "other")
            settings["ssl_context"] = ssl.create_default_context(cafile=str(other.certificate))
        case "plaintext":
            settings = {"bootstrap_servers": secured.brokers}
    producer = AIOKafkaProducer(**settings, request_timeout_ms=2_000)
    try:
        with pytest.raises(KafkaError):
            await asyncio.wait_for(producer.start(), 20)
    finally:
        await producer.stop()
