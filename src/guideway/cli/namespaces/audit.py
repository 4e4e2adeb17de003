"""`guideway audit`: who did what, and who was refused what."""

from __future__ import annotations

from typing import Annotated

import typer
from aiokafka.structs import ConsumerRecord

from guideway.cli.console.output import AsJson, err, out, print_json, print_table, run, while_heard
from guideway.cli.dlq.view import when
from guideway.printable import on_one_line
from guideway.schemas.names.service_topics import owner_of_catalogue
from guideway.schemas.services.audit import Audited
from guideway.schemas.wire import Undecodable
from guideway.settings import Settings
from guideway.usecases.rights.audit import audited

_COLUMNS = ("time", "namespace", "principal", "action", "what", "to", "why", "where")


def audit(
    namespace: Annotated[str | None, typer.Argument(help="Only what this one did; default: all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes. Ctrl-C ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the audit trail: who applied, published, rolled back, granted, deleted, was refused. Never content."""
    rows: list[tuple[str, ...]] = []

    async def work() -> None:
        cluster = Settings.from_environ().answering_cluster()
        async for one in audited(cluster, follow=follow, on_undecodable=_say_undecodable):
            if namespace not in (None, one.namespace):
                continue
            if as_json:
                print_json(one)
            elif follow:
                out.print(on_one_line("  ".join(cell or "–" for cell in _row(one))))
            else:
                rows.append(_row(one))

    run(while_heard(work()))
    if not as_json and not follow:
        print_table(_COLUMNS, rows)


def _row(one: Audited) -> tuple[str, ...]:
    times = f" ×{one.count}" if one.count > 1 else ""
    # A catalogue's own records are named by what they are; others by where they stand.
    where = "" if owner_of_catalogue(one.topic) else f"{one.topic} {one.partition}/{one.offset}"
    why = one.code.value if one.code is not None else ""
    return (
        when(one.at_ms),
        one.namespace,
        one.principal or "",
        f"{one.action}{times}",
        one.what,
        ", ".join(one.to),
        why,
        where,
    )


def _say_undecodable(record: ConsumerRecord, error: Undecodable) -> None:
    err.print(f"partition {record.partition}, offset {record.offset}: no entry of this version ({error})")
