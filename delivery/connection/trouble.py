"""Why a connection fails, in one sentence, told from the errors of TLS, SASL and the token endpoint. Pure."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from aiokafka import errors

from guideway.delivery.connection.security import OAUTHBEARER, PasswordLogin, Protocol, Security, TokenLogin
from guideway.schemas.failures import FailureCode, Refusal


class Cause(NamedTuple):
    """Why there is no connection, and what mends it."""

    why: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.why}; {self.mend}" if self.mend else self.why

    def refusal(self, where: object) -> Refusal:
        """For whoever wanted to connect to the brokers at `where`."""
        return Refusal(FailureCode.LOGIN_REFUSED, f"the connection to the brokers at {where} fails: {self}")


class Trouble(errors.KafkaConnectionError):  # type: ignore[misc]  # aiokafka has no types
    """A connection that fails for a reason that no waiting mends."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(str(cause))
        self.cause = cause


_EXPIRED, _NOT_YET = 10, 9
_UNKNOWN_AUTHORITY: Final = (2, 18, 19, 20, 21)
_OTHER_HOST: Final = (62, 64)
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
_OF_CERTIFICATE: Final = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
_TLS_BEGIN: Final = range(0x15030000, 0x1504_0000)
"""The first four bytes of a TLS alert, read as the length of a Kafka answer."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def found(error: BaseException) -> Cause | None:
    """The cause that was told of a connection, if this error comes from one."""
    return next((one.cause for one in chain(error) if isinstance(one, Trouble)), None)


def cause_of(error: BaseException, security: Security) -> Cause | None:
    """What a failed connection tells; None where it may be a broker that is away."""
    causes = (_told_by(one, security) for one in chain(error))
    return next((cause for cause in causes if cause is not None), None)


def _told_by(error: BaseException, security: Security) -> Cause | None:
    match error:
        case Trouble():
            return error.cause
        case ssl.SSLCertVerificationError():
            return _of_their_certificate(error)
        case ssl.SSLError():
            return _of_tls(error, security)
        case errors.BrokerResponseError():
            return _of_sasl(error, security)
        case asyncio.IncompleteReadError(expected=int(expected)) if expected in _TLS_BEGIN:
            return wants_tls(security)
    return None


def wants_tls(security: Security) -> Cause:
    """A listener with TLS was spoken to without."""
    instead = Protocol.SSL if security.login is None else Protocol.SASL_SSL
    return Cause("they speak TLS, and this program is set up without", f"set security.protocol to {instead}")


def speaks_no_tls(security: Security) -> Cause:
    """A listener without TLS was spoken to by TLS."""
    instead = Protocol.PLAINTEXT if security.login is None else Protocol.SASL_PLAINTEXT
    return Cause(
        f"what listens there does not speak TLS, and security.protocol is {security.protocol}",
        f"name the port of their listener with TLS; for one without, security.protocol is {instead}",
    )


def wants_login(mechanisms: str, security: Security) -> Cause:
    """A listener that asks for a login was spoken to without one."""
    instead = Protocol.SASL_PLAINTEXT if security.tls is None else Protocol.SASL_SSL
    return Cause(
        f"they ask for a login by SASL ({mechanisms}), and this program is set up without",
        f"set security.protocol to {instead}, sasl.mechanism, and name and password",
    )


def no_such_mechanism(mechanisms: str, security: Security) -> Cause:
    """The listener has other mechanisms."""
    mine = security.login.mechanism if security.login is not None else "none"
    there = f"one that they have ({mechanisms})" if mechanisms else "one that their sasl.enabled.mechanisms names"
    return Cause(f"they have no login by {mine}", f"set sasl.mechanism to {there}")


def asks_for_no_login(security: Security) -> Cause:
    """The listener knows of no login."""
    instead = Protocol.PLAINTEXT if security.tls is None else Protocol.SSL
    return Cause(
        f"this listener has no login, and security.protocol is {security.protocol}",
        f"name the port of their listener with SASL; for this one, security.protocol is {instead}",
    )


def _of_their_certificate(error: ssl.SSLCertVerificationError) -> Cause:
    code = error.verify_code
    if code == _EXPIRED:
        return Cause("the broker's certificate has expired", "have it renewed; look at this machine's clock too")
    if code == _NOT_YET:
        return Cause("the broker's certificate does not hold yet", "look at this machine's clock")
    if code in _UNKNOWN_AUTHORITY:
        return Cause(
            "the broker's certificate is signed by an authority that this program does not know",
            "name the file with that authority's certificate in ssl.ca.location (KAFKA_SSL_CA_LOCATION)",
        )
    if code in _OTHER_HOST:
        return Cause(
            f"the broker's certificate is for another host ({error.verify_message.rstrip('.')})",
            "connect by a name that stands in it (bootstrap.servers, and the brokers' advertised.listeners), or have "
            "it issued for this one",
        )
    return Cause(f"the broker's certificate does not hold ({error.verify_message})", "have it renewed")


def _of_tls(error: ssl.SSLError, security: Security) -> Cause | None:
    reason = error.reason or ""
    if "ALERT" in reason and any(part in reason for part in _OF_CERTIFICATE):
        return of_own_certificate(security)
    if any(part in reason for part in _NO_TLS):
        return speaks_no_tls(security)
    if "ALERT" in reason or reason in ("NO_PROTOCOLS_AVAILABLE", "UNSUPPORTED_PROTOCOL"):
        return Cause(
            f"TLS finds no common ground ({reason.lower().replace('_', ' ')})", "let the brokers speak TLS 1.2 or 1.3"
        )
    return None


def of_own_certificate(security: Security, now: datetime | None = None) -> Cause:
    """The brokers have refused this client's certificate, or miss one."""
    if security.tls is None or not security.tls.shows_certificate:
        return Cause(
            "they ask for a certificate of this client, and none is set up",
            "name it in ssl.certificate.location, and its key in ssl.key.location",
        )
    until = security.tls.certificate_until()
    if until is not None and until < (now or datetime.now(UTC)):
        return Cause(
            f"this client's certificate ({security.tls.certificate}) has expired on {until:%Y-%m-%d %H:%M} UTC",
            "have it renewed, and replace the file",
        )
    return Cause(
        f"they do not accept this client's certificate ({security.tls.certificate or 'given as text'})",
        "have it signed by an authority that they trust (their ssl.truststore), for clients",
    )


def _of_sasl(error: errors.BrokerResponseError, security: Security) -> Cause | None:
    if isinstance(error, errors.IllegalSaslStateError):
        return asks_for_no_login(security)
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return no_such_mechanism("", security)
    return _of_login(security) if isinstance(error, errors.SaslAuthenticationFailed) else None


def _of_login(security: Security) -> Cause:
    match security.login:
        case PasswordLogin(mechanism=mechanism, username=name):
            return Cause(
                f"they do not know the user {name!r}, or the password is wrong ({mechanism})",
                "correct sasl.username and sasl.password; for SCRAM, each mechanism has users of its own",
            )
        case TokenLogin(endpoint=endpoint):
            return Cause(
                f"they do not accept the token that {endpoint} gives ({OAUTHBEARER})",
                "have their sasl.oauthbearer settings (issuer, audience, keys) and the scope agree with it",
            )
    return Cause("they refuse the login", "look at their log")
