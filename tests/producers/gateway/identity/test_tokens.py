"""Tokens of an identity provider, against what is tried on such checks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from guideway.producers.gateway.identity import key_set
from guideway.producers.gateway.identity.key_set import KeySet
from guideway.producers.gateway.identity.tokens import Tokens, TokenSettings
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal

RSA, OTHER = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
CURVE = ec.generate_private_key(ec.SECP256R1())


def jwk(key: Any, kid: str, **more: str) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    made: dict[str, Any] = json.loads(kind.to_jwk(key.public_key()))
    return made | {"kid": kid, "use": "sig"} | more


class Issuer:
    """Shows its keys over HTTP."""

    def __init__(self) -> None:
        self.keys: Any = {
            "keys": [jwk(RSA, "r"), jwk(CURVE, "e"), {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}, {"kty": []}]
        }
        self.asked = 0
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                body = json.dumps(issuer.keys).encode()
                self.send_response(200 if issuer.keys else 500)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def settings(url: str = "https://issuer.example/keys", **more: Any) -> TokenSettings:
    return TokenSettings(**{"issuer": "https://issuer.example", "audience": "guideway", "key_set_url": url} | more)


def claims(**more: Any) -> dict[str, Any]:
    usual = {
        "iss": "https://issuer.example",
        "aud": "guideway",
        "exp": time.time() + 300,
        "namespace": "shop",
        "sub": "web",
    }
    return {name: value for name, value in (usual | more).items() if value is not None}


def signed(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "r", **more: Any) -> str:
    return jwt.encode(claims(**more), key, algorithm, {"kid": kid} if kid is not None else {})


def by_hand(header: dict[str, Any], payload: dict[str, Any], secret: bytes | None = None) -> str:
    """What no library writes."""
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in (header, payload)]
    tag = b"" if secret is None else hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(tag).rstrip(b"=")]).decode()


async def refusal(tokens: Tokens, text: str) -> str:
    with pytest.raises(DoorRefusal) as raised:
        await tokens.caller(text)
    assert raised.value.code is DoorCode.UNAUTHENTICATED
    return raised.value.message


async def test_a_token_of_the_issuer_counts(issuer: Issuer) -> None:
    tokens = Tokens(settings(issuer.url), KeySet(issuer.url))
    found = await tokens.caller(signed())
    assert (found.namespace, found.who) == ("shop", "subject web")
    assert (await tokens.caller(signed(CURVE, "ES256", "e", namespace="other"))).namespace == "other"
    assert (await tokens.caller(signed(exp=time.time() - 5))).namespace == "shop"
    assert (await tokens.caller(signed(aud=["x", "guideway"]))).namespace == "shop"
    assert issuer.asked == 1
    team = Tokens(settings(issuer.url, claim="team"), KeySet(issuer.url))
    assert (await team.caller(signed(team="b"))).namespace == "b"


async def test_what_is_tried_on_tokens(issuer: Issuer) -> None:
    tokens = Tokens(settings(issuer.url), KeySet(issuer.url))
    public = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert (await tokens.caller(signed())).namespace == "shop"
    good = signed()
    tried = {
        "alg none": by_hand({"alg": "none", "kid": "r"}, claims()),
        "alg None": by_hand({"alg": "None", "kid": "r"}, claims()),
        "no signature": good.rpartition(".")[0] + ".",
        "another's signature": good.rpartition(".")[0] + "." + signed(OTHER).rpartition(".")[2],
        "HS256 with the public key": by_hand({"alg": "HS256", "kid": "r"}, claims(), public),
        "HS256 with the shown secret": by_hand({"alg": "HS256", "kid": "shared"}, claims(), b"secret"),
        "another key under the same id": signed(OTHER),
        "the other algorithm's key": signed(RSA, "RS256", "e"),
        "not a pinned algorithm": signed(RSA, "PS256"),
        "another audience": signed(aud="billing"),
        "no audience": signed(aud=None),
        "another issuer": signed(iss="https://issuer.example.evil"),
        "expired": signed(exp=time.time() - 60),
        "without end": signed(exp=None),
        "not yet": signed(nbf=time.time() + 120),
        "no namespace": signed(namespace=None),
        "several namespaces": signed(namespace=["shop"]),
        "no name": signed(namespace="shop.b"),
        "a longer name": signed(namespace="shop\n"),
        "reserved": signed(namespace="infer"),
        "a key of its own": jwt.encode(claims(), OTHER, "RS256", {"kid": "x", "jwk": jwk(OTHER, "x")}),
        "a place of its own": jwt.encode(claims(), OTHER, "RS256", {"kid": "x", "jku": "http://127.0.0.1:1/"}),
        "an id that is no text": by_hand({"alg": "RS256", "kid": {"$ne": 1}}, claims()),
        "no token": "a.b.c",
        "nothing": "..",
        "too long": "x" * 20_000,
        "critical": jwt.encode(claims(), RSA, "RS256", {"kid": "r", "crit": ["exp"]}),
    }
    for text in tried.values():
        assert await refusal(tokens, text)


async def test_made_up_key_ids_have_the_keys_read_once(issuer: Issuer) -> None:
    tokens = Tokens(settings(issuer.url), KeySet(issuer.url, rest_s=1000))
    for number in range(50):
        await refusal(tokens, signed(kid=f"made-up-{number}"))
    assert issuer.asked == 1


async def test_a_new_key_is_found_and_a_provider_that_is_away_locks_nobody_out(issuer: Issuer) -> None:
    keys = KeySet(issuer.url, fresh_s=0, rest_s=0)
    tokens = Tokens(settings(issuer.url), keys)
    await refusal(tokens, signed(OTHER, kid="new"))
    issuer.keys = {"keys": [jwk(OTHER, "new"), jwk(RSA, "r")]}
    assert (await tokens.caller(signed(OTHER, kid="new"))).namespace == "shop"
    broken: list[Any] = [None, [], {"keys": 7}, {"keys": "x"}]
    for issuer.keys in broken:
        assert (await tokens.caller(signed(OTHER, kid="new"))).namespace == "shop"
    issuer.keys = {"keys": [jwk(RSA, "r")]}
    await refusal(tokens, signed(OTHER, kid="new"))


async def test_while_one_waits_for_a_slow_provider_others_do_not() -> None:
    asked, answer = asyncio.Queue[None](), asyncio.Event()
    answer.set()

    async def provide(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.put_nowait(None)
        await answer.wait()
        body = json.dumps({"keys": [jwk(RSA, "r")]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(provide, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
        tokens = Tokens(settings(url), KeySet(url, fresh_s=0, rest_s=0))
        assert (await tokens.caller(signed())).namespace == "shop"
        await asked.get()
        answer.clear()
        slow = asyncio.create_task(tokens.caller(signed()))
        await asked.get()
        async with asyncio.timeout(3):
            assert (await tokens.caller(signed())).namespace == "shop"
        assert not slow.done()
        answer.set()
        assert (await slow).namespace == "shop"


async def test_a_provider_that_drips_its_keys_locks_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_set, "_TIMEOUT_S", 0.5)
    drips, over = False, asyncio.Queue[None]()

    async def provide(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"keys": [jwk(RSA, "r")]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body))
        for byte in body:
            writer.write(bytes([byte]))
            if drips:
                await asyncio.sleep(0.1)
            if reader.at_eof():
                break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        over.put_nowait(None)

    async with await asyncio.start_server(provide, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
        tokens = Tokens(settings(url), KeySet(url, fresh_s=0, rest_s=0))
        assert (await tokens.caller(signed())).namespace == "shop"
        drips = True
        assert (await tokens.caller(signed())).namespace == "shop"
        with pytest.raises(DoorRefusal) as raised:
            await Tokens(settings(url), KeySet(url)).caller(signed())
        assert raised.value.code is DoorCode.BUSY
        for _ in range(3):
            await over.get()


async def test_without_keys_nobody_is_told_that_a_token_is_wrong() -> None:
    tokens = Tokens(settings(), KeySet("http://127.0.0.1:1/keys"))
    with pytest.raises(DoorRefusal) as raised:
        await tokens.caller(signed())
    assert raised.value.code is DoorCode.BUSY


@pytest.mark.parametrize(
    "wrong",
    [{"algorithms": ("HS256",)}, {"algorithms": ("none",)}, {"algorithms": ()}, {"issuer": " "}, {"audience": ""},
     {"url": "http://issuer.example/keys"}, {"url": "file:///etc/passwd"}, {"url": "http://127.0.0.1.evil/"},
     {"claim": ""}],
)  # fmt: skip
def test_settings_that_would_let_others_in_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as raised:
        settings(**wrong)
    assert raised.value.code is FailureCode.INVALID_SETTING
