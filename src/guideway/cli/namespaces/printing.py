"""`--print`: a setup for other tools."""

from __future__ import annotations

from typing import Annotated, Literal, assert_never

import typer

from guideway.cli.console.output import err, out
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.rights.as_commands import as_commands
from guideway.infra.rights.as_strimzi import as_strimzi
from guideway.infra.rights.as_terraform import as_terraform
from guideway.infra.rights.setup import Setup
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings

Format = Literal["kafka-acls", "strimzi", "terraform"]
Print = Annotated[
    Format | None,
    typer.Option(
        "--print",
        help="Do nothing, and print what would do it: command lines of Kafka's tools, resources of the Strimzi "
        "operator, or of the Terraform provider Mongey/kafka.",
    ),
]
StrimziCluster = Annotated[str, typer.Option("--strimzi-cluster", help="With --print strimzi: the Kafka resource.")]
COPIES = 3
"""Of each topic, in what is printed, where --replication says nothing."""


def written(setup: Setup, how: Format, *, copies: int, cluster: str) -> str:
    """The setup as text. cluster: for Strimzi."""
    match how:
        case "kafka-acls":
            return as_commands(setup, copies)
        case "strimzi":
            return as_strimzi(setup, copies, cluster)
        case "terraform":
            return as_terraform(setup, copies)
    assert_never(how)


def show(text: str) -> None:
    """For a file or a pipe."""
    out.print(text.removesuffix("\n"))


def cluster_to_ask(settings: Settings) -> Cluster | None:
    """The cluster; None, with a line that says so, where none is named."""
    try:
        return settings.answering_cluster() if settings.named is not None else settings.cluster()
    except Refusal as refusal:
        if settings.named is not None or refusal.code is not FailureCode.BROKER_UNREACHABLE:
            raise
    err.print("no cluster is named, so nobody was asked which endpoints and principals there are already")
    return None
