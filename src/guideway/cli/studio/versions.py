"""`guideway studio versions | diff | rollback | promote`: what an endpoint was, is, and is to be."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from guideway.cli.catalogue.apply import tell
from guideway.cli.console.output import AsJson, err, out, print_json, print_table, run
from guideway.cli.studio.publishing import Anyway
from guideway.schemas.manifests import Lineage
from guideway.settings import Settings
from guideway.training.publishing.decision import interval
from guideway.usecases.lookup import catalogue_of
from guideway.usecases.studio.versions import Version, changed, endpoint_at, promote, roll_back
from guideway.usecases.studio.versions import versions as versions_of

Address = Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")]


def add_to(group: typer.Typer) -> None:
    """Add these commands."""
    group.command("versions")(versions)
    group.command("diff")(diff)
    group.command("rollback")(rollback)
    group.command("promote")(promote_)


def versions(address: Address, as_json: AsJson = False) -> None:
    """List an endpoint's versions, with what guides each and how that did."""
    identity = endpoint_at(address)
    found = versions_of(run(catalogue_of(Settings.from_environ())), identity)
    if as_json:
        for one in found:
            told = {"version": one.number, "model_size": one.endpoint.model_size, "guidance": _guidance(one)}
            print_json(told | {"lineage": one.lineage})
        return
    print_table(
        ("version", "size", "guidance", "score", "over bare", "run"),
        [(one.number, one.endpoint.model_size, _guidance(one), *_scores(one.lineage)) for one in found],
    )


def _guidance(version: Version) -> str:
    return ", ".join(version.endpoint.guidance) or "none"


def _scores(lineage: Lineage | None) -> tuple[str, str, str]:
    """Score, what it is over the bare model, and the run."""
    if lineage is None:
        return "", "", ""
    over_bare = interval(lineage.over_bare) if lineage.over_bare else ""
    return f"{lineage.metric} {interval(lineage.score)}", over_bare, lineage.run


def diff(
    address: Address,
    old: Annotated[int, typer.Argument(help="A version.")],
    new: Annotated[int, typer.Argument(help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """Show what two versions of an endpoint have different."""
    identity = endpoint_at(address)
    differing = changed(run(catalogue_of(Settings.from_environ())), identity, old, new)
    if as_json:
        print_json({key: {"old": values[0], "new": values[1]} for key, values in differing.items()})
        return
    if not differing:
        out.print(f"versions {old} and {new} are the same")
    for key, (was, now) in differing.items():
        out.print(f"{key}\n  - {_shown(was)}\n  + {_shown(now)}")


def rollback(
    address: Address,
    to: Annotated[int | None, typer.Option(help="Which version; default: the one before the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let an endpoint do what it did in an earlier version, as its newest one."""
    tell(run(roll_back(Settings.from_environ(), address, to, err.print)), as_json=as_json)


def promote_(address: Address, anyway: Anyway = False, as_json: AsJson = False) -> None:
    """Move an endpoint's candidate to its place, if it is better than the endpoint by more than the interval."""
    tell(run(promote(Settings.from_environ(), address, anyway=anyway, told=err.print)), as_json=as_json)


def _shown(value: object) -> str:
    return "nothing" if value in (None, "", [], {}) else msgspec.json.encode(value).decode()
