"""`guideway archive list | sample | export | erase`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from guideway.catalogue.archive.examples import examples as as_examples
from guideway.catalogue.archive.rows import Row
from guideway.cli.console.output import AsJson, err, out, print_json, print_table
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.usecases.targets import archives
from guideway.usecases.targets.archives import Day, Held

_HEADS: Final = ("endpoint", "days", "first", "last", "objects", "bytes", "kept for days")
_DAY_HEADS: Final = ("day", "results", "without text", "objects", "bytes")

Endpoint = Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Archived results, for later training.", no_args_is_help=True)
    group.command("list")(list_)
    group.command("sample")(sample)
    group.command("export")(export)
    group.command("erase")(erase)
    app.add_typer(group, name="archive")


Since = Annotated[str, typer.Option(help="Only from this day on: YYYY-MM-DD (UTC).")]


def list_(
    what: Annotated[
        str | None, typer.Argument(metavar="[NAMESPACE|/NAMESPACE/ENDPOINT]", help="Of this namespace; or one, by day.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the archives: since when, how large, for how long they are kept. One endpoint's: its days, with counts."""
    settings = Settings.from_environ()
    found: Sequence[Held | Day] = (
        archives.days(settings, what) if what and "/" in what else archives.held(settings, what)
    )
    if as_json:
        for one in found:
            print_json(one)
    elif not found:
        out.print(f"there are no archives of {what} in this store" if what else "there are no archives in this store")
    else:
        heads = _DAY_HEADS if isinstance(found[0], Day) else _HEADS
        print_table(heads, [msgspec.structs.astuple(one) for one in found])


def sample(
    endpoint: Endpoint,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=10_000)] = 5,
    since: Since = "",
    seed: Annotated[int | None, typer.Option(help="The same number draws the same results.")] = None,
) -> None:
    """Print some results, drawn by chance, as JSON lines. They hold callers' texts: private."""
    for row in archives.sample(Settings.from_environ(), endpoint, limit, since=a_day(since), seed=seed):
        print_json(_told(row))


def export(
    endpoint: Endpoint,
    since: Since = "",
    examples: Annotated[
        bool, typer.Option("--examples", help="Text and label only, as `data.train` of the studio reads them.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("-o", "--out", help="A new file, .jsonl or .parquet; else lines are printed.")
    ] = None,
) -> None:
    """Print all results as JSON lines, each once, in order of their days. They hold callers' texts: private.

    guideway archive export /shop/mood --examples > rows.jsonl

    guideway archive export /shop/mood -o mood.parquet
    """
    settings = Settings.from_environ()
    if file is not None:
        if examples:
            raise Refusal(FailureCode.INVALID_SETTING, "--out writes whole rows: print --examples, and redirect them")
        count = archives.export(settings, endpoint, file, a_day(since))
        err.print(f"{count} results in {file}")
        return
    found = archives.rows(settings, endpoint, a_day(since))
    for one in as_examples(found) if examples else map(_told, found):
        print_json(one)


def a_day(since: str) -> str:
    """The day, or empty. Raises Refusal(invalid_setting) for what is none."""
    with contextlib.suppress(ValueError):
        if not since or date.fromisoformat(since).isoformat() == since:
            return since
    raise Refusal(FailureCode.INVALID_SETTING, f"--since {since[:40]!r} is no day: write YYYY-MM-DD")


def erase(
    endpoint: Endpoint,
    request_id: Annotated[str, typer.Argument(help="The request's id.")],
    as_json: AsJson = False,
) -> None:
    """Erase what is archived of one request, also what is still on its way. Run again after an interruption.

    What Kafka's topics hold of it goes with their retention (docs/targets.md).
    """
    count = archives.erase(Settings.from_environ(), endpoint, request_id)
    if as_json:
        print_json({"endpoint": endpoint, "id": request_id, "erased": count})
        return
    out.print(f"{count} erased")
    err.print("topics and dead letters hold it as long as their retention says: docs/targets.md")


def _told(row: Row) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(row)
    return told
