"""What errors of TLS, SASL and rights are told as; what brokers really send is in tests/secured/test_connection.py."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from aiokafka import errors

from guideway.delivery.connection.rights import missing_right
from guideway.delivery.connection.secret import Secret
from guideway.delivery.connection.security import PasswordLogin, Security, TokenLogin
from guideway.delivery.connection.tls import Tls
from guideway.delivery.connection.trouble import Cause, Trouble, cause_of, found
from guideway.schemas.failures import FailureCode

LOGIN = PasswordLogin(mechanism="PLAIN", username="shop", password=Secret("hush"))
BOTH = Security(tls=Tls(), login=LOGIN)
TOKEN = TokenLogin(endpoint="https://idp/t", client_id="shop", secret=Secret("hush"))


def of_tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "security", "says"),
    [
        (errors.SaslAuthenticationFailed("x"), BOTH, "do not know the user 'shop', or the password is wrong"),
        (errors.SaslAuthenticationFailed("x"), Security(login=TOKEN), "the token that https://idp/t gives"),
        (errors.UnsupportedSaslMechanismError(), BOTH, "no login by PLAIN; set sasl.mechanism to one that their"),
        (errors.IllegalSaslStateError(), BOTH, "this listener has no login"),
        (of_tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), BOTH, "they ask for a certificate of this client"),
        (of_tls("WRONG_VERSION_NUMBER"), BOTH, "does not speak TLS, and security.protocol is SASL_SSL"),
        (of_tls("TLSV1_ALERT_PROTOCOL_VERSION"), BOTH, "no common ground"),
        (asyncio.IncompleteReadError(b"", 0x15030300), Security(), "set security.protocol to SSL"),
        (Trouble(Cause("so")), BOTH, "so"),
    ],
)
def test_causes(error: Exception, security: Security, says: str) -> None:
    around = errors.KafkaConnectionError("closed")
    around.__cause__ = error
    told = cause_of(around, security)
    assert told is not None
    assert says in str(told)
    assert "hush" not in str(told)


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(), TimeoutError(), of_tls("UNEXPECTED_EOF_WHILE_READING"), errors.KafkaError()]
)
def test_a_broker_that_may_just_be_away_is_no_cause(error: Exception) -> None:
    assert cause_of(error, BOTH) is None
    assert found(error) is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.TopicAuthorizationFailedError("gw.a.in.v1"), "of topic gw.a.in.v1: grant it Read or Write"),
        (errors.TopicAuthorizationFailedError({"b", "a"}), "of topic a, b: "),
        (errors.TopicAuthorizationFailedError(), "of a topic: "),
        (errors.GroupAuthorizationFailedError("shop.x"), "of group shop.x: grant it Read"),
        (errors.TransactionalIdAuthorizationFailed(), "of a transactional id: grant it Write and Describe"),
        (errors.ClusterAuthorizationFailedError(), "of the cluster: grant it IdempotentWrite"),
    ],
)
def test_missing_rights(error: Exception, says: str) -> None:
    told = missing_right(error)
    assert told is not None
    assert told.code is FailureCode.NOT_ALLOWED
    assert says in told.message


def test_other_errors_lack_no_right() -> None:
    assert missing_right(errors.KafkaConnectionError()) is None
