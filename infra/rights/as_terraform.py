"""A setup as resources of the Terraform provider Mongey/kafka: `kafka_topic`, `kafka_acl`, `kafka_quota`. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from guideway.infra.rights.right import Resource, Right
from guideway.infra.rights.setup import Setup

_HEAD: Final = 'terraform {\n  required_providers {\n    kafka = { source = "Mongey/kafka" }\n  }\n}\n'
_RESOURCES: Final[Mapping[Resource, str]] = {
    "topic": "Topic",
    "group": "Group",
    "cluster": "Cluster",
    "transactional id": "TransactionalID",
}


def as_terraform(setup: Setup, copies: int) -> str:
    """HCL; put the provider's brokers and login beside it. copies: of each topic."""
    return "\n".join([_HEAD, *_topics(setup, copies), *_acls(setup), *_quotas(setup)])


def _topics(setup: Setup, copies: int) -> Iterator[str]:
    for one in setup.topics:
        fields = {"name": one.name, "partitions": one.partitions, "replication_factor": copies}
        yield _block("kafka_topic", _label(one.name), fields, one.configs_at(copies))


def _acls(setup: Setup) -> Iterator[str]:
    for right in setup.rights:
        fields = {
            "resource_name": right.name,
            "resource_type": _RESOURCES[right.resource],
            "resource_pattern_type_filter": "Prefixed" if right.pattern == "prefix" else "Literal",
            "acl_principal": right.principal,
            "acl_host": "*",
            "acl_operation": "".join(word.capitalize() for word in right.operation.split()),
            "acl_permission_type": "Allow",
        }
        yield _block("kafka_acl", _label_of(right), fields)


def _label_of(right: Right) -> str:
    parts = (right.principal, right.operation, right.resource, right.pattern, right.name)
    return "__".join(map(_label, parts))


def _quotas(setup: Setup) -> Iterator[str]:
    for user, values in setup.quotas_of_users().items():
        if values:
            fields = {"entity_name": user, "entity_type": "user"}
            yield _block("kafka_quota", _label(user), fields, {key: f"{value:.15g}" for key, value in values.items()})


def _block(kind: str, label: str, fields: Mapping[str, object], config: Mapping[str, str] | None = None) -> str:
    wide = max(map(len, fields))
    lines = [f"  {key.ljust(wide)} = {_text(value)}" for key, value in fields.items()]
    if config:
        pairs = [(_text(key), _text(value)) for key, value in sorted(config.items())]
        deep = max(len(key) for key, _ in pairs)
        inner = [f"    {key.ljust(deep)} = {value}" for key, value in pairs]
        lines += ["  config = {", *inner, "  }"]
    return "\n".join([f'resource "{kind}" "{label}" {{', *lines, "}", ""])


def _label(text: str) -> str:
    """Part of a resource's name: letters, digits, `_` and `-`, no digit first; all but dots are written as numbers."""
    plain = re.sub(r"[^A-Za-z0-9-]", lambda found: "_" if found[0] == "." else f"_{ord(found[0]):x}_", text)
    return plain if re.match("[A-Za-z_]", plain) else f"_{plain}"


def _text(value: object) -> str:
    """A literal. In HCL `${` and `%{` begin what is computed."""
    return json.dumps(value, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")
