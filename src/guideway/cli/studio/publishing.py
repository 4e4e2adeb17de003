"""`guideway studio publish`, and the options that it shares with others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guideway.cli.catalogue.apply import tell
from guideway.cli.console.output import AsJson, err, run
from guideway.settings import Settings
from guideway.usecases.studio.publish import folder_of, publish_run

RunPlace = Annotated[Path, typer.Argument(help="A task's file, or the folder of its run.")]
Anyway = Annotated[bool, typer.Option("--anyway", help="Even if it is not better by more than chance.")]
OutFolder = Annotated[Path | None, typer.Option("--out", help="The run's folder; default: runs/ID in GUIDEWAY_HOME.")]


def add_to(group: typer.Typer) -> None:
    """Add this command."""
    group.command("publish")(publish_)


def publish_(
    place: RunPlace,
    method: Annotated[str | None, typer.Option(help="Which one; default: the task's, else by validation loss.")] = None,
    size: Annotated[str | None, typer.Option(help="For which model size; default: the task's first.")] = None,
    as_endpoint: Annotated[
        str | None, typer.Option("--as", help="Name of another endpoint for it; default: the task's endpoint.")
    ] = None,
    candidate: Annotated[
        bool, typer.Option("--candidate", help="As NAME-candidate beside the endpoint, for `promote` to move over.")
    ] = False,
    anyway: Anyway = False,
    out_folder: OutFolder = None,
    as_json: AsJson = False,
) -> None:
    """Put what was trained into the store and the catalogue; workers serve it without restart."""
    settings = Settings.from_environ()
    folder = folder_of(place, settings, out_folder)
    changes = run(
        publish_run(
            settings,
            folder,
            size=size,
            method=method,
            name=as_endpoint,
            candidate=candidate,
            anyway=anyway,
            told=err.print,
        )
    )
    tell(changes, as_json=as_json)
