"""Rights and quotas that a cluster holds: asked for, given, taken away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient

from guideway.delivery.guards import admin_requests
from guideway.delivery.guards.admin_requests import Binding
from guideway.infra.rights.right import Operation, Pattern, Resource, Right
from guideway.schemas.failures import FailureCode, Refusal

_RESOURCES: Final[Mapping[Resource, int]] = {"topic": 2, "group": 3, "cluster": 4, "transactional id": 5}
_PATTERNS: Final[Mapping[Pattern, int]] = {"literal": 3, "prefix": 4}
OPERATIONS: Final[Mapping[Operation, int]] = {
    "all": 2,
    "read": 3,
    "write": 4,
    "create": 5,
    "delete": 6,
    "alter": 7,
    "describe": 8,
    "describe configs": 10,
    "alter configs": 11,
}
_DENIED, _ALLOWED = 2, 3
_FROM_ANYWHERE: Final = "*"
_RESOURCE_OF: Final = {number: resource for resource, number in _RESOURCES.items()}
_PATTERN_OF: Final = {number: pattern for pattern, number in _PATTERNS.items()}
_OPERATION_OF: Final = {number: operation for operation, number in OPERATIONS.items()}


def binding_of(right: Right) -> Binding:
    """A right in Kafka's numbers."""
    return Binding(
        _RESOURCES[right.resource],
        right.name,
        _PATTERNS[right.pattern],
        right.principal,
        _FROM_ANYWHERE,
        OPERATIONS[right.operation],
        _ALLOWED,
    )


def right_of(binding: Binding) -> Right | None:
    """The right; None for one that none of ours is like: a denial, one from certain hosts, a delegation token's."""
    if binding.permission != _ALLOWED or binding.host != _FROM_ANYWHERE:
        return None
    try:
        return Right(
            binding.principal,
            _RESOURCE_OF[binding.resource],
            _PATTERN_OF[binding.pattern],
            binding.name,
            _OPERATION_OF[binding.operation],
        )
    except KeyError:
        return None


async def held(admin: AIOKafkaAdminClient) -> list[Right] | None:
    """All rights on the cluster; None where it holds none, and everybody may do everything.

    Raises Refusal(not_allowed) where we may not ask.
    """
    with _told("see who has which rights", "describe"):
        try:
            found = await admin_requests.bindings(admin)
        except errors.SecurityDisabled:
            return None
        # A broker that has no such request holds no rights either.
        except (NotImplementedError, errors.IncompatibleBrokerVersion):
            return None
    return [right for one in found if (right := right_of(one)) is not None]


async def grant(admin: AIOKafkaAdminClient, rights: Iterable[Right]) -> None:
    """Give rights. Raises Refusal(not_allowed)."""
    with _told("give rights", "alter"):
        await admin_requests.create_bindings(admin, map(binding_of, rights))


async def revoke(admin: AIOKafkaAdminClient, rights: Iterable[Right]) -> None:
    """Take rights away. Raises Refusal(not_allowed)."""
    with _told("take rights away", "alter"):
        await admin_requests.delete_bindings(admin, map(binding_of, rights))


async def quotas(admin: AIOKafkaAdminClient) -> dict[str, dict[str, float]]:
    """User → quota → value. Raises Refusal(not_allowed)."""
    with _told("see quotas", "describe configs"):
        return await admin_requests.quotas(admin)


async def set_quotas(admin: AIOKafkaAdminClient, user: str, values: Mapping[str, float | None]) -> None:
    """Set a user's quotas; None takes one away. Raises Refusal(not_allowed)."""
    with _told("set quotas", "alter configs"):
        await admin_requests.alter_quotas(admin, user, values)


@contextlib.contextmanager
def _told(what: str, operation: Operation) -> Iterator[None]:
    try:
        yield
    except errors.ClusterAuthorizationFailedError:
        raise Refusal(
            FailureCode.NOT_ALLOWED,
            f"you may not {what}: log in as an administrator, who has {operation} on the cluster",
        ) from None
