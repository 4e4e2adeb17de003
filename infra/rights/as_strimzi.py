"""A setup as resources of the Strimzi operator, `kafka.strimzi.io/v1`. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from guideway.infra.rights.right import Resource, Right, user_of
from guideway.infra.rights.setup import Setup
from guideway.infra.topics import TopicDefinition
from guideway.schemas.failures import FailureCode, Refusal

_API: Final = "kafka.strimzi.io/v1"
_KINDS: Final[Mapping[Resource, str]] = {
    "topic": "topic",
    "group": "group",
    "transactional id": "transactionalId",
    "cluster": "cluster",
}
_QUOTAS: Final = {
    "producer_byte_rate": ("producerByteRate", int),
    "consumer_byte_rate": ("consumerByteRate", int),
    "request_percentage": ("requestPercentage", int),
    "controller_mutation_rate": ("controllerMutationRate", float),
}
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


def as_strimzi(setup: Setup, copies: int, cluster: str = "my-cluster") -> str:
    """YAML, one document for each resource. cluster: the name of the resource Kafka. copies: of each topic.

    A user has one list of rights: what you have given it beside these stands in the same resource.
    Raises Refusal(invalid_setting) for a principal that Strimzi cannot have as a user.
    """
    found = [_topic(one, copies, cluster) for one in setup.topics]
    by_principal = setup.rights_by_principal()
    limits = setup.quotas_of_users()
    for principal in dict.fromkeys([*by_principal, *setup.quotas]):
        user = user_of(principal)
        rights = Setup((), tuple(by_principal.get(principal, ())), {})
        found.append(_user(user, [*_acls(rights)], limits.get(user, {}), cluster))
    return "".join(f"---\n{_yaml(one)}\n" for one in found)


def _topic(one: TopicDefinition, copies: int, cluster: str) -> dict[str, Any]:
    return {
        "apiVersion": _API,
        "kind": "KafkaTopic",
        "metadata": _metadata(one.name, cluster),
        "spec": {
            "topicName": one.name,
            "partitions": one.partitions,
            "replicas": copies,
            "config": dict(sorted(one.configs_at(copies).items())),
        },
    }


def _user(name: str, acls: list[Any], limits: Mapping[str, float], cluster: str) -> dict[str, Any]:
    if _NAME.fullmatch(name) is None:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"Strimzi makes a user of the name of a resource, which {name[:80]!r} cannot be: use lower-case letters, "
            "digits, hyphens and dots",
        )
    spec: dict[str, Any] = {
        "authentication": {"type": "scram-sha-512"},
        "authorization": {"type": "simple", "acls": acls},
    }
    if limits:
        spec["quotas"] = {_QUOTAS[key][0]: _QUOTAS[key][1](value) for key, value in limits.items()}
    return {"apiVersion": _API, "kind": "KafkaUser", "metadata": _metadata(name, cluster), "spec": spec}


def _metadata(name: str, cluster: str) -> dict[str, Any]:
    return {"name": name, "labels": {"strimzi.io/cluster": cluster}}


def _acls(setup: Setup) -> Iterator[dict[str, Any]]:
    for right, operations in setup.operations().items():
        yield {
            "resource": _resource(right),
            "operations": ["".join(word.capitalize() for word in one.split()) for one in operations],
        }


def _resource(right: Right) -> dict[str, str]:
    if right.resource == "cluster":
        return {"type": "cluster"}
    return {"type": _KINDS[right.resource], "name": right.name, "patternType": right.pattern}


def _yaml(values: Mapping[str, Any], indent: str = "") -> str:
    """What holds lists or mappings in lines of its own, and those on one line each."""
    lines = []
    for key, one in values.items():
        match one:
            case dict() if any(isinstance(inner, dict | list) for inner in one.values()):
                lines.append(f"{indent}{key}:\n{_yaml(one, f'{indent}  ')}")
            case list() if one:
                lines.append("\n".join([f"{indent}{key}:", *(f"{indent}  - {_flow(inner)}" for inner in one)]))
            case _:
                lines.append(f"{indent}{key}: {_flow(one)}")
    return "\n".join(lines)


def _flow(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{_scalar(key)}: {_flow(one)}" for key, one in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9./_-]*")


def _scalar(value: Any) -> str:
    if (
        isinstance(value, str)
        and _PLAIN.fullmatch(value)
        and value.lower() not in {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}
    ):
        return value
    return json.dumps(value)
