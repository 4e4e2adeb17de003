"""What is said where the brokers let us in, and do not allow what is asked. Pure."""

from __future__ import annotations

import re
import traceback
from typing import Final

from aiokafka import errors

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.connection.trouble import chain, found
from guideway.schemas.failures import FailureCode, Refusal

_BY = {"producer": "Write", "consumer": "Read"}
"""The parts of aiokafka, and what they do with a topic."""
_OPERATIONS: Final = {
    errors.TopicAuthorizationFailedError: ("topic", "Read or Write"),
    errors.GroupAuthorizationFailedError: ("group", "Read"),
    errors.TransactionalIdAuthorizationFailed: ("transactional id", "Write and Describe"),
    errors.ClusterAuthorizationFailedError: (
        "cluster",
        "IdempotentWrite (Write on any topic does as well), or Create for topics",
    ),
}


def refusal_for(cluster: Cluster, error: BaseException) -> Refusal | None:
    """What the error tells of login or rights; None where it tells of neither."""
    cause = found(error)
    return cause.refusal(cluster) if cause is not None else missing_right(error)


def missing_right(error: BaseException) -> Refusal | None:
    """The Refusal(not_allowed) that names the right, if the brokers refuse for the lack of one."""
    for one in chain(error):
        for kind, (resource, operation) in _OPERATIONS.items():
            if isinstance(one, kind):
                named = _named(one)
                what = f"{resource} {named}" if named else "the cluster" if resource == "cluster" else f"a {resource}"
                return Refusal(
                    FailureCode.NOT_ALLOWED,
                    f"the cluster does not allow this user what it asks of {what}: grant it {_exact(one, operation)} "
                    "(`guideway doctor` says who it is and which rights are missing)",
                )
    return None


def _exact(error: BaseException, operation: str) -> str:
    """The operation, as far as it is known from where in aiokafka the error was met."""
    if not isinstance(error, errors.TopicAuthorizationFailedError):
        return operation
    places = " ".join(frame.filename for frame in traceback.extract_tb(error.__traceback__))
    met = [done for part, done in _BY.items() if f"aiokafka/{part}/" in places]
    return met[0] if len(met) == 1 else operation


def _named(error: errors.KafkaError) -> str:
    """The names that aiokafka gives in the error: a topic, a set of them, or none."""
    given = error.args[0] if error.args else ""
    names = sorted(map(str, given)) if isinstance(given, set | frozenset | list | tuple) else [str(given)]
    return ", ".join(name[:249] for name in names if re.fullmatch(r"[A-Za-z0-9._/-]+", name))
