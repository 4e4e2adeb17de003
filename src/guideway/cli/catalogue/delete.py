"""`guideway delete`."""

from __future__ import annotations

from typing import Annotated

import typer

from guideway.catalogue.entries import KINDS
from guideway.cli.console.output import AsJson, out, print_json, run
from guideway.settings import Settings
from guideway.usecases.delete import delete_entry
from guideway.usecases.lookup import identity_of

EvenIfUsed = Annotated[bool, typer.Option("--anyway", help="Even if endpoints need it; their events are then refused.")]


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("delete")(delete)


def delete(
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS))],
    name: Annotated[str, typer.Argument(help="NAMESPACE/NAME[@VERSION], a model size, or a namespace")],
    anyway: EvenIfUsed = False,
    as_json: AsJson = False,
) -> None:
    """Remove an entry, or one version of it. Topics and artefacts stay, and no version number is given again."""
    plain, at, version = name.partition("@")
    identity = identity_of(kind, plain)
    removed = run(delete_entry(Settings.from_environ(), identity, version if at else None, anyway=anyway))
    if as_json:
        print_json({"what": str(identity), "removed_versions": removed})
    else:
        out.print(f"deleted {identity}, version {', '.join(map(str, removed))}", markup=False)
