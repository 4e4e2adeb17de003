"""`guideway gateway` and `guideway keys` as a platform engineer uses them, on a real broker."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.conftest import ONE_OF_KINDS
from tests.producers.gateway.http.serving import ground

from guideway.delivery.connection.cluster import Cluster
from guideway.infra.local_broker import RunningBroker
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.usecases.gateway import create_key, gateway, list_keys, revoke_key

ASKED = {"content": "soup", "headers": {"content-type": "text/plain"}}


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "chain.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@pytest.mark.broker
@pytest.mark.parametrize("kind", ONE_OF_KINDS)
async def test_keys_are_made_used_and_ended_and_what_travels_is_encrypted(
    kind: str, broker_of_kind: Callable[[str], RunningBroker], tmp_path: Path
) -> None:
    cluster = broker_of_kind(kind).cluster
    settings = Settings(home=tmp_path, store=str(tmp_path), named=cluster)
    chain, key_file = certificate(tmp_path)
    said: list[str] = []
    async with ground(cluster, "shop"):
        key, text = await create_key(settings, "shop", name="web site")
        _, short = await create_key(settings, "shop", days=0)
        assert [one.name for one in await list_keys(settings, "shop")][1:] == ["web site", ""]
        assert text not in repr(await list_keys(settings))
        async with gateway(
            settings, host="127.0.0.1", port=0, certificate=chain, key=key_file, limits={}, say=said.append
        ) as doors:
            running = asyncio.create_task(doors.run())
            assert said == [f"listening at https://127.0.0.1:{doors.http_port}"]
            trusted = ssl.create_default_context(cafile=chain)
            url = f"https://127.0.0.1:{doors.http_port}"
            async with httpx.AsyncClient(base_url=url, verify=trusted, timeout=30, trust_env=False) as client:

                async def call(bearer: str) -> httpx.Response:
                    headers = ASKED["headers"] | {"authorization": f"Bearer {bearer}"}  # type: ignore[operator]
                    return await client.post("/shop/mood", content="soup", headers=headers)

                got = await call(text)
                assert got.json()["samples"][0]["value"] == "soup"
                assert "expired" in (await call(short)).json()["detail"]
                await revoke_key(settings, key.id)
                async with asyncio.timeout(20):
                    while (got := await call(text)).status_code == 200:
                        await asyncio.sleep(0.05)
                assert (got.status_code, got.headers["www-authenticate"]) == (401, 'Bearer realm="guideway"')
            doors.stop()
            await running
        with pytest.raises(Refusal) as raised:
            await revoke_key(settings, "nobody")
        assert raised.value.code is FailureCode.INVALID_SETTING


@pytest.mark.parametrize("days", [float("nan"), float("inf"), -1.0, 1e9])
async def test_a_key_that_expires_at_no_time_is_not_made(days: float) -> None:
    settings = Settings(home=Path("/tmp"), store="", named=Cluster.of("127.0.0.1:1"))
    with pytest.raises(Refusal, match="expires after 0 to 36500 days") as raised:
        await create_key(settings, "shop", days=days)
    assert raised.value.code is FailureCode.INVALID_SETTING


@pytest.mark.broker
@pytest.mark.parametrize("kind", ONE_OF_KINDS)
async def test_an_open_gateway_says_so_and_serves_no_page_of_others(
    kind: str, broker_of_kind: Callable[[str], RunningBroker], tmp_path: Path
) -> None:
    cluster = broker_of_kind(kind).cluster
    settings = Settings(home=tmp_path, store=str(tmp_path), named=cluster)
    said: list[str] = []
    async with (
        ground(cluster, "shop"),
        gateway(settings, host="127.0.0.1", port=0, open_to="shop", limits={}, say=said.append) as doors,
    ):
        running = asyncio.create_task(doors.run())
        assert said[-1].startswith("OPEN: every program of this machine calls as namespace shop")
        url = f"http://127.0.0.1:{doors.http_port}"
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            statuses = []
            for more in ({}, {"origin": url}, {"origin": "https://evil.example"}, {"host": "evil.example"}):
                got = await client.post("/shop/mood", content="soup", headers={"content-type": "text/plain"} | more)
                statuses.append(got.status_code)
            assert statuses == [200, 200, 401, 401]
        doors.stop()
        await running


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"host": "0.0.0.0", "open_to": "shop"}, "--open lets everybody in"), ({"open_to": "infer"}, "no namespace"),
     ({"host": "no such host"}, "cannot listen"), ({"key": Path("key.pem")}, "a key without a certificate"),
     ({"certificate": Path("/nowhere.pem")}, "cannot be used"),
     ({"jwt_issuer": "https://issuer.example"}, "audience of tokens is empty"),
     ({"jwt_issuer": "x", "jwt_audience": "y", "jwt_keys_url": "http://x"}, "must be https"),
     ({"limits": {"max_body_bytes": 10**8}}, "lower the body")],
)  # fmt: skip
async def test_what_cannot_be_meant_is_refused_before_anything_runs(wrong: dict[str, Any], says: str) -> None:
    tokens = {name: wrong.pop(name) for name in [*wrong] if name.startswith("jwt_")}
    settings = Settings(home=Path("/tmp"), store="", named=Cluster.of("127.0.0.1:1"), **tokens)
    given: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "limits": {}, "say": print} | wrong
    with pytest.raises(Refusal, match=says):
        async with gateway(settings, **given):
            pass
