"""`guideway studio publish`, and what all commands of the studio that write to the catalogue have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import Change, plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.topic import CatalogueFollower, publish_planned
from guideway.cli.catalogue.apply import tell
from guideway.cli.console.output import AsJson, run
from guideway.infra import topics
from guideway.producers.checks.calibration import settled
from guideway.producers.checks.check import check_manifests
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Manifest, Model
from guideway.settings import Settings
from guideway.training.publishing import decision
from guideway.training.runs.begin import begin, models_of
from guideway.training.runs.folder import RunFolder
from guideway.training.runs.task import Task, read_task

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
    the_run = folder.run()
    publication = decision.choose(folder.events(), the_run, size=size, method=method, anyway=anyway)
    name = as_endpoint or the_run.task.endpoint + (decision.CANDIDATE if candidate else "")
    models = _own_models(the_run.task, Path(the_run.folder))

    def manifests(catalogue: Catalogue) -> list[Manifest]:
        guidance = decision.guidance_for(publication, the_run, folder, catalogue)
        if guidance.artefact:
            store = ArtefactStore(settings.store)
            store.check_writable()
            guidance = msgspec.structs.replace(guidance, artefact=store.put_folder(Path(guidance.artefact)))
        [planned] = plan_changes(catalogue, [guidance])
        endpoint = decision.endpoint_for(
            publication, the_run, guidance, planned.version, catalogue, name=name, anyway=anyway
        )
        known = {identity.name for identity in catalogue.identities("model")}
        return [*(model for model in models if model.name not in known), guidance, endpoint]

    async def work() -> Sequence[Change]:
        bootstrap = settings.answering_brokers()
        await topics.apply(bootstrap, topics.wanted([]))
        return await apply_all(bootstrap, manifests)

    tell(run(work()), as_json=as_json)


def folder_of(place: Path, settings: Settings, out_folder: Path | None) -> RunFolder:
    """The folder of a run that is named by its task's file or by itself."""
    if place.is_dir():
        return RunFolder(place)
    task = read_task(place)
    return begin(task, place.parent, runs=settings.home / "runs", out=out_folder).folder


def _own_models(task: Task, folder: Path) -> list[Model]:
    return list(models_of(task, folder, None).values()) if task.models is not None else []


async def apply_all(bootstrap: str, made_on: Callable[[Catalogue], Sequence[Manifest]]) -> Sequence[Change]:
    """Check manifests whose artefacts are stored, make their topics, publish, and wait until they are to be seen.

    made_on: what is to be published, made on the catalogue as it is; see `publish_planned`.
    """

    async def planned(catalogue: Catalogue) -> list[Change]:
        manifests = made_on(catalogue)
        check_manifests(manifests, catalogue)
        manifests = settled(manifests, catalogue)
        await topics.apply(bootstrap, topics.wanted(manifests))
        return plan_changes(catalogue, manifests)

    changes, _ = await publish_planned(bootstrap, planned)
    return changes


def catalogue_if_there(settings: Settings, *, needed: bool) -> Catalogue | None:
    """The catalogue as it is now; None if there is no broker and none is `needed`."""
    try:
        bootstrap = settings.answering_brokers()
    except Refusal:
        if needed:
            raise
        return None

    async def read() -> Catalogue:
        async with CatalogueFollower(bootstrap) as reader:
            return reader.catalogue

    try:
        return run(read())
    except Refusal:
        if needed:
            raise
        return None
