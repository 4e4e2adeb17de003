"""How a client logs in: over which protocol, as whom."""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from guideway.delivery.connection.secret import Secret
from guideway.delivery.connection.tls import Tls
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.nearest import did_you_mean


class Protocol(StrEnum):
    """Kafka's `security.protocol`."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


PASSWORD_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
OAUTHBEARER: Final = "OAUTHBEARER"
MECHANISMS: Final = (*PASSWORD_MECHANISMS, OAUTHBEARER)


class PasswordLogin(msgspec.Struct, frozen=True, kw_only=True):
    """A name and a password."""

    mechanism: str
    """PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, as the cluster keeps the password."""
    username: str
    password: Secret

    def __post_init__(self) -> None:
        if self.mechanism not in PASSWORD_MECHANISMS:
            near = did_you_mean(self.mechanism.upper(), PASSWORD_MECHANISMS)
            raise _refused(
                f"{self.mechanism[:40]!r} is no way to log in by password: {near}there are "
                f"{', '.join(PASSWORD_MECHANISMS)}"
            )
        if not self.username or "\0" in self.username:
            raise _refused("the user name to log in with is empty, or holds a zero byte: set sasl.username")

    @property
    def principal(self) -> str:
        """Who this is, as far as a client can know: a cluster may map names."""
        return f"User:{self.username}"


class TokenLogin(msgspec.Struct, frozen=True, kw_only=True):
    """OAUTHBEARER: a token of an identity provider, which gives it for client id and secret (client credentials)."""

    endpoint: str
    """URL of the token endpoint: https; http only on this machine."""
    client_id: str
    secret: Secret
    scope: str | None = None
    ca: Path | None = None
    """File with the authorities that the token endpoint is signed by; without it, the system's."""
    extensions: tuple[tuple[str, str], ...] = ()
    """Further names and values for the brokers, such as `logicalCluster`."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _refused(f"the token endpoint is to be an https address, and is {self.endpoint[:200]!r}")
        if parts.username or parts.password:
            raise _refused("the token endpoint's address holds a password: give client id and secret instead")
        if parts.scheme == "http" and not is_local(parts.hostname):
            raise _refused(
                f"the token endpoint at {parts.hostname} is to be asked by https: by http anybody on the way reads the "
                "client secret"
            )
        if not self.client_id:
            raise _refused("the client id is empty: set sasl.oauthbearer.client.id")
        for name, value in self.extensions:
            # RFC 7628, section 3.1
            if not re.fullmatch("[A-Za-z]+", name) or name == "auth" or not re.fullmatch(r"[\x20-\x7e\t\r\n]*", value):
                raise _refused(f"the extension {name[:40]!r} can be none: a name is of letters, a value of plain ASCII")

    @property
    def mechanism(self) -> str:
        return OAUTHBEARER

    @property
    def principal(self) -> str:
        """Who asks for the token; whom the brokers see in it is said by them."""
        return f"client {self.client_id}"


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """Encryption and login; neither, by default."""

    tls: Tls | None = None
    """None: what is sent can be read on the way."""
    login: PasswordLogin | TokenLogin | None = None
    """None: the brokers know this client by its certificate, or not at all."""

    @property
    def protocol(self) -> Protocol:
        match self.tls, self.login:
            case None, None:
                return Protocol.PLAINTEXT
            case None, _:
                return Protocol.SASL_PLAINTEXT
            case _, None:
                return Protocol.SSL
        return Protocol.SASL_SSL

    @property
    def files(self) -> tuple[Path, ...]:
        """Files with secrets."""
        secret = _secret_of(self.login)
        held = [secret.file if secret else None]
        if self.tls is not None:
            held += [
                self.tls.key or self.tls.certificate,
                self.tls.key_password.file if self.tls.key_password else None,
            ]
        return tuple(file for file in held if file is not None)


def _secret_of(login: PasswordLogin | TokenLogin | None) -> Secret | None:
    match login:
        case PasswordLogin(password=secret) | TokenLogin(secret=secret):
            return secret
    return None


def is_local(host: str) -> bool:
    """Whether it is this machine: what is sent there leaves it by no wire."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _refused(why: str) -> Refusal:
    return Refusal(FailureCode.INVALID_SETTING, why)
