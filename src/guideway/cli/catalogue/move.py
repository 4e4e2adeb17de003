"""`guideway catalogue move`: for a cluster that an earlier guideway has used."""

from __future__ import annotations

import typer

from guideway.cli.console.output import AsJson, err, out, print_json, run
from guideway.printable import printable
from guideway.settings import Settings
from guideway.usecases.move import move_catalogue


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    group = typer.Typer(help="The catalogue as a whole.", no_args_is_help=True)
    group.command("move")(move)
    group.callback()(lambda: None)
    app.add_typer(group, name="catalogue")


def move(as_json: AsJson = False) -> None:
    """Move what an earlier guideway kept in one topic, gw.catalogue.v1, to the catalogue of each namespace.

    An administrator runs it, once. Versions stay what they are, and artefacts go to their namespace's part of the
    store. Nothing is removed from the former topic: delete it with Kafka's tools when all is moved.
    """
    done = run(move_catalogue(Settings.from_environ()))
    if as_json:
        print_json(
            {
                "moved": [f"{one.identity}@{one.version}" for one in done.former.moves],
                "there": done.former.there,
                "refused": done.former.refused,
                "artefacts": done.artefacts,
                "artefacts_left": done.left,
            }
        )
        return
    out.print(f"{len(done.former.moves)} entries and {done.artefacts} artefacts moved")
    if done.former.there:
        out.print(f"{len(done.former.there)} have versions in their namespace's catalogue already, and are left alone")
    for key, why in done.former.refused:
        err.print(f"refused: {printable(key)}: {why}")
    for digest, why in done.left:
        err.print(f"artefact {digest[:19]}… stays: {why}")
