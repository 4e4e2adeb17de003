"""A cluster, as every Kafka client of a process needs it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
import structlog

from guideway.delivery.connection.reading import read
from guideway.delivery.connection.security import OAUTHBEARER, PasswordLogin, Security, TokenLogin
from guideway.delivery.connection.tokens import tokens_of
from guideway.schemas.failures import FailureCode, Refusal

log = structlog.get_logger(__name__)

_LABEL: Final = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_BROKER: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\]):([0-9]{{1,5}})")
LIMITS: Final[Mapping[str, Any]] = {
    # Leaders that have moved are found by errors; this finds brokers and partitions that were added.
    "metadata_max_age_ms": 60_000,
    # Below the brokers' own ten minutes, so that no request meets a connection that they have just closed.
    "connections_max_idle_ms": 540_000,
}
"""The same for every client, whatever it does."""


class Cluster(msgspec.Struct, frozen=True):
    """Where the brokers are, and how to log in. As text it is their addresses."""

    brokers: str
    """`host:port`, several with commas."""
    security: Security = Security()

    def __post_init__(self) -> None:
        if not self.brokers:
            raise ValueError("no brokers: name them, HOST:PORT with commas")

    def __str__(self) -> str:
        return self.brokers

    def client_settings(self) -> dict[str, Any]:
        """The arguments of aiokafka's clients that say where to connect and how to log in; they hold the password.

        Raises Refusal(invalid_setting) for files of certificates and secrets that can no longer be read.
        """
        found: dict[str, Any] = {"bootstrap_servers": self.brokers, **LIMITS}
        security = self.security
        if security.tls is None and security.login is None:
            return found
        found["security_protocol"] = str(security.protocol)
        if security.tls is not None:
            found["ssl_context"] = security.tls.context()
        match security.login:
            case PasswordLogin(mechanism=mechanism, username=name, password=password):
                found |= {"sasl_mechanism": mechanism, "sasl_plain_username": name}
                found["sasl_plain_password"] = password.revealed()
            case TokenLogin():
                found |= {"sasl_mechanism": OAUTHBEARER, "sasl_oauth_token_provider": tokens_of(security.login)}
        return found

    @staticmethod
    def of(brokers: str, security: Security | None = None, *, where: str = "KAFKA_BOOTSTRAP_SERVERS") -> Cluster:
        """The cluster at `brokers`, `host:port,host:port` as a user wrote it. Raises Refusal(invalid_setting).

        where: who says so, for the refusal.
        A host is a name, an IPv4 address, or an IPv6 address in brackets.
        """
        found = [entry.strip() for entry in brokers.split(",")]
        for entry in found:
            broker = _BROKER.fullmatch(entry)
            if broker is None or not 1 <= int(broker[1]) <= 65535:
                raise Refusal(
                    FailureCode.INVALID_SETTING,
                    f"{where} is {brokers!r}, and {entry!r} in it is no broker: write host:port, "
                    "several with commas; a port is at most 65535, and an IPv6 address stands in brackets",
                )
        return Cluster(",".join(found), security or Security())

    @staticmethod
    def from_environ(environ: Mapping[str, str] = os.environ) -> Cluster | None:
        """The cluster that the variables of docs/settings.md name, or the file in KAFKA_CLIENT_CONFIG; None: neither.

        What is given and not safe is logged as a warning, once. Raises Refusal(invalid_setting).
        """
        found = read(environ)
        if found is None:
            return None
        for warning in found.warnings:
            _warn(warning)
        if found.ignored:
            log.debug("properties without effect", keys=", ".join(found.ignored))
        cluster = Cluster.of(found.brokers, found.security, where=found.where)
        if cluster.security.tls is not None:
            # Files that cannot be used are told now, not when the first client connects.
            cluster.security.tls.context()
        return cluster


@lru_cache(maxsize=100)
def _warn(text: str) -> None:
    log.warning(text)
