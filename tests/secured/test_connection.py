"""Every way to log in works, and every way that does not is told in one sentence, soon, without the password."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.delivery.test_pipeline import Bench, running

from guideway.delivery import watchdog
from guideway.delivery.clients.administrator import administrator
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.connection.look import Away, wrong_with
from guideway.delivery.connection.security import Security
from guideway.delivery.connection.tls import Tls
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import DeliverySettings
from guideway.infra.doctor import checks
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Outgoing, Record
from guideway.usecases.supervise import EXIT_UNAVAILABLE

from .certificates import Authority
from .cluster import SecuredCluster

_NO_SASL: dict[str, Any] = {
    "sasl_username": None,
    "sasl_password": None,
    "sasl_mechanism": None,
    "security_protocol": "SSL",
}


def cluster(file: Path, **environ: str) -> Cluster:
    found = Cluster.from_environ({"KAFKA_CLIENT_CONFIG": str(file), **environ})
    assert found is not None
    return found


async def brokers_seen(by: Cluster) -> int:
    async with administrator(by) as admin:
        return len((await admin.describe_cluster())["brokers"])


@pytest.mark.parametrize("jaas", [False, True])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_password_logs_in(secured: SecuredCluster, mechanism: str, jaas: bool) -> None:
    found = cluster(secured.client_properties("admin", mechanism=mechanism, jaas=jaas))  # type: ignore[arg-type]
    assert await asyncio.to_thread(wrong_with, found) is None
    assert await brokers_seen(found) == 1


async def test_a_certificate_logs_in(secured: SecuredCluster) -> None:
    shown = secured.authority.issue("team-a", client=True)
    mine: dict[str, Any] = {**_NO_SASL, "bootstrap_servers": secured.certificate_brokers}
    two = secured.client_properties(
        "admin", **mine, ssl_certificate_location=str(shown.certificate), ssl_key_location=str(shown.key)
    )
    one = secured.client_properties("admin", **mine, ssl_keystore_location=str(shown.both))
    for file in (one, two):
        assert await brokers_seen(cluster(file)) == 1


WRONG: dict[str, tuple[Callable[[SecuredCluster, Path], Cluster], str]] = {
    "wrong password": (
        lambda s, _: cluster(s.client_properties("admin"), KAFKA_SASL_PASSWORD="hush"),
        "they do not know the user 'admin', or the password is wrong .SCRAM-SHA-512.; correct sasl.username",
    ),
    "unknown user": (
        lambda s, _: cluster(s.client_properties("admin"), KAFKA_SASL_USERNAME="nobody", KAFKA_SASL_MECHANISM="PLAIN"),
        "they do not know the user 'nobody', or the password is wrong .PLAIN.",
    ),
    "no TLS": (lambda s, _: Cluster(s.brokers), "they speak TLS, .* set security.protocol to SSL"),
    "TLS to a listener without": (
        lambda s, _: cluster(s.client_properties("admin"), KAFKA_BOOTSTRAP_SERVERS=s.kafka.internal.brokers),
        "does not speak TLS, and security.protocol is SASL_SSL; .* security.protocol is SASL_PLAINTEXT",
    ),
    "no login": (
        lambda s, _: cluster(s.client_properties("admin", **_NO_SASL)),
        r"ask for a login by SASL \(.*SCRAM-SHA-256.*\), .* set security.protocol to SASL_SSL",
    ),
    "a login where there is none": (
        lambda s, _: cluster(
            s.client_properties("admin", bootstrap_servers=s.kafka.internal.brokers, ssl_ca_location=None),
            KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        ),
        "this listener has no login",
    ),
    "unknown authority": (
        lambda s, other: cluster(s.client_properties("admin"), KAFKA_SSL_CA_LOCATION=str(other / "ca.pem")),
        "signed by an authority that this program does not know; name .* in ssl.ca.location",
    ),
    "no certificate": (
        lambda s, _: cluster(s.client_properties("admin", **_NO_SASL, bootstrap_servers=s.certificate_brokers)),
        "they ask for a certificate of this client, and none is set up; name it in ssl.certificate.location",
    ),
    "an expired certificate": (
        lambda s, _: with_certificate(s, s.authority, days=0),
        r"this client's certificate \(.*\) has expired on \d{4}-",
    ),
    "a certificate of somebody": (
        lambda s, other: with_certificate(s, Authority(other, other / "ca.pem", other / "ca.key")),
        "they do not accept this client's certificate .*; have it signed by an authority that they trust",
    ),
}


def with_certificate(secured: SecuredCluster, authority: Authority, days: int = 30) -> Cluster:
    shown = authority.issue("team-a", client=True, days=days)
    mine: dict[str, Any] = {
        **_NO_SASL,
        "bootstrap_servers": secured.certificate_brokers,
        "ssl_keystore_location": str(shown.both),
    }
    return cluster(secured.client_properties("admin", **mine))


def _port(brokers: str) -> str:
    return brokers.rpartition(":")[2]


@pytest.mark.parametrize("kind", WRONG)
async def test_what_is_wrong_is_told_at_once_by_its_cause(secured: SecuredCluster, tmp_path: Path, kind: str) -> None:
    make, says = WRONG[kind]
    wrong = make(secured, Authority.made(tmp_path / "other", "somebody").folder)
    began = time.monotonic()
    for trial in (brokers_seen(wrong), _produce(wrong)):
        with pytest.raises(Refusal, match=says) as caught:
            await trial
        assert caught.value.code is FailureCode.LOGIN_REFUSED
        assert "hush" not in caught.value.message
        assert "secret" not in caught.value.message
    assert time.monotonic() - began < 10
    if "password" not in kind and "user" not in kind:
        # Without logging in, the same can be seen.
        seen = await asyncio.to_thread(wrong_with, wrong)
        assert seen is not None
        assert not isinstance(seen, Away)


@pytest.mark.parametrize(
    ("issued", "says"),
    [
        ({"names": ("elsewhere.example",)}, "the broker's certificate is for another host .*127.0.0.1"),
        ({"days": 0}, "the broker's certificate has expired; have it renewed"),
    ],
)
async def test_a_certificate_of_brokers_that_does_not_hold(tmp_path: Path, issued: dict[str, Any], says: str) -> None:
    authority = Authority.made(tmp_path / "ca")
    shown = authority.issue("broker", **issued)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.certificate, shown.key)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        wrong = Cluster(address, Security(tls=Tls(ca=authority.certificate)))
        for trial in (brokers_seen(wrong), _produce(wrong)):
            with pytest.raises(Refusal, match=says) as caught:
                await trial
            assert caught.value.code is FailureCode.LOGIN_REFUSED


async def _produce(wrong: Cluster) -> None:
    async with started(make_producer(wrong, "test"), wrong):
        raise AssertionError("it was let in")


class Echo:
    """A pipeline over 3 partitions as somebody who logs in; 1,000 records, read past the login."""

    def __init__(self, secured: SecuredCluster, name: str, login: Cluster, pause_s: float, stall_s: float = 60) -> None:
        self.bench = Bench(secured.kafka.internal, name)
        self.worked: Counter[bytes | None] = Counter()
        self._pause_s = pause_s
        self.pipeline = Pipeline(
            DeliverySettings(cluster=login, partition_capacity=20, stall_s=stall_s),
            group=f"{name}.group",
            topics=[self.bench.input],
            handle=self._handle,
        )

    async def _handle(self, record: Record) -> list[Outgoing]:
        self.worked[record.value] += 1
        await asyncio.sleep(self._pause_s)
        return self.bench.echo(record)

    async def each_once(self) -> None:
        """All records have come out, once each, and are committed; none was worked on twice."""
        found = await asyncio.wait_for(self.bench.read(1000), 120)
        await asyncio.wait_for(self.bench.until_finished(), 60)
        assert Counter(one.value for one in found) == {str(number).encode(): 1 for number in range(1000)}
        assert max(self.worked.values()) == 1


async def test_a_certificate_is_replaced_while_requests_run(
    secured: SecuredCluster, tmp_path: Path, unique_name: str
) -> None:
    """The new certificate is used by new connections, without a restart; half-written files disturb nobody."""
    login = with_certificate(secured, secured.authority)
    assert login.security.tls is not None
    file = login.security.tls.certificate
    assert file is not None
    secured.allow("team-a", "all", topic=f"{unique_name}*")
    secured.allow("team-a", "all", group=f"{unique_name}*")
    secured.allow("team-a", "all", transaction="*")
    # The next one is another principal's, by which it is seen which one brokers were shown.
    new = secured.authority.issue("team-b", client=True)
    echo = Echo(secured, unique_name, login, pause_s=0.25)
    await echo.bench.prepare(1000)
    with capture_logs() as lines:
        async with running(echo.pipeline):
            await asyncio.wait_for(echo.bench.read(100), 60)
            file.write_text("-----BEGIN half")
            assert await brokers_seen(login) == 1
            for one in ("topic", "group", "transaction"):
                secured.allow("team-b", "all", **{one: "*" if one == "transaction" else f"{unique_name}*"})
            file.write_bytes(new.both.read_bytes())
            assert await brokers_seen(login) == 1
            await echo.each_once()
    said = Counter(line["event"] for line in lines)
    assert said["changed certificates are not usable; the former ones stay"] >= 1
    assert said["changed certificates are used for new connections"] == 1


async def test_a_password_in_a_file_is_changed_while_a_service_runs(
    secured: SecuredCluster, tmp_path: Path, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is refused says so once, goes on trying, and is let in as soon as the file holds the new password."""
    ended: list[str] = []
    # It would end the tests.
    monkeypatch.setattr(watchdog, "end_process", ended.append)
    secured.add_principal(unique_name, "the first")
    for kind in ({"topic": "*"}, {"group": "*"}, {"transaction": "*"}):
        secured.allow(unique_name, "all", **kind)
    secret = tmp_path / "secret"
    secret.write_text("the first\n")
    file = secured.client_properties(unique_name, sasl_password=None, sasl_password_file=str(secret))
    echo = Echo(secured, f"{unique_name}.x", cluster(file), pause_s=0.02, stall_s=10)
    await echo.bench.prepare(0)
    with capture_logs() as lines:
        async with running(echo.pipeline):
            await asyncio.wait_for(echo.pipeline.assigned.joined.wait(), 60)
            await asyncio.to_thread(secured.add_principal, unique_name, "the second")
            # Whoever has a connection keeps it; so they are closed from here.
            clients = [echo.pipeline._consumer._client, echo.pipeline.topics._client]
            for client in clients:
                for connection in list(client._conns.values()):
                    connection.close()
            await _until(lambda: any(line["event"] == "a broker does not let us in" for line in lines))
            # Longer than the watchdog's patience: a new process would be refused as well.
            await asyncio.sleep(13)
            assert not ended
            secret.write_text("the second\n")
            await echo.bench.send(1000)
            await echo.each_once()
    told = [line for line in lines if line["event"] == "a broker does not let us in"]
    assert len(told) == 1
    assert "the password is wrong" in told[0]["why"]
    assert "the first" not in str(lines)


