"""The present endpoint as a subject of the comparison."""

from __future__ import annotations

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.entries import Catalogue
from guideway.schemas.calibration import Calibration
from guideway.schemas.manifests import Model
from guideway.training.evaluation.evaluator import Subject
from guideway.training.publishing.decision import present_endpoint
from guideway.training.runs.task import PRESENT, Task
from guideway.workers.messages.to_engine import Artefact


def present_subject(
    catalogue: Catalogue, task: Task, model: Model, *, store: ArtefactStore, cache: ArtefactCache
) -> Subject | None:
    """The endpoint's newest version as a subject on `model`; None if it has another size, output or retrieval than the
    task, or does not exist.

    Also None if its guidance belongs to another base model: workers refuse it, so that it does nothing at present.

    Raises: Refusal if its guidance cannot be fetched.
    """
    endpoint = present_endpoint(catalogue, task.namespace, task.endpoint)
    if endpoint is None or endpoint.model_size != model.name:
        return None
    if (endpoint.output, endpoint.retrieval) != (task.output, task.retrieval):
        return None
    instructions = [endpoint.instruction] if endpoint.instruction else []
    artefacts = []
    for name in endpoint.guidance:
        ref, guidance = catalogue.guidance(name, for_namespace=endpoint.namespace)
        if guidance.form == "text_prompt":
            instructions.append(guidance.text)
            continue
        if model.fingerprint is not None and guidance.model_fingerprint != model.fingerprint:
            return None
        artefacts.append(
            Artefact(
                name=str(ref),
                form=guidance.form,
                digest=guidance.artefact,
                folder=str(store.of(ref.namespace).checked(guidance.artefact, cache)),
                by_content=True,
                scale=ref.scale,
            )
        )
    return Subject(
        label=PRESENT,
        instructions=instructions,
        artefacts=artefacts,
        output=endpoint.output,
        generation=endpoint.generation,
        calibration=endpoint.calibration if isinstance(endpoint.calibration, Calibration) else None,
    )
