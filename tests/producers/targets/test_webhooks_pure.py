"""The pure parts of webhooks: the platform's list, signatures, payloads, the schedule."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.settings import DeliverySettings
from guideway.producers.targets.service import TargetsService, TargetsSettings
from guideway.producers.targets.webhooks.deliveries import Deliveries
from guideway.producers.targets.webhooks.egress import egress_of
from guideway.producers.targets.webhooks.gates import AT_A_TIME, PATIENCE_S, Gates
from guideway.producers.targets.webhooks.held import HeldWebhooks
from guideway.producers.targets.webhooks.outcome import (
    MAX_AGE_S,
    Answer,
    Broken,
    Dead,
    Done,
    Forbidden,
    Later,
    next_step,
    put_off,
)
from guideway.producers.targets.webhooks.secret_files import SecretFiles
from guideway.producers.targets.webhooks.sender import Sender
from guideway.producers.targets.webhooks.signing import delivery_id, new_secret, payload, secret_of, signed_headers
from guideway.schemas import wire
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.targets import Webhook as WebhookManifest
from guideway.schemas.kinds.web_address import web_address
from guideway.schemas.names.service_topics import deliveries_topic, results_topic
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Sample, Usage
from guideway.schemas.services.leaving import DELAYS_S, Delivery, Result
from guideway.schemas.wire import MANIFEST

DELIVERY = Delivery(webhook="crm", id="msg_" + "0" * 32, since_ms=1_000_000, payload="{}")
NOW_MS = 1_500_000
RECORD = Record(topic="gw.shop.results.v1", partition=1, offset=7, timestamp_ms=1_767_225_600_123, key=None, value=b"")


@pytest.mark.parametrize(
    ("listed", "url", "reached"),
    [
        ("", "https://a.example/", False),
        ("a.example", "https://a.example/", True),
        ("a.example", "https://A.example/", True),
        ("a.example", "http://a.example/", False),
        ("a.example", "https://a.example:8443/", False),
        ("a.example", "https://b.a.example/", False),
        ("a.example:8443", "https://a.example:8443/", True),
        ("a.example:*", "https://a.example:8443/", True),
        ("*.a.example", "https://b.c.a.example/", True),
        ("*.a.example", "https://a.example/", False),
        ("*.a.example", "https://ba.example/", False),
        ("http://a.example", "http://a.example/", True),
        ("http://a.example", "https://a.example/", False),
        ("*", "https://anything.example/", True),
        ("10.0.0.0/8", "https://10.0.0.1/", False),
        ("10.0.0.1", "https://10.0.0.1/", True),
        ("[fd00::1]:8443, x.example", "https://[fd00:0::1]:8443/", True),
        ("a.example, b.example", "https://b.example/", True),
    ],
)
def test_the_list_says_which_hosts_are_reached(listed: str, url: str, reached: bool) -> None:
    assert (egress_of(listed).refusal(web_address(url)) is None) is reached


@pytest.mark.parametrize("text", ["ftp://a", "a b_c", "300.1.1.1", "10.0.0.0/40", "a:b", "a:99999", "*.*.example"])
def test_what_is_no_host_and_no_range_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="GUIDEWAY_EGRESS"):
        egress_of(text)


PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0.1.2.3"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "192.88.99.1", "::", "::1", "fe80::1"),
    *("fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8"),
    *("64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::1", "2001:0:1::1", "2001:db8::1"),
)


def test_no_private_address_is_reached_unless_it_is_listed() -> None:
    for text in PRIVATE:
        ip = ipaddress.ip_address(text)
        assert not egress_of("*").lets_to(ip), text
        assert egress_of(f"{text}/{ip.max_prefixlen}").lets_to(ip), text
    for text in ("8.8.8.8", "93.184.216.34", "2606:4700::1111"):
        assert egress_of("").lets_to(ipaddress.ip_address(text))


def test_receivers_verify_what_is_signed_also_while_secrets_change() -> None:
    old, new = new_secret(), new_secret()
    body = b'{"type":"x","data":"\xc3\xa4"}'
    headers = signed_headers("msg_1", body, [secret_of(old), secret_of(new)], time.time())
    for secret in (old, new):
        Webhook(secret).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(body + b" ", headers)


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_AAAA", "whsec_!!!", "abc", f"whsec_{'A' * 100}"])
def test_what_is_no_secret_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="a secret") as caught:
        secret_of(text)
    assert not text.removeprefix("whsec_") or text not in str(caught.value)


def result(text: str = "glad") -> Result:
    reply = Completed(
        id="r", namespace="shop", endpoint="mood", endpoint_version=3, guidance=[], model_fingerprint="f",
        samples=[Sample(value=text, text=text, finish_reason="stop")], usage=Usage(prompt_tokens=1, output_tokens=1),
    )  # fmt: skip
    return Result(reply=reply, id="r", endpoint="mood", endpoint_version=3, completed=True)


def test_a_payload_is_the_reply_or_says_whose_it_is() -> None:
    whole = json.loads(payload(result(), "shop", RECORD.timestamp_ms, 20_000))
    assert (whole["type"], whole["timestamp"]) == ("guideway.reply.completed", "2026-01-01T00:00:00.123Z")
    assert whole["data"] == msgspec.to_builtins(result().reply)
    thin = payload(result("x" * 5_000), "shop", RECORD.timestamp_ms, 5_000)
    assert len(thin) < 1_000
    assert json.loads(thin)["data"]["id"] == "r"
    bare = msgspec.structs.replace(result(), reply=None, completed=False)
    assert json.loads(payload(bare, "shop", 0, 20_000))["type"] == "guideway.reply.failed"


def test_an_id_is_that_of_a_reply_and_a_webhook() -> None:
    ids = {delivery_id(msgspec.structs.replace(RECORD, offset=n), name) for n in (7, 8) for name in ("a", "b")}
    assert len(ids) == 4
    assert delivery_id(RECORD, "a") in ids
    assert not any("." in one for one in ids)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_any_2xx_is_delivered(status: int) -> None:
    assert next_step(Answer(status), DELIVERY, NOW_MS, 0) == Done()


def test_a_failure_waits_longer_each_time_and_ends_as_a_dead_letter() -> None:
    delivery, waited = DELIVERY, []
    while isinstance(step := next_step(Answer(500), delivery, NOW_MS, 0), Later):
        delivery = step.delivery
        waited.append((delivery.due_ms - NOW_MS) / 1000)
        assert waited[-1] == DELAYS_S[step.partition]
    assert waited == list(DELAYS_S[1:])
    assert isinstance(step, Dead)
    assert step.refusal.code is FailureCode.WEBHOOK_FAILED
    assert "answered 500" in step.refusal.message


def test_the_jitter_is_small_and_only_earlier() -> None:
    step = next_step(Broken("x"), DELIVERY, NOW_MS, 1)
    assert isinstance(step, Later)
    assert 0.9 * DELAYS_S[1] <= (step.delivery.due_ms - NOW_MS) / 1000 <= DELAYS_S[1]


def test_a_receiver_that_says_when_is_asked_no_earlier() -> None:
    for status in (429, 502, 503, 504):
        step = next_step(Answer(status, 100), DELIVERY, NOW_MS, 1)
        assert isinstance(step, Later)
        assert step.delivery.due_ms - NOW_MS >= 100_000
        assert DELAYS_S[step.partition] >= 100
    step = next_step(Answer(500, 100), DELIVERY, NOW_MS, 0)
    assert isinstance(step, Later)
    assert step.partition == 1


def test_gone_holds_the_webhook_and_a_redirect_says_what_to_do() -> None:
    gone = next_step(Answer(410), DELIVERY, NOW_MS, 0)
    assert isinstance(gone, Dead)
    assert gone.holds
    last = msgspec.structs.replace(DELIVERY, attempts=len(DELAYS_S) - 1)
    moved = next_step(Answer(301), last, NOW_MS, 0)
    assert isinstance(moved, Dead)
    assert "redirects are not followed" in moved.refusal.message
    never = next_step(Forbidden("no"), DELIVERY, NOW_MS, 0)
    assert isinstance(never, Dead)
    assert never.refusal.code is FailureCode.EGRESS_REFUSED


def test_what_is_put_off_has_lost_no_attempt_and_does_not_wait_for_ever() -> None:
    delivery = msgspec.structs.replace(DELIVERY, attempts=2)
    for _ in range(10):
        step = put_off(delivery, NOW_MS)
        assert isinstance(step, Later)
        delivery = step.delivery
        assert delivery.attempts == 2
    assert delivery.due_ms - NOW_MS == DELAYS_S[2] * 1000
    step = put_off(delivery, NOW_MS, wait_s=4000)
    assert isinstance(step, Later)
    assert DELAYS_S[step.partition] >= 4000
    assert isinstance(put_off(delivery, NOW_MS + int(MAX_AGE_S * 1000)), Dead)


def test_a_slow_webhook_lets_few_wait_and_a_fast_one_many() -> None:
    gates, crm = Gates(), ("shop", "crm")
    inside = [gates.entered(crm, 0) for _ in range(AT_A_TIME)]
    assert gates.wait_s(crm, 0) == 0
    for one in inside:
        one.__enter__()
    assert 0 < gates.wait_s(crm, 0) < PATIENCE_S
    for _ in range(20):
        gates.took(crm, 60)
    assert gates.wait_s(crm, 0) > PATIENCE_S
    assert gates.wait_s(("shop", "other"), 0) == 0
    gates.close(crm, 100)
    for one in inside:
        one.__exit__(None, None, None)
    assert gates.wait_s(crm, 40) == gates.closed_s(crm, 40) == 60
    assert gates.wait_s(crm, 101) == 0


async def test_what_finds_no_turn_comes_again_soon_unless_the_receiver_wants_nothing(tmp_path: Path) -> None:
    """Of many at once nobody knows yet how fast the receiver is: it is no reason to wait for a minute."""
    catalogue = Catalogue()
    crm = WebhookManifest(namespace="shop", name="crm", url="https://a.example/", secret="crm")
    catalogue.absorb(Identity.of(crm).topic, Identity.of(crm).key(1), MANIFEST.encode(crm))
    held = cast(HeldWebhooks, SimpleNamespace(holds=lambda *_: False))
    made = Deliveries(Sender(egress_of("")), SecretFiles(tmp_path), held)
    gates, key = made._gates, ("shop", "crm")
    waiting = msgspec.structs.replace(DELIVERY, since_ms=time.time_ns() // 1_000_000)
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(gates.entered(key, 0.0))
        assert gates.wait_s(key, 0.0) > DELAYS_S[1]
        for closed_s, partition in ((0, 1), (50, 2)):
            gates.close(key, time.monotonic() + closed_s)
            (out,) = await made.deliver("shop", waiting, RECORD, catalogue)
            assert (out.topic, out.partition) == ("gw.shop.deliveries.v1", partition)


async def test_a_delivery_that_only_waited_is_not_refused_for_the_deaths_of_processes(tmp_path: Path) -> None:
    settings = TargetsSettings(
        delivery=DeliverySettings(cluster=Cluster("nowhere:1")), secrets=tmp_path, store=str(tmp_path)
    )
    service = TargetsService(settings, cast(CatalogueFollower, SimpleNamespace(catalogue=Catalogue())))
    deadly = Refusal(FailureCode.ENGINE_FAILED, "each died")

    async def code(topic: str, due_in_ms: int) -> bytes | None:
        now_ms = time.time_ns() // 10**6
        delivery = Delivery(
            webhook="crm", id="msg_" + "0" * 32, since_ms=now_ms, payload="{}", due_ms=now_ms + due_in_ms
        )
        record = Record(
            topic=topic, partition=0, offset=7, timestamp_ms=now_ms, key=None, value=wire.DELIVERY.encode(delivery)
        )
        (letter,) = await service._refuse(record, deadly)
        return dict(letter.headers)["guideway_dlq_code"]

    # It is attempted once it is due, and that webhook is gone.
    assert await code(deliveries_topic("shop"), 50) == b"webhook_failed"
    assert await code(deliveries_topic("shop"), -50) == b"engine_failed"
    assert await code(results_topic("shop"), 50) == b"engine_failed"
