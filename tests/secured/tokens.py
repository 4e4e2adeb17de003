"""An identity provider for tests: it gives JWTs for a client's id and secret, and brokers know its key from a file.

with TokenServer.up(folder) as server, SecuredCluster.up(folder, server.broker_settings()) as secured:
    environ = server.environ("admin", secured)       # for our processes: OAUTHBEARER as the principal `admin`
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

SECRET: Final = "client-secret"
_OAUTH: Final = "org.apache.kafka.common.security.oauthbearer"


@dataclass
class TokenServer:
    """Every client id may come, with SECRET. Its tokens say so as `sub`, and brokers take that for the user's name."""

    folder: Path
    url: str
    lives_s: float = 3600.0
    """How long the next tokens live."""
    answer: tuple[int, bytes] | None = None
    """What is answered instead of a token: status and body."""
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    """The bodies of all requests."""

    @classmethod
    @contextmanager
    def up(cls, folder: Path) -> Iterator[TokenServer]:
        """A server on 127.0.0.1, ended on exit. While it is up, Java processes that are started may read its key."""
        folder.mkdir(parents=True, exist_ok=True)
        _openssl("genpkey", "-algorithm", "RSA", "-out", folder / "key.pem")
        server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        made = cls(folder, f"http://127.0.0.1:{server.server_port}/token")
        server.RequestHandlerClass = made._handler()
        (folder / "jwks.json").write_text(json.dumps({"keys": [_public(folder / "key.pem")]}))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        before = os.environ.get("JAVA_TOOL_OPTIONS")
        os.environ["JAVA_TOOL_OPTIONS"] = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={made.keys}"
        try:
            yield made
        finally:
            os.environ.pop("JAVA_TOOL_OPTIONS")
            if before is not None:
                os.environ["JAVA_TOOL_OPTIONS"] = before
            server.shutdown()
            server.server_close()
            thread.join(10)

    @property
    def keys(self) -> str:
        return (self.folder / "jwks.json").as_uri()

    def broker_settings(self) -> dict[str, str]:
        """What brokers are set up with beside what a secured cluster has anyway."""
        prefix = "listener.name.client.oauthbearer"
        return {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN,OAUTHBEARER",
            f"{prefix}.sasl.jaas.config": f"{_OAUTH}.OAuthBearerLoginModule required;",
            f"{prefix}.sasl.server.callback.handler.class": f"{_OAUTH}.OAuthBearerValidatorCallbackHandler",
            f"{prefix}.sasl.oauthbearer.jwks.endpoint.url": self.keys,
            f"{prefix}.sasl.oauthbearer.expected.audience": "kafka",
        }

    def properties(self, client_id: str, secret: str = SECRET) -> str:
        """Those that a client's file has for its login."""
        return (
            f"security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.method=oidc\n"
            f"sasl.oauthbearer.token.endpoint.url={self.url}\nsasl.oauthbearer.client.id={client_id}\n"
            f"sasl.oauthbearer.client.secret={secret}\nsasl.oauthbearer.scope=events\n"
        )

    def token(self, subject: str) -> str:
        """A signed JWT that ends after `lives_s`."""
        now = time.time()
        claims = {"sub": subject, "aud": "kafka", "scope": "events", "iat": now, "exp": now + self.lives_s}
        parts = [_encoded(json.dumps(one).encode()) for one in ({"alg": "RS256", "kid": "tests"}, claims)]
        signed = _openssl("dgst", "-sha256", "-sign", self.folder / "key.pem", given=".".join(parts).encode())
        return ".".join([*parts, _encoded(signed)])

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                server.asked.append(parse_qs(body))
                kind, _, given = self.headers["Authorization"].partition(" ")
                name, _, secret = base64.b64decode(given).decode().partition(":")
                if server.answer is not None:
                    status, text = server.answer
                elif (kind, secret) != ("Basic", SECRET):
                    status, text = 401, b'{"error": "invalid_client", "error_description": "no such client"}'
                else:
                    told = {"access_token": server.token(name), "token_type": "Bearer", "expires_in": server.lives_s}
                    status, text = 200, json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                if status in (302, 307):
                    self.send_header("Location", text.decode())
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


def _public(key: Path) -> dict[str, str]:
    modulus = re.search(rb"Modulus=([0-9A-F]+)", _openssl("rsa", "-in", key, "-noout", "-modulus"))
    assert modulus is not None
    number = _encoded(bytes.fromhex(modulus[1].decode()))
    return {"kty": "RSA", "kid": "tests", "alg": "RS256", "use": "sig", "n": number, "e": "AQAB"}


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _openssl(*arguments: object, given: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *map(str, arguments)], input=given, capture_output=True, check=True)
    return done.stdout
