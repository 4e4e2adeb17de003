"""`guideway asyncapi`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from guideway.cli.console.output import out, run
from guideway.producers.contract.asyncapi import document
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.nearest import did_you_mean
from guideway.settings import Settings
from guideway.usecases.lookup import catalogue_of


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("asyncapi")(asyncapi)


def asyncapi(namespace: Annotated[str, typer.Argument(help="Whose endpoints.")]) -> None:
    """Print an AsyncAPI 3.0 document of a namespace's endpoints: topics, fields, headers, and what is replied where.

    guideway asyncapi shop > shop.asyncapi.json
    """
    settings = Settings.from_environ()
    found = [one for _, one in run(catalogue_of(settings)) if isinstance(one, Endpoint)]
    endpoints = [one for one in found if one.namespace == namespace]
    if not endpoints:
        near = did_you_mean(namespace, {one.namespace for one in found})
        raise Refusal(
            FailureCode.UNKNOWN_ENDPOINT,
            f"namespace {namespace[:80]!r} has no endpoint: {near}`guideway get endpoints` lists what there is",
        )
    cluster = settings.answering_cluster()
    made = document(namespace, endpoints, brokers=cluster.brokers, secure=cluster.security.tls is not None)
    out.print(msgspec.json.format(msgspec.json.encode(made), indent=2).decode())
