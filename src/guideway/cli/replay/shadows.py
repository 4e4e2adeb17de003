"""`guideway shadows`, and `guideway shadows list | show`: what endpoints try on a share of their live traffic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from guideway.cli.console import interrupts
from guideway.cli.console.output import AsJson, out, print_json, print_table, run
from guideway.cli.console.services import Restart, begin_service, run_service, until_signalled
from guideway.settings import Settings
from guideway.usecases.shadows.service import IN_FLIGHT, ShadowService
from guideway.usecases.shadows.view import View, shadow_of, shadows_of


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(invoke_without_command=True)
    group.callback()(shadows)
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="shadows", short_help="Carry out what endpoints declare as their `shadow`.")


def shadows(
    context: typer.Context,
    namespace: Annotated[
        list[str] | None, typer.Option("--namespace", help="Carry out the shadows of this namespace only. Several.")
    ] = None,
    in_flight: Annotated[
        int, typer.Option(min=1, max=1000, help="Events that are asked again at a time, of each shadow.")
    ] = IN_FLIGHT,
    restart: Restart = True,
) -> None:
    """Carry out what endpoints declare as their `shadow`, for as long as it runs. Any number may run.

    It reads live events, applies two trials and may promote: it needs what `guideway apply` needs in the namespace, so
    a team runs it as itself. `guideway shadows list` and `show` tell how far the shadows are.
    """
    if context.invoked_subcommand is not None:
        return
    settings = begin_service(restart=restart)
    interrupts.keeps("shadows stay in their topics, for the next one that carries them out")

    async def work() -> None:
        made = ShadowService(settings, namespace or (), in_flight=in_flight)
        await until_signalled(made.run, made.stop)

    run_service(settings, work())


def list_(
    namespace: Annotated[str | None, typer.Argument(help="Whose; default: of all that you may read.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the shadows that endpoints declare, and how far each is."""
    found = run(shadows_of(Settings.from_environ(), namespace))
    if as_json:
        for one in found:
            print_json(one)
    elif not found:
        out.print("no endpoint declares a `shadow`")
    else:
        print_table(("endpoint", "new", "how far"), [(one.address, _new(one), one.told) for one in found])


def show(
    address: Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")],
    as_json: AsJson = False,
) -> None:
    """Show one shadow: what is compared, how far the two agree, what is missing, why it was not promoted."""
    found = run(shadow_of(Settings.from_environ(), address))
    if as_json:
        print_json(found)
        return
    out.print(f"{found.address}: {found.told}")
    if found.changes:
        out.print(f"new: {_new(found)}; promote: {found.promote}")
    if found.figures is not None:
        print_table(("figure", "now", "new", "difference"), _figures(found))


def _new(view: View) -> str:
    return ", ".join(f"{name} {value}" for name, value in view.changes.items())


def _figures(view: View) -> list[Sequence[object]]:
    assert view.figures is not None
    made = view.figures
    metric = f" ({made.metric})" if made.metric else ""
    return [
        (f"agreement{metric}", "", _told(made.agreement), ""),
        ("answered", _told(made.answered_now), _told(made.answered_new), _told(made.answered_over, sign="+")),
        ("rows that differ", "", f"{made.changed} of {made.rows}", ""),
    ]


def _told(figure: Sequence[float], sign: str = "") -> str:
    if not figure:
        return "not known"
    value, low, high = (f"{one:{sign}.3f}" for one in figure)
    return f"{value} [{low}, {high}]"
