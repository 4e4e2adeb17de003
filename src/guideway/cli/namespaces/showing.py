"""`guideway namespaces list | show | delete`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.cli.console.output import AsJson, err, out, print_json, print_table, run
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.usecases.rights.delete import Removal, removal, remove, service_removal
from guideway.usecases.rights.show import Shown, Use, namespace, namespaces


def add_to(group: typer.Typer) -> None:
    """Add these commands to `namespaces`."""
    group.command("list")(list_)
    group.command("show")(show)
    group.command("delete")(delete)


def list_(as_json: AsJson = False) -> None:
    """Say which namespaces there are, and whose they are. Exit code 1 if one lacks something."""
    found = run(namespaces(Settings.from_environ().answering_cluster()))
    if as_json:
        for one in found:
            print_json(one)
    else:
        rows = [(one.namespace, _people(one), len(one.endpoints), one.partitions, _state(one)) for one in found]
        print_table(("namespace", "principals", "endpoints", "partitions", "state"), rows)
        _say_whether_rights(found)
    if any(one.lacks for one in found):
        raise typer.Exit(1)


def show(
    name: Annotated[str, typer.Argument(metavar="NAMESPACE", help="The namespace.")], as_json: AsJson = False
) -> None:
    """Show one namespace: principals, quotas, what it uses of its limits, and what it lacks.

    Exit code 1 if it lacks something.
    """
    settings = Settings.from_environ()
    one = run(namespace(settings.answering_cluster(), name, ArtefactStore(settings.store)))
    if as_json:
        print_json(one)
    else:
        quotas = [
            f"{principal}: {', '.join(f'{key} {value:,.15g}' for key, value in values.items())}"
            for principal, values in one.quotas.items()
        ]
        rows = [
            ("team", ", ".join(one.team) or "–"),
            ("callers", ", ".join(one.callers) or "–"),
            ("endpoints", ", ".join(one.endpoints) or "–"),
            ("reply addresses", ", ".join(one.reply_addresses) or "–"),
            ("topics", f"{one.topics}, with {one.partitions} partitions"),
            ("limits", one.limits),
            *((_words(limit), _use(use)) for limit, use in one.uses.items()),
            *(("quotas", line) for line in quotas or ["–"]),
            *(("lacks", line) for line in one.lacks),
            *(("left over", line) for line in one.left_over),
        ]
        print_table(("", one.namespace), rows)
        if one.lacks:
            out.print(f"`guideway namespaces create {one.namespace}` mends it")
        _say_whether_rights([one])
    if one.lacks:
        raise typer.Exit(1)


def delete(
    name: Annotated[str, typer.Argument(metavar="NAMESPACE", help="The namespace.")],
    principal: Annotated[
        list[str] | None,
        typer.Option("--principal", help="Take away the rights of this one only: a team's or a caller's."),
    ] = None,
    topics: Annotated[bool, typer.Option("--topics", help="Also delete its topics that hold no records.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take away the rights and quotas of a namespace whose catalogue is empty. Records are never deleted."""
    cluster = Settings.from_environ().answering_cluster()
    planned = run(removal(cluster, name, tuple(principal or ()), topics=topics))
    _agree(f"on namespace {name}", planned, yes=yes)
    run(remove(cluster, planned))
    _tell(planned, as_json=as_json)


def delete_service(
    principal: Annotated[
        list[str], typer.Option("--principal", help="`User:NAME` that no service logs in as any more.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take the rights of a former login of a service away. Another one must have them already."""
    cluster = Settings.from_environ().answering_cluster()
    planned = run(service_removal(cluster, tuple(principal)))
    _agree("of our services", planned, yes=yes)
    run(remove(cluster, planned))
    _tell(planned, as_json=as_json)


def _tell(planned: Removal, *, as_json: bool) -> None:
    if as_json:
        print_json(planned)
        return
    for right in planned.rights:
        out.print(f"took away {right}")
    for one in planned.quotas:
        out.print(f"took away the quotas of {one}")
    for topic in planned.topics:
        out.print(f"deleted topic {topic}")
    for topic in planned.kept:
        out.print(f"kept topic {topic}, for it holds records")
    if not (planned.rights or planned.quotas or planned.topics):
        out.print("there was nothing to take away")


def _agree(what: str, planned: Removal, *, yes: bool) -> None:
    if yes or not (planned.rights or planned.quotas or planned.topics):
        return
    who = sorted({one.principal for one in planned.rights})
    question = (
        f"Take {len(planned.rights)} rights {what} away ({', '.join(who) or 'nobody'}), and delete "
        f"{len(planned.topics)} empty topics?"
    )
    if not (sys.stdin.isatty() and typer.confirm(question, err=True)):
        raise Refusal(FailureCode.INVALID_SETTING, "nothing was deleted: say --yes where nobody can be asked")


def _words(limit: str) -> str:
    return limit.replace("_", " ")


def _use(use: Use) -> str:
    used = "not known" if use.used is None else f"{use.used:,}"
    if use.limit is None:
        return "no limit" if use.used is None else f"{used}, no limit"
    return f"{used} of {use.limit:,}"


def _people(one: Shown) -> str:
    return ", ".join([*one.team, *(f"{caller} (calls)" for caller in one.callers)]) or "–"


def _state(one: Shown) -> str:
    if one.lacks:
        return f"lacks {len(one.lacks)} topics or rights"
    return f"{len(one.left_over)} rights left over" if one.left_over else "complete"


def _say_whether_rights(found: list[Shown]) -> None:
    if not all(one.holds_rights for one in found):
        err.print("this cluster holds no rights: whoever reaches it may do everything, in every namespace")
