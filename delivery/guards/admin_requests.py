"""What aiokafka 0.14.0 lacks for administration: rights by the hundred, and quotas.

aiokafka has requests for one right at a time and none for quotas. What is private in it and used all the same is its
way to send a request to the controller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import (
    CreateAclsRequest_v1,
    DeleteAclsRequest_v1,
    DescribeAclsRequest,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Float64, Int8, Int16, Int32, Schema, String

_ANY: Final = 1
_TEXT: Final = String("utf-8")
_ENTITY: Final = ("entity", Array(("entity_type", _TEXT), ("entity_name", _TEXT)))


class Binding(NamedTuple):
    """A right in Kafka's numbers, in the order of the protocol."""

    resource: int
    name: str
    pattern: int
    principal: str
    host: str
    operation: int
    permission: int


class _Creating(Request[CreateAclsRequest_v1]):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = CreateAclsRequest_v1.API_KEY

    def __init__(self, bindings: Sequence[Binding]) -> None:
        self._bindings = bindings

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(list(self._bindings))


class _Deleting(Request[DeleteAclsRequest_v1]):  # type: ignore[misc]
    API_KEY = DeleteAclsRequest_v1.API_KEY

    def __init__(self, bindings: Sequence[Binding]) -> None:
        self._bindings = bindings

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(list(self._bindings))


class _AlterQuotasResponse(Response):  # type: ignore[misc]
    API_KEY = 49
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("entries", Array(("error_code", Int16), ("error_message", _TEXT), _ENTITY)),
    )


class _AlterQuotasStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 49
    API_VERSION = 0
    RESPONSE_TYPE = _AlterQuotasResponse
    SCHEMA = Schema(
        ("entries", Array(_ENTITY, ("ops", Array(("key", _TEXT), ("value", Float64), ("remove", Boolean))))),
        ("validate_only", Boolean),
    )


class _AlteringQuotas(Request[_AlterQuotasStruct]):  # type: ignore[misc]
    API_KEY = 49

    def __init__(self, user: str, ops: Sequence[tuple[str, float, bool]]) -> None:
        self._user, self._ops = user, ops

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class([([("user", self._user)], list(self._ops))], False)


class _DescribeQuotasResponse(Response):  # type: ignore[misc]
    API_KEY = 48
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("error_message", _TEXT),
        ("entries", Array(_ENTITY, ("values", Array(("key", _TEXT), ("value", Float64))))),
    )


class _DescribeQuotasStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 48
    API_VERSION = 0
    RESPONSE_TYPE = _DescribeQuotasResponse
    SCHEMA = Schema(
        ("components", Array(("entity_type", _TEXT), ("match_type", Int8), ("match", _TEXT))), ("strict", Boolean)
    )


class _DescribingQuotas(Request[_DescribeQuotasStruct]):  # type: ignore[misc]
    API_KEY = 48
    _ANY_NAME: Final = 2

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class([("user", self._ANY_NAME, None)], True)


async def bindings(admin: AIOKafkaAdminClient) -> list[Binding]:
    """All rights that the cluster holds. Raises KafkaError; SecurityDisabled where it holds none at all."""
    asked = DescribeAclsRequest(_ANY, None, _ANY, None, None, _ANY, _ANY)
    response = await admin._send_to_controller(asked)
    _require(response.error_code)
    return [
        Binding(resource, name, pattern, *entry)
        for resource, name, pattern, entries in response.resources
        for entry in entries
    ]


async def create_bindings(admin: AIOKafkaAdminClient, wanted: Iterable[Binding]) -> None:
    """Grant rights; those that are there stay. Raises KafkaError."""
    for some in _portions(wanted):
        response = await admin._send_to_controller(_Creating(some))
        for code, _ in response.creation_responses:
            _require(code)


async def delete_bindings(admin: AIOKafkaAdminClient, unwanted: Iterable[Binding]) -> None:
    """Take rights away; those that are gone already are no error. Raises KafkaError."""
    for some in _portions(unwanted):
        response = await admin._send_to_controller(_Deleting(some))
        for code, _, _ in response.filter_responses:
            _require(code)


async def quotas(admin: AIOKafkaAdminClient) -> dict[str, dict[str, float]]:
    """User → key → value, of all users that have quotas of their own. Raises KafkaError."""
    response = await admin._send_to_controller(_DescribingQuotas())
    _require(response.error_code)
    return {entity[0][1]: dict(values) for entity, values in response.entries or () if entity[0][1] is not None}


async def alter_quotas(admin: AIOKafkaAdminClient, user: str, values: Mapping[str, float | None]) -> None:
    """Set quotas of a user; None takes one away. Raises KafkaError."""
    ops = [(key, 0.0 if value is None else float(value), value is None) for key, value in values.items()]
    response = await admin._send_to_controller(_AlteringQuotas(user, ops))
    for code, *_ in response.entries:
        _require(code)


def _portions(wanted: Iterable[Binding], size: int = 500) -> Iterable[list[Binding]]:
    rest = list(wanted)
    for start in range(0, len(rest), size):
        yield rest[start : start + size]


def _require(code: int) -> None:
    if code:
        raise errors.for_code(code)()
