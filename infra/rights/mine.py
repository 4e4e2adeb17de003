"""Which rights whoever has logged in lacks. The cluster is asked what we may do: only administrators see rights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient

from guideway.delivery.guards import allowed_requests
from guideway.delivery.guards.allowed_requests import Allowed
from guideway.infra.rights.held import OPERATIONS
from guideway.infra.rights.right import Right

_ANYTHING: Final = "guideway-doctor"
"""Behind a beginning, a name that stands for all that begin so."""


async def lacking(admin: AIOKafkaAdminClient, wanted: Sequence[Right], visible: Collection[str]) -> list[Right] | None:
    """Those of `wanted` that we do not have; None where the brokers cannot tell.

    visible: the topics that we see. A right on topics that begin in some way is judged by those of them that are there.
    Raises KafkaError.
    """
    topics = {name for one in wanted if one.resource == "topic" for name in _topics_of(one, visible)}
    try:
        allowed = await allowed_requests.allowed(admin, sorted(topics))
        groups = {
            name: await allowed_requests.allowed_of_group(admin, name)
            for name in sorted({_name(one) for one in wanted if one.resource == "group"})
        }
        transactions = {
            name: await allowed_requests.knows_transactional_id(admin, name)
            for name in sorted({_name(one) for one in wanted if one.resource == "transactional id"})
        }
    except (NotImplementedError, errors.IncompatibleBrokerVersion):
        return None
    return [one for one in wanted if not _have(one, allowed, groups, transactions, visible)]


async def rules_the_cluster(admin: AIOKafkaAdminClient) -> bool:
    """Whether we may give rights: we are an administrator, or everybody is. Raises KafkaError."""
    try:
        return OPERATIONS["alter"] in (await allowed_requests.allowed(admin, [])).cluster
    except (NotImplementedError, errors.IncompatibleBrokerVersion):
        return True


def _have(
    right: Right,
    allowed: Allowed,
    groups: Mapping[str, frozenset[int]],
    transactions: Mapping[str, bool],
    visible: Collection[str],
) -> bool:
    number = OPERATIONS[right.operation]
    match right.resource:
        case "cluster":
            return number in allowed.cluster
        case "group":
            return number in groups[_name(right)]
        case "transactional id":
            return transactions[_name(right)]
        case "topic":
            # Of a topic that is not there nothing is told; that it is not there is told elsewhere.
            found = [allowed.topics[one] for one in _topics_of(right, visible) if one in allowed.topics]
            return all(number in one for one in found)


def _topics_of(right: Right, visible: Collection[str]) -> Iterable[str]:
    return [right.name] if right.pattern == "literal" else [one for one in visible if one.startswith(right.name)]


def _name(right: Right) -> str:
    return right.name if right.pattern == "literal" else f"{right.name}{_ANYTHING}"
