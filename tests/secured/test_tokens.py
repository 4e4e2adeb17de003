"""OAUTHBEARER: tokens come from their endpoint once, are renewed before they end, and their end loses nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.delivery.test_pipeline import running
from tests.faults.kafka.cluster import NO_KAFKA

from guideway.delivery.clients.administrator import administrator
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.connection.identity import renewals, shown
from guideway.delivery.connection.look import wrong_with
from guideway.delivery.connection.tokens import tokens_of
from guideway.delivery.guards import session_guards
from guideway.schemas.failures import FailureCode, Refusal

from .certificates import NO_OPENSSL, have_openssl
from .cluster import SecuredCluster
from .test_connection import Echo, brokers_seen
from .tokens import TokenServer


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    if not have_openssl():
        pytest.skip(NO_OPENSSL)
    with TokenServer.up(tmp_path_factory.mktemp("provider")) as server:
        yield server


@pytest.fixture(scope="module")
def trusting(provider: TokenServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredCluster]:
    """A secured cluster whose brokers take the provider's tokens."""
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip(NO_KAFKA)
    with SecuredCluster.up(tmp_path_factory.mktemp("trusting"), provider.broker_settings()) as cluster:
        yield cluster


@pytest.fixture
def login(provider: TokenServer, trusting: SecuredCluster, tmp_path: Path) -> Iterator[Cluster]:
    """As the principal `admin`, with no token yet."""
    tokens_of.cache_clear()
    provider.asked.clear()
    yield made(provider, trusting, tmp_path)
    provider.answer, provider.lives_s = None, 3600.0


def made(provider: TokenServer, trusting: SecuredCluster, folder: Path, **words: str) -> Cluster:
    file = folder / "client.properties"
    text = f"bootstrap.servers={trusting.brokers}\nssl.ca.location={trusting.authority.certificate}\n"
    file.write_text(text + provider.properties("admin", **words))
    file.chmod(0o600)
    found = Cluster.from_environ({"KAFKA_CLIENT_CONFIG": str(file)})
    assert found is not None
    return found


async def test_one_token_serves_all_clients(login: Cluster, provider: TokenServer) -> None:
    assert await asyncio.to_thread(wrong_with, login) is None
    assert await asyncio.gather(*(brokers_seen(login) for _ in range(5))) == [1] * 5
    assert await asyncio.to_thread(shown, login) == "SASL_SSL, OAUTHBEARER, as User:admin"
    assert [one.what for one in await asyncio.to_thread(renewals, login)] == ["the broker's certificate", "the token"]
    assert provider.asked == [{"grant_type": ["client_credentials"], "scope": ["events"]}]


@pytest.mark.parametrize("renews", [True, False])
async def test_tokens_end_while_requests_run(
    login: Cluster,
    provider: TokenServer,
    trusting: SecuredCluster,
    unique_name: str,
    monkeypatch: pytest.MonkeyPatch,
    renews: bool,
) -> None:
    """1,000 requests over three lives of a token: each gives one result, and is worked on once.

    That holds where connections log in again, and where brokers cut them off.
    """
    provider.lives_s = 5.0 if renews else 3.0
    echo = Echo(trusting, unique_name, login, pause_s=0.8 if renews else 0.5)
    if not renews:
        monkeypatch.setattr(session_guards, "_begin", lambda _connection: None)
    await echo.bench.prepare(1000)
    began = time.monotonic()
    with capture_logs() as lines:
        async with running(echo.pipeline):
            await echo.each_once()
    # One at a time, which is renewed after 0.65 of its life at the earliest: a busy machine takes more lives.
    assert 3 <= len(provider.asked) <= max(20, 2 + (time.monotonic() - began) / (0.65 * provider.lives_s))
    said = Counter(line["event"] for line in lines)
    assert (said["a login was renewed"] > 0) == renews
    assert (said["partition reopens"] > 0) or renews


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((503, b"busy"), r"token endpoint http://127.0.0.1:\d+/token refuses client 'admin' \(503\); look at its log"),
        ((400, b'{"error": "invalid_scope"}'), r"\(400 invalid_scope\); correct sasl.oauthbearer.scope"),
        ((200, b"<html>"), "answers no JSON"),
        ((200, b"{}"), "answers without an access_token"),
        ((302, b"http://127.0.0.1:1/"), r"refuses client 'admin' \(302\)"),
        ((200, b'{"access_token": "e30.e30.e30", "expires_in": 60}'), "they do not accept the token"),
    ],
)
async def test_a_provider_that_gives_none(
    login: Cluster, provider: TokenServer, answer: tuple[int, bytes], says: str
) -> None:
    provider.answer = answer
    with pytest.raises(Refusal, match=says) as caught:
        await brokers_seen(login)
    assert caught.value.code is FailureCode.LOGIN_REFUSED


async def test_a_wrong_secret_and_a_provider_that_is_away(
    provider: TokenServer, trusting: SecuredCluster, tmp_path: Path
) -> None:
    wrong = made(provider, trusting, tmp_path, secret="hush")
    with pytest.raises(Refusal, match=r"\(401 invalid_client\); correct client id and client secret") as caught:
        await brokers_seen(wrong)
    assert "hush" not in caught.value.message
    gone = made(TokenServer(provider.folder, "http://127.0.0.1:1/token"), trusting, tmp_path)
    with pytest.raises(Refusal, match=r"http://127.0.0.1:1/token does not answer \(Connection refused\)"):
        async with administrator(gone):
            pass
