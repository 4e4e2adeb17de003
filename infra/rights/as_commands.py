"""A setup as command lines of Kafka's own tools. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from guideway.infra.rights.right import Resource, Right
from guideway.infra.rights.setup import Setup
from guideway.infra.topics import TopicDefinition

_HEAD: Final = """\
# Set BOOTSTRAP, and PROPERTIES to a file that logs in as an administrator. Each line may be run again.
ADMIN="--bootstrap-server $BOOTSTRAP --command-config $PROPERTIES"
"""
_OPTIONS: Final[dict[Resource, str]] = {
    "topic": "--topic",
    "group": "--group",
    "transactional id": "--transactional-id",
    "cluster": "--cluster",
}


def as_commands(setup: Setup, copies: int) -> str:
    """For a shell. copies: of each topic."""
    return "\n".join([_HEAD, *_topics(setup.topics, copies), *_acls(setup), *_quotas(setup), ""])


def acl_command(right: Right, operations: Sequence[str], admin: str = "$ADMIN") -> str:
    """One line that grants. operations: in the place of that of `right`."""
    words = ["--allow-principal", right.principal]
    for one in operations:
        words += ["--operation", _word(one)]
    words.append(_OPTIONS[right.resource])
    if right.resource != "cluster":
        words.append(right.name)
        if right.pattern == "prefix":
            words += ["--resource-pattern-type", "prefixed"]
    return f"kafka-acls.sh {admin} --add {shlex.join(words)}"


def _acls(setup: Setup) -> Iterator[str]:
    for right, operations in setup.operations().items():
        yield acl_command(right, operations)


def _topics(definitions: Sequence[TopicDefinition], copies: int) -> Iterator[str]:
    for one in definitions:
        configs = [f"--config {shlex.quote(f'{key}={value}')}" for key, value in sorted(one.configs_at(copies).items())]
        sizes = f"--partitions {one.partitions} --replication-factor {copies}"
        yield f"kafka-topics.sh $ADMIN --create --if-not-exists --topic {one.name} {sizes} {' '.join(configs)}"


def _quotas(setup: Setup) -> Iterator[str]:
    for user, values in setup.quotas_of_users().items():
        if values:
            config = ",".join(f"{key}={value:.15g}" for key, value in values.items())
            name = shlex.quote(user)
            yield f"kafka-configs.sh $ADMIN --alter --entity-type users --entity-name {name} --add-config '{config}'"


def _word(operation: str) -> str:
    """`describe configs` → `DescribeConfigs`"""
    return "".join(word.capitalize() for word in operation.split())
