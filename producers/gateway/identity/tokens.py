"""Tokens of an identity provider (JWT, RFC 7519), checked as RFC 8725 says: algorithms are ours to choose."""

from __future__ import annotations

import ipaddress
from typing import Any, Final
from urllib.parse import urlsplit

import jwt
import msgspec

from guideway.producers.gateway.identity.caller import Caller, unauthenticated
from guideway.producers.gateway.identity.key_set import KeySet
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import NAME, RESERVED_NAMESPACES

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric ones only: with others, whoever can check a token could write one."""
_MOST_CHARS: Final = 16_384


class TokenSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whose tokens count."""

    issuer: str
    audience: str
    key_set_url: str
    """Of the provider's JSON Web Key Set: https, or http of this machine."""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    claim: str = "namespace"
    """Which claim names the caller's namespace."""
    leeway_s: int = 30
    """How far clocks may differ."""

    def __post_init__(self) -> None:
        """Raises Refusal(invalid_setting)."""
        for what, value in (("issuer", self.issuer), ("audience", self.audience), ("claim", self.claim)):
            if not value.strip():
                raise Refusal(FailureCode.INVALID_SETTING, f"the {what} of tokens is empty: set it")
        if wrong := [one for one in self.algorithms if one not in ALGORITHMS]:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{wrong[0][:40]!r} is no algorithm that tokens may be signed with: choose of {', '.join(ALGORITHMS)}",
            )
        if not self.algorithms:
            raise Refusal(FailureCode.INVALID_SETTING, "no algorithm for tokens is named: leave it out, or name one")
        parts = urlsplit(self.key_set_url)
        if parts.scheme != "https" and not (parts.scheme == "http" and _is_here(parts.hostname)):
            raise Refusal(
                FailureCode.INVALID_SETTING,
                "the URL of the provider's keys must be https (http for this machine only): whoever can change what is "
                "read there is everybody",
            )


class Tokens:
    """Checks tokens. Owner of the provider's keys, as they were last read."""

    def __init__(self, settings: TokenSettings, keys: KeySet) -> None:
        self._settings = settings
        self._keys = keys

    async def caller(self, text: str) -> Caller:
        """Whose token this is. Raises DoorRefusal: unauthenticated, busy where the provider's keys cannot be read."""
        if len(text) > _MOST_CHARS:
            raise unauthenticated("this token is too long")
        try:
            header = jwt.get_unverified_header(text)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise unauthenticated("this is neither a key nor a token: send `Authorization: Bearer KEY`") from None
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.algorithms or not (key_id is None or isinstance(key_id, str)):
            raise unauthenticated(
                "the token is not signed as this gateway wants it: " + ", ".join(self._settings.algorithms)
            )
        key = await self._keys.find(key_id, algorithm)
        if key is None:
            raise unauthenticated("the token is signed with a key that its issuer does not show")
        return _caller(self._claims(text, key, algorithm), self._settings.claim)

    def _claims(self, text: str, key: Any, algorithm: str) -> dict[str, Any]:
        settings = self._settings
        try:
            return jwt.decode(
                text,
                key,
                algorithms=[algorithm],
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise unauthenticated("the token has expired: get a new one") from None
        except jwt.ImmatureSignatureError:
            raise unauthenticated("the token does not count yet: see to the clocks") from None
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
            raise unauthenticated("the token is for or from somebody else") from None
        except jwt.MissingRequiredClaimError as error:
            raise unauthenticated(f"the token lacks the claim {error.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise unauthenticated("the token's signature or form is wrong") from None


def _caller(claims: dict[str, Any], claim: str) -> Caller:
    namespace = claims.get(claim)
    if not isinstance(namespace, str) or not NAME.fullmatch(namespace):
        raise unauthenticated(f"the token's claim {claim} names no namespace")
    if namespace in RESERVED_NAMESPACES:
        raise unauthenticated(f"the token's claim {claim} names a namespace that is nobody's")
    subject = claims.get("sub")
    return Caller(namespace, f"subject {subject[:80] if isinstance(subject, str) else '?'}")


def _is_here(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
