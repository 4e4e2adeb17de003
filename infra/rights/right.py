"""One right on a cluster, and which rights others include. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from guideway.schemas.failures import FailureCode, Refusal

Resource = Literal["topic", "group", "cluster", "transactional id"]
Pattern = Literal["literal", "prefix"]
Operation = Literal[
    "all", "read", "write", "create", "delete", "alter", "describe", "describe configs", "alter configs"
]
CLUSTER: Final = "kafka-cluster"
"""The name of the one resource of kind `cluster`."""
_EVERY: Final = "*"
"""As the name of a literal right: all resources of its kind."""
_DESCRIBED_BY: Final = frozenset[Operation]({"read", "write", "delete", "alter"})
"""Kafka lets who may do one of these describe as well."""
_PRINCIPAL: Final = re.compile(r"User:[^\s\x00-\x1f\x7f*][^\x00-\x1f\x7f]{0,254}")


class Right(msgspec.Struct, frozen=True, order=True):
    """That a principal may do an operation on a resource, from any host."""

    principal: str
    """`User:NAME`"""
    resource: Resource
    pattern: Pattern
    name: str
    operation: Operation

    def __str__(self) -> str:
        beginning = " that begins with" if self.pattern == "prefix" else ""
        return f"{self.principal}: {self.operation} on {self.resource}{beginning} {self.name}"


def require_principal(text: str) -> str:
    """Raises Refusal(invalid_setting) for what is no principal that rights can be given to."""
    if _PRINCIPAL.fullmatch(text) is None or text.strip() != text:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{text[:80]!r} is no principal: write User:NAME, as the cluster calls whoever logs in, or "
            "User:CN=NAME,… for a certificate; `User:*`, which is everybody, is refused",
        )
    return text


def user_of(principal: str) -> str:
    """The name that quotas are set for."""
    return principal.removeprefix("User:")


class Held:
    """Rights that somebody holds, in an order in which it is quickly found whether they include another."""

    def __init__(self, rights: Iterable[Right]) -> None:
        self.exactly = frozenset(rights)
        self._wide = [
            one for one in self.exactly if one.pattern == "prefix" or one.operation == "all" or one.name == _EVERY
        ]

    def missing(self, wanted: Iterable[Right]) -> list[Right]:
        """Those of `wanted` that no right held includes, each once and in order."""
        return [one for one in dict.fromkeys(wanted) if not self._include(one)]

    def _include(self, right: Right) -> bool:
        return (
            right in self.exactly
            or (right.operation == "describe" and any(_with(right, by) in self.exactly for by in _DESCRIBED_BY))
            or any(_includes(other, right) for other in self._wide)
        )


def missing(wanted: Iterable[Right], held: Iterable[Right]) -> list[Right]:
    """As `Held.missing`."""
    return Held(held).missing(wanted)


def _with(right: Right, operation: Operation) -> Right:
    return msgspec.structs.replace(right, operation=operation)


def _includes(held: Right, wanted: Right) -> bool:
    return (
        held.principal == wanted.principal
        and held.resource == wanted.resource
        and _names(held, wanted)
        and (
            held.operation in ("all", wanted.operation)
            or (wanted.operation == "describe" and held.operation in _DESCRIBED_BY)
        )
    )


def _names(held: Right, wanted: Right) -> bool:
    match held.pattern:
        case "literal" if held.name == _EVERY:
            return True
        case "literal":
            return wanted.pattern == "literal" and held.name == wanted.name
        case "prefix":
            return wanted.name.startswith(held.name)
