"""Tokens for OAUTHBEARER: asked for once, shared by all clients of the process, renewed before they end.

Client credentials of RFC 6749, section 4.4. Kafka lets a session live as long as its token. Before it ends, the
connection logs in again with a newer one (`delivery/guards/session_guards.py`).
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import random
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import structlog
from aiokafka.abc import AbstractTokenProvider

from guideway.delivery.connection.security import TokenLogin
from guideway.delivery.connection.tls import Tls
from guideway.delivery.connection.trouble import Cause, Trouble

log = structlog.get_logger(__name__)

_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 200_000
_RENEWED_AT: Final = (0.65, 0.8)
"""Of a token's life; by chance in between, so that processes that began together do not ask together. It is before the
connections of the present token log in again (`delivery/guards/session_guards.py`).
"""
_UNSAID_S: Final = 300.0
"""How long a token is taken to live that does not say it."""
_PAUSE_S: Final = 2.0
"""After an attempt that failed, the endpoint is left alone for a while."""


class Token(NamedTuple):
    """What the endpoint gave, in seconds of Unix time."""

    text: str
    renew_at: float
    ends_at: float

    def __repr__(self) -> str:
        return f"Token(…, ends_at={self.ends_at:.0f})"


class Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's provider of tokens, one for a login. For any thread and event loop."""

    def __init__(
        self, login: TokenLogin, *, clock: Callable[[], float] = time.time, chance: Callable[[], float] = random.random
    ) -> None:
        self.login = login
        self._clock = clock
        self._chance = chance
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._failed: tuple[float, Cause] | None = None

    async def token(self) -> str:
        """A token that does not end soon. Raises Trouble if there is none."""
        return await asyncio.to_thread(self.present)

    def extensions(self) -> dict[str, str]:
        return dict(self.login.extensions)

    def present(self) -> str:
        """As `token`; blocks."""
        with self._lock:
            now = self._clock()
            if self._token is not None and now < self._token.renew_at:
                return self._token.text
            try:
                self._token = self._renewed(now)
            except Trouble as trouble:
                if self._token is None or now >= self._token.ends_at:
                    raise
                log.warning("the token could not be renewed; the present one still holds", why=trouble.cause.why)
            return self._token.text

    @property
    def ends_at(self) -> float | None:
        """When the present token ends, in Unix time; None before the first."""
        return self._token.ends_at if self._token is not None else None

    def _renewed(self, now: float) -> Token:
        if self._failed is not None and now < self._failed[0]:
            raise Trouble(self._failed[1])
        try:
            told = _asked(self.login)
        except Trouble as trouble:
            self._failed = now + _PAUSE_S, trouble.cause
            raise
        self._failed = None
        return token_of(told, self.login, now, self._chance())


def token_of(told: Any, login: TokenLogin, now: float, chance: float) -> Token:
    """The token in an endpoint's answer. Pure. chance: of [0, 1). Raises Trouble where there is none."""
    text = told.get("access_token") if isinstance(told, dict) else None
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or not text:
        raise Trouble(Cause(f"the token endpoint {login.endpoint} answers without an access_token", "look at its log"))
    lives = told.get("expires_in")
    ends = [now + lives] if isinstance(lives, int | float) and lives > 0 else []
    if (exp := _claimed_end(text)) is not None:
        ends.append(exp)
    ends_at = min(ends, default=now + _UNSAID_S)
    least, most = _RENEWED_AT
    return Token(text, now + (ends_at - now) * (least + (most - least) * chance), ends_at)


def claims_of(token: str) -> dict[str, Any]:
    """What a JWT says of itself, unchecked; nothing for other tokens. Pure."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, IndexError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) and len(parts) == 3 else {}


def _claimed_end(token: str) -> float | None:
    """When a JWT says that it ends; brokers go by it."""
    end = claims_of(token).get("exp")
    return float(end) if isinstance(end, int | float) else None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Whoever is redirected to would be sent the secret."""

    def redirect_request(self, *_: object) -> None:
        return None


def _asked(login: TokenLogin) -> Any:
    """What the endpoint answers. Raises Trouble."""
    body = {"grant_type": "client_credentials"} | ({"scope": login.scope} if login.scope else {})
    pair = base64.b64encode(f"{login.client_id}:{login.secret.reveal()}".encode()).decode()
    request = urllib.request.Request(
        login.endpoint,
        urlencode(body).encode(),
        {"Authorization": f"Basic {pair}", "Accept": "application/json"},
        method="POST",
    )
    opener = urllib.request.build_opener(
        _NoRedirects(), urllib.request.HTTPSHandler(context=Tls(ca=login.ca).context())
    )
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return json.loads(answer.read(_MAX_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            raise Trouble(_refused(login, error.code, error.read(_MAX_BYTES))) from None
    except (OSError, http.client.HTTPException) as error:
        raise Trouble(_away(login, error)) from None
    except (ValueError, RecursionError):
        raise Trouble(
            Cause(f"the token endpoint {login.endpoint} answers no JSON", "correct sasl.oauthbearer.token.endpoint.url")
        ) from None


def _refused(login: TokenLogin, status: int, body: bytes) -> Cause:
    try:
        named = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        named = ""
    # RFC 6749, section 5.2: one of a few words. The longer text beside it may be anything.
    said = f"{status} {named}" if isinstance(named, str) and named.replace("_", "").isalpha() else str(status)
    mend = {
        "invalid_client": "correct client id and client secret",
        "unauthorized_client": "let the identity provider allow this client the grant client_credentials",
        "invalid_scope": "correct sasl.oauthbearer.scope",
    }.get(str(named), "correct client id and client secret" if status == 401 else "look at its log")
    return Cause(f"the token endpoint {login.endpoint} refuses client {login.client_id!r} ({said})", mend)


def _away(login: TokenLogin, error: Exception) -> Cause:
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLError):
        mend = "name its authority in https.ca.location" if reason.reason == "CERTIFICATE_VERIFY_FAILED" else ""
        why = getattr(reason, "verify_message", "") or (reason.reason or "TLS").lower().replace("_", " ")
        return Cause(f"the token endpoint {login.endpoint} is not trusted ({why})", mend or "correct its address")
    why = getattr(reason, "strerror", None) or str(reason)[:100] or type(reason).__name__
    return Cause(f"the token endpoint {login.endpoint} does not answer ({why})", "start it, or correct its address")


@lru_cache(maxsize=64)
def tokens_of(login: TokenLogin) -> Tokens:
    """The provider of this login, the same one for all clients of the process."""
    return Tokens(login)
