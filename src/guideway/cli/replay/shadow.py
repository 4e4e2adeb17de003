"""`guideway shadow`: a share of live traffic under an endpoint as it is and as it might be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from guideway.cli.console import interrupts
from guideway.cli.console.output import AsJson, err, out, run
from guideway.cli.replay.commands import print_compared, progress
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.usecases.replay import shadow as shadows
from guideway.usecases.replay import shadow_order
from guideway.usecases.replay.trial import split_changes


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("shadow")(shadow)


def shadow(
    address: Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")],
    candidate: Annotated[
        bool, typer.Option("--candidate", help="What is new is its candidate: `guideway studio publish --candidate`.")
    ] = False,
    changes: Annotated[
        list[str] | None, typer.Option("--with", metavar="NAME=VALUE", help="What is new, as of `guideway replay`.")
    ] = None,
    share: Annotated[float, typer.Option(help="Of the events, chosen by their ids: 0.05 is one in twenty.")] = 0.05,
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="It ends with so many.")] = 2000,
    promote: Annotated[
        Literal["never", "if_better"],
        typer.Option(help="if_better: put the candidate in its place, as `guideway studio promote` would."),
    ] = "never",
    place: Annotated[
        Path | None, typer.Option("-o", "--out", help="Its folder; default: one in GUIDEWAY_HOME.")
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=1000, help="Requests that wait at a time.")] = shadows.IN_FLIGHT,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Take the place of another replay or shadow of this endpoint.")
    ] = False,
    despite_limits: Annotated[
        bool, typer.Option("--despite-limits", help="Also in a namespace with limits: it uses a part of them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a share of an endpoint's live traffic again, as it is and as it might be: nobody else sees any of it.

    guideway shadow /shop/mood --candidate --share 0.05 --rows 2000 --promote if_better

    guideway shadow /shop/mood --with guidance=shop/mood-soft-prompt@3

    It runs until it has so many rows; then it compares, and promotes the candidate or says why not. Interrupted, the
    same command goes on, and has missed nothing. It needs the right to apply in the namespace.
    """
    settings = Settings.from_environ()
    wanted = split_changes(changes or [])
    if bool(wanted) == candidate:
        raise Refusal(
            FailureCode.INVALID_SETTING, "name what is new: --candidate, or --with NAME=VALUE, and not both of them"
        )
    order = shadow_order.ShadowOrder(address=address, changes=wanted, share=share, rows=rows, promote=promote)
    folder, plan = run(shadow_order.begin(settings, order, place, despite_limits=despite_limits))
    interrupts.keeps(f"what is answered is kept in {folder.path}; the same command goes on, and has missed nothing")
    if not as_json:
        err.print(f"{share:.2%} of the events, until there are {plan.rows} rows, each asked twice; in {folder.path}")
    with progress(as_json=as_json) as watch:
        page = run(shadows.carry_out(settings, folder, plan, watch, in_flight=in_flight, anyway=anyway))
    compared = folder.comparison()
    print_compared(compared, page, as_json=as_json)
    if not as_json and (told := _told(compared["outcome"])):
        out.print(told)


def _told(outcome: object) -> str:
    from guideway.training.replays.shadow import Outcome

    return msgspec.convert(outcome, Outcome).told
