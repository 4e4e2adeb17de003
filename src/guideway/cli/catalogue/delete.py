"""`guideway delete`, and what `sets delete` shares with it: nothing goes unasked that is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from guideway.catalogue.changes import Deletion, catalogue_records, plan_deletion, require_newest_read
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.topic import publish_planned
from guideway.cli.catalogue.get import found_in, identity_of
from guideway.cli.console.output import AsJson, out, print_json, run
from guideway.delivery.clients.unanswered import ENOUGH, unanswered
from guideway.infra import topics
from guideway.infra.cluster import administrator
from guideway.producers.checks.references import broken_by
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings

EvenIfUsed = Annotated[bool, typer.Option("--anyway", help="Even if endpoints need it; their events are then refused.")]


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("delete")(delete)


def delete(
    kind: Annotated[str, typer.Argument(help="endpoint, guidance, set, model, alias or calibration")],
    name: Annotated[str, typer.Argument(help="NAMESPACE/NAME[@VERSION], or a model size")],
    anyway: EvenIfUsed = False,
    as_json: AsJson = False,
) -> None:
    """Remove an entry, or one version of it. Topics and artefacts stay, and no version number is given again."""
    plain, at, version = name.partition("@")
    identity = identity_of(kind, plain)
    removed: list[int] = []

    def made_on(catalogue: Catalogue) -> list[Deletion]:
        there = sorted({*catalogue.versions(identity), *(one.version for one in catalogue.unread(identity))})
        if not there:
            found_in(catalogue, identity)
        if not at:
            require_newest_read(catalogue, identity)
        elif version not in map(str, there):
            known = ", ".join(map(str, there))
            raise Refusal(FailureCode.INVALID_SETTING, f"{identity} has no version {version!r}, only {known}")
        removed[:] = [int(version)] if at else there
        return plan_deletion(catalogue, identity, removed)

    run(remove(Settings.from_environ().answering_brokers(), made_on, anyway=anyway))
    if as_json:
        print_json({"what": str(identity), "removed_versions": removed})
    else:
        out.print(f"deleted {identity}, version {', '.join(map(str, removed))}", markup=False)


async def remove(bootstrap: str, made_on: Callable[[Catalogue], Sequence[Deletion]], *, anyway: bool) -> None:
    """Have entries removed, and wait until that is to be seen.

    Raises Refusal(invalid_setting) where endpoints need them, unless `anyway`.
    """

    async def planned(catalogue: Catalogue) -> Sequence[Deletion]:
        deletions = made_on(catalogue)
        if not anyway and (broken := broken_by(deletions, catalogue)):
            needing = ", ".join(endpoint.address for endpoint, _ in broken[:10]) + (", …" if len(broken) > 10 else "")
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{len(broken)} endpoint{'s need it' if len(broken) > 1 else ' needs it'}: {needing} (without it, "
                f"{broken[0][1]}): change or delete them first, or use --anyway, and their events are refused from "
                "then on",
            )
        if not anyway:
            for size in _models_that_go(deletions, catalogue):
                await _require_answered(bootstrap, size)
        return deletions

    await publish_planned(bootstrap, planned)


def _models_that_go(deletions: Sequence[Deletion], catalogue: Catalogue) -> list[str]:
    after = catalogue.after(catalogue_records(deletions))
    return [one.name for one in {each.identity for each in deletions} if one.kind == "model" and not after.latest(one)]


async def _require_answered(bootstrap: str, size: str) -> None:
    """Raises Refusal(invalid_setting) where requests wait for a model: no worker could be started for them any more."""
    async with administrator(bootstrap) as admin:
        there = await topics.partitions_by_topic(admin)
    lanes = {topic: len(there[topic]) for lane in names.LANES if (topic := names.request_topic(size, lane)) in there}
    if count := await unanswered(bootstrap, names.workers_group(size), lanes):
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{count}{' or more' if count >= ENOUGH else ''} request{'s wait' if count > 1 else ' waits'} for model "
            f"size {size}: let its workers answer first, or use --anyway; then what no running worker answers waits "
            "until a model of this name is applied again",
        )
