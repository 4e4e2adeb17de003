"""A provider's public keys (JSON Web Key Set, RFC 7517), read over HTTP and kept.

An unknown key id has them read anew, at a bounded rate: whoever sends made-up ids costs the provider nothing more.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import httpx
import jwt
import structlog

from guideway.producers.gateway.status import DoorCode, DoorRefusal

log = structlog.get_logger(__name__)

_TIMEOUT_S: Final = 5.0
_MOST_BYTES: Final = 1_000_000
_KINDS: Final = frozenset({"RSA", "EC", "OKP"})
"""Key types of asymmetric keys: one of type `oct` would be a shared secret."""


class KeySet:
    """The keys at one URL. Any number of tasks may ask."""

    def __init__(self, url: str, *, fresh_s: float = 600.0, rest_s: float = 30.0) -> None:
        """fresh_s: after so many seconds they are read again. rest_s: between two readings at least."""
        self._url = url
        self._fresh_s, self._rest_s = fresh_s, rest_s
        self._keys: list[jwt.PyJWK] = []
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()
        self.readings = 0

    async def find(self, key_id: str | None, algorithm: str) -> Any | None:
        """The public key for a token; None: there is none. Raises DoorRefusal(busy) where none could ever be read."""
        found = self._find(key_id, algorithm)
        now = time.monotonic()
        # With a key at hand nobody waits while another reads: the provider may be slow.
        if found is None or (now - self._read_at > self._fresh_s and not self._one_at_a_time.locked()):
            async with self._one_at_a_time:
                # Who waited for another's reading is served by it.
                if time.monotonic() - self._tried_at >= self._rest_s:
                    await self._read()
            found = self._find(key_id, algorithm)
        if found is None and self._read_at == float("-inf"):
            raise DoorRefusal(DoorCode.BUSY, "the issuer's keys cannot be read at present: try again later")
        return found

    def _find(self, key_id: str | None, algorithm: str) -> Any | None:
        fit = [one for one in self._keys if one.algorithm_name == algorithm or _is_family(one, algorithm)]
        if key_id is not None:
            fit = [one for one in fit if one.key_id == key_id]
        return fit[0].key if len(fit) == 1 else None

    async def _read(self) -> None:
        self._tried_at = time.monotonic()
        self.readings += 1
        try:
            self._keys = _asymmetric(await _fetched(self._url))
            self._read_at = time.monotonic()
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, jwt.PyJWTError) as error:
            # Those that were read before go on counting: a provider that is away must not lock everybody out.
            log.warning("the issuer's keys cannot be read", url=self._url, error=type(error).__name__)


async def _fetched(url: str) -> Any:
    body = bytearray()
    async with (
        httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
        asyncio.timeout(2 * _TIMEOUT_S),
        client.stream("GET", url) as response,
    ):
        response.raise_for_status()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > _MOST_BYTES:
                raise ValueError("too large")
    return httpx.Response(200, content=bytes(body)).json()


def _asymmetric(found: Any) -> list[jwt.PyJWK]:
    """Raises ValueError for what is no key set; single keys that cannot be used are left out."""
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        raise ValueError("no key set")
    keys = []
    for one in found["keys"][:200]:
        if not isinstance(one, dict) or str(one.get("kty")) not in _KINDS or one.get("use", "sig") != "sig":
            continue
        try:
            keys.append(jwt.PyJWK(one))
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            log.warning("a key of the issuer cannot be used", kid=str(one.get("kid"))[:80])
    return keys


def _is_family(key: jwt.PyJWK, algorithm: str) -> bool:
    """Whether a key that names no algorithm fits this one; RSA keys sign with several."""
    named = key._jwk_data.get("alg")
    return named is None and key.key_type == "RSA" and algorithm[:2] in ("RS", "PS")
