"""What a run has trained, published: into the store and the catalogue, where workers see it without restart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from guideway.catalogue.adapters.virtual_tokens import virtual_tokens_in
from guideway.catalogue.artefacts.contents import PEFT_FILES, digest_of, read_folder
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import Change, plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.schemas.manifests import Guidance, Manifest, Model
from guideway.settings import Settings
from guideway.training.publishing import decision
from guideway.training.runs.begin import folder_named, models_of
from guideway.training.runs.folder import RunFolder
from guideway.training.runs.task import Task, read_task
from guideway.usecases.apply import Told, apply_made
from guideway.usecases.lookup import catalogue_if_there


async def publish_run(
    settings: Settings,
    folder: RunFolder,
    *,
    size: str | None = None,
    method: str | None = None,
    name: str | None = None,
    candidate: bool = False,
    anyway: bool = False,
    told: Told = lambda _line: None,
) -> Sequence[Change]:
    """Publish one method of a run: its guidance, the endpoint that it guides, and models of the task's own.

    size: default: the task's first. method: default: see `decision.method_of`. name: of the endpoint; default: the
    task's, or as `candidate` NAME-candidate. anyway: even if it is not better by more than chance. told: as of
    `apply_manifests`.

    Raises Refusal as `choose_publication`, `endpoint_for` and `apply_made` do: `not_better` among others.
    """
    run = folder.run()
    publication = decision.choose_publication(folder.events(), run, size=size, method=method, anyway=anyway)
    endpoint_name = name or run.task.endpoint + (decision.CANDIDATE if candidate else "")
    models = await _new_models(settings, run.task, Path(run.folder))
    ArtefactStore(settings.store, run.task.namespace).check_writable()

    def manifests(catalogue: Catalogue) -> list[Manifest]:
        guidance = decision.guidance_for(publication, run, folder, catalogue)
        [planned] = plan_changes(catalogue, [_by_digest(guidance)])
        endpoint = decision.endpoint_for(
            publication, run, guidance, planned.version, catalogue, name=endpoint_name, anyway=anyway
        )
        known = {identity.name for identity in catalogue.identities("model")}
        return [*(model for model in models if model.name not in known), guidance, endpoint]

    owners = {run.task.namespace, *(model.namespace for model in models)}
    return await apply_made(settings, owners, manifests, told=told)


def folder_of(place: Path, settings: Settings, out: Path | None) -> RunFolder:
    """The folder of a run that is named by its task's file or by itself.

    out: the run's folder where it is none of those in GUIDEWAY_HOME.
    """
    if place.is_dir():
        return RunFolder(place)
    return folder_named(read_task(place), place.parent, runs=settings.home / "runs", out=out)


def _by_digest(guidance: Guidance) -> Guidance:
    """As the catalogue keeps it, so that its version is known before anything is stored."""
    if not guidance.artefact:
        return guidance
    files = read_folder(Path(guidance.artefact), PEFT_FILES)
    tokens = virtual_tokens_in(files, guidance.form)
    return msgspec.structs.replace(guidance, artefact=digest_of(files), virtual_tokens=tokens)


async def _new_models(settings: Settings, task: Task, folder: Path) -> list[Model]:
    """The models of the task's own that the catalogue has not: only for these the right to publish them is needed."""
    if task.models is None:
        return []
    catalogue = await catalogue_if_there(settings)
    known = {one.name for one in catalogue.identities("model")} if catalogue else set()
    return [model for name, model in models_of(task, folder, None).items() if name not in known]
