"""As whom a client is logged in, and until when what it shows holds."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import NamedTuple

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.connection.look import peer_certificate_until
from guideway.delivery.connection.security import PasswordLogin, TokenLogin
from guideway.delivery.connection.tokens import claims_of, tokens_of


class Holds(NamedTuple):
    """Something that has to be renewed in time."""

    what: str
    until: datetime


def principal(cluster: Cluster) -> str | None:
    """`User:NAME`, as far as a client can know it: brokers may map names. None without a login by name.

    Of a token it is the subject, as brokers take it by default. Blocks where there is no token yet. Raises Trouble.
    """
    match cluster.security.login:
        case PasswordLogin(username=name):
            return f"User:{name}"
        case TokenLogin() as login:
            subject = claims_of(tokens_of(login).present()).get("sub")
            return f"User:{subject}" if isinstance(subject, str) and subject else None
    return None


def shown(cluster: Cluster) -> str:
    """How one logs in, as whom. Blocks as `principal` does. Raises Trouble."""
    security, who = cluster.security, principal(cluster)
    how = [str(security.protocol)]
    if security.login is not None:
        how.append(security.login.mechanism)
    if security.tls is not None and security.tls.shows_certificate:
        how.append(f"with the certificate {security.tls.certificate or 'given as text'}")
    return ", ".join(how) + (f", as {who}" if who else "")


def renewals(cluster: Cluster) -> list[Holds]:
    """What ends, and when: the certificates of both sides, and the token, which is renewed by itself. Blocks."""
    found = []
    security = cluster.security
    if security.tls is not None:
        if (theirs := peer_certificate_until(cluster)) is not None:
            found.append(Holds("the broker's certificate", _of_unix(ssl.cert_time_to_seconds(theirs))))
        if (mine := security.tls.certificate_until()) is not None:
            found.append(Holds("this client's certificate", mine))
    if isinstance(security.login, TokenLogin) and (ends_at := tokens_of(security.login).ends_at) is not None:
        found.append(Holds("the token", _of_unix(ends_at)))
    return found


def _of_unix(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