@pytest.mark.parametrize(("who", "says"), [("admin", "login_refused"), ("outsider", "shows no topic")])
def test_a_service_that_is_not_let_in_ends_with_a_code_of_its_own(
    secured: SecuredCluster, tmp_path: Path, who: str, says: str
) -> None:
    """Whoever keeps it running starts it again: the password, or the rights, may be put right any time."""
    wrong: dict[str, Any] = {"sasl_password": "guessed"} if who == "admin" else {}
    environ = {
        "KAFKA_CLIENT_CONFIG": str(secured.client_properties(who, **wrong)),
        "GUIDEWAY_HOME": str(tmp_path),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    command = [sys.executable, "-m", "guideway", "endpoints", "--no-restart"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == EXIT_UNAVAILABLE, done.stderr
    assert done.stderr.count(says) == 1
    assert "guessed" not in done.stderr


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.05)


async def test_doctor_says_how_it_logs_in_and_what_ends_when(secured: SecuredCluster, tmp_path: Path) -> None:
    def environ(file: Path) -> dict[str, str]:
        return {"KAFKA_CLIENT_CONFIG": str(file), "GUIDEWAY_HOME": str(tmp_path)}

    async def told(file: Path) -> dict[str, tuple[bool, str, str]]:
        return {one.name: (one.ok, one.found, one.mend) for one in await checks(environ(file), folder=tmp_path)}

    file = secured.client_properties("admin")
    ok, found, _ = (await told(file))["connection"]
    assert ok
    assert re.match(r"SASL_SSL, SCRAM-SHA-512, as User:admin; the broker's certificate until \d{4}-\d\d-\d\d", found)
    file.chmod(0o644)
    assert "chmod 600" in (await told(file))["connection's settings"][2]
    ends = secured.authority.issue("team-a", client=True, days=3)
    mine: dict[str, Any] = {**_NO_SASL, "bootstrap_servers": secured.certificate_brokers}
    ok, found, mend = (await told(secured.client_properties("admin", **mine, ssl_keystore_location=str(ends.both))))[
        "connection"
    ]
    assert not ok
    assert "this client's certificate until" in found
    assert mend == "have this client's certificate renewed: less than 7 days are left"
    ok, found, mend = (await told(secured.client_properties("admin", sasl_password="hush")))["broker runs"]
    assert not ok
    assert "the password is wrong" in mend
    assert "hush" not in found + mend
