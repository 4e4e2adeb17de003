"""Decides what of a run is published, and makes the manifests. Pure; the command uploads and writes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import InputRule
from guideway.schemas.manifests import Endpoint, Guidance, Lineage
from guideway.schemas.output import Boolean, Choice, OutputRule, doubtful_target, telling_as
from guideway.training.evaluation.agreement import is_agreement
from guideway.training.runs.events import MethodStarted, PromptScored, RunEvent, Scored, Stopped
from guideway.training.runs.folder import Run, RunFolder
from guideway.training.runs.task import BARE, PRESENT, TEXT_PROMPT, Task

CANDIDATE: Final = "-candidate"
"""After the endpoint's name: an endpoint where callers can try what may replace it."""


class Publication(msgspec.Struct, frozen=True):
    """What is published of a run for one model size."""

    size: str
    scored: Scored
    fingerprint: str | None
    """The fingerprint of the base model; None for a text prompt, which fits any model."""
    prompt: str = ""
    """The text of a text prompt; else empty."""


def choose_publication(
    events: Iterable[RunEvent], run: Run, *, size: str | None, method: str | None, anyway: bool
) -> Publication:
    """The publication of the named method, else of `method_of`.

    Raises: Refusal `not_better` if the task wants a better method than the bare model, this one is not significantly
    better, and `anyway` is false; `invalid_setting` if the run has no such method, no such size, or no comparison yet.
    """
    task = run.task
    size = size or task.model_sizes[0]
    if size not in task.model_sizes:
        raise Refusal(
            FailureCode.INVALID_SETTING, f"the run has no model size {size!r}; it has {', '.join(task.model_sizes)}"
        )
    events = list(events)
    scored = {
        e.method: e for e in events if isinstance(e, Scored) and e.size == size and e.method not in {BARE, PRESENT}
    }
    if not scored:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"run {run.id} has no comparison for size {size} yet: carry it out to its end with `guideway studio run`",
        )
    wanted = method or method_of(events, task, size, scored)
    if wanted not in scored:
        raise Refusal(
            FailureCode.INVALID_SETTING, f"the run has no method {wanted!r}; compared were: {', '.join(sorted(scored))}"
        )
    best = scored[wanted]
    if task.publish.when == "better" and not anyway and is_agreement(best.metric):
        raise Refusal(FailureCode.NOT_BETTER, _only_agrees(wanted, best))
    if task.publish.when == "better" and not anyway and not is_better(best.over_bare):
        raise Refusal(
            FailureCode.NOT_BETTER,
            f"{wanted} does not beat the bare model by more than chance ({best.metric} {interval(best.over_bare)} over "
            f"it, on {best.rows} rows): {_advice(events, size, wanted)}; --anyway publishes it all the same",
        )
    prints = [e.fingerprint for e in events if isinstance(e, MethodStarted) and (e.size, e.method) == (size, wanted)]
    prompts = [e.prompt for e in events if isinstance(e, PromptScored) and e.size == size and e.chosen]
    is_text = wanted == TEXT_PROMPT
    return Publication(size, best, None if is_text else prints[-1], prompts[-1] if is_text else "")


def _only_agrees(method: str, scored: Scored) -> str:
    return (
        f"nobody knows whether {method} is better: it was compared on archived answers, which are a model's "
        f"({scored.metric} {interval([scored.value, scored.low, scored.high])} on {scored.rows} rows). Name rows with "
        "known answers in data.eval, or correct the archived ones (data.archive.corrections); --anyway publishes it "
        "all the same, and so does publish.when: always"
    )


def _advice(events: Iterable[RunEvent], size: str, method: str) -> str:
    """What may help if a method is not better."""
    events = list(events)
    bare = [e for e in events if isinstance(e, Scored) and (e.size, e.method) == (size, BARE)]
    if bare and bare[-1].value >= 1 and bare[-1].metric != "loss":
        return (
            f"the bare model has all of these {bare[-1].rows} rows right: give more rows, or harder ones, in data.eval"
        )
    ended = [e for e in events if isinstance(e, Stopped) and (e.size, e.method) == (size, method)]
    if ended and ended[-1].rule == "max_minutes":
        one = ended[-1]
        enough = math.ceil(one.elapsed_s / 60 * one.of / max(1, one.step))
        whole = f" of {one.of}, for which it needs about {enough} minutes" if one.of else ""
        return f"its time was up at step {one.step}{whole}: raise stop.max_minutes, or train on a faster machine"
    return "try another method or more examples"


def method_of(events: Iterable[RunEvent], task: Task, size: str, compared: Collection[str]) -> str:
    """The method that a run recommends: the task's, else the one with the lowest validation loss among `compared`.

    If nothing was trained, it is the best text prompt, which the validation rows chose too. The score on the evaluation
    rows must not choose: on the rows that chose it, the best of many seems better than it is.
    """
    if task.publish.method is not None:
        return task.publish.method
    losses = {e.method: e.validation_loss for e in events if isinstance(e, Stopped) and e.size == size}
    return min((label for label in losses if label in compared), key=losses.__getitem__, default=TEXT_PROMPT)


def guidance_for(publication: Publication, run: Run, folder: RunFolder, catalogue: Catalogue) -> Guidance:
    """The guidance's manifest. It still names its artefact by folder."""
    task, scored = run.task, publication.scored
    name = task.guidance_name(scored.method, publication.size)
    present = present_endpoint(catalogue, task.namespace, task.endpoint)
    parent = ", ".join(present.guidance) if present else ""
    before = catalogue.latest(Identity("guidance", task.namespace, name))
    if before and isinstance(before[1], Guidance) and before[1].lineage and before[1].lineage.run == run.id:
        parent = before[1].lineage.parent  # published again: the parent stays
    lineage = Lineage(
        run=run.id,
        method=scored.method,
        code=run.code_version,
        seed=task.schedule.seed,
        data=run.data_digest,
        eval_data=run.eval_digest,
        metric=scored.metric,
        score=[scored.value, scored.low, scored.high],
        over_bare=scored.over_bare,
        rows=scored.rows,
        calibration_error=[] if scored.softening is None else [scored.softening.before, scored.softening.after],
        parent=parent,
    )
    description = f"{scored.metric} {interval(lineage.score)} on {scored.rows} rows"
    if scored.method == TEXT_PROMPT:
        return Guidance(
            namespace=task.namespace,
            name=name,
            description=description,
            form="text_prompt",
            text=publication.prompt,
            lineage=lineage,
        )
    return Guidance(
        namespace=task.namespace,
        name=name,
        description=description,
        form=task.method(scored.method).guidance_form,
        artefact=str(folder.artefact(publication.size, scored.method).absolute()),
        model_fingerprint=publication.fingerprint,
        lineage=lineage,
    )


def endpoint_for(
    publication: Publication,
    run: Run,
    guidance: Guidance,
    version: int,
    catalogue: Catalogue,
    *,
    name: str,
    anyway: bool,
) -> Endpoint:
    """The endpoint `name` with this version of the guidance, so that an endpoint's version never changes its behaviour.

    Fields that the task does not have (input, access, ...) stay as in that endpoint, else as in the task's endpoint. A
    candidate does not get the task's endpoint's targets and archive: trial results must not reach them.

    Raises: Refusal `invalid_setting` if the endpoint's text of events differs from the text in training and evaluation,
    unless `anyway`.
    """
    task = run.task
    names = (name, task.endpoint)
    begin = next(filter(None, (present_endpoint(catalogue, task.namespace, one) for one in names)), None)
    if begin is None:
        begin = Endpoint(
            namespace=task.namespace, name=name, description=task.description, model_size="any", output=task.output
        )
    if not anyway and (why := _other_texts(begin, run)):
        raise Refusal(
            FailureCode.INVALID_SETTING, f"{begin.address} {why} with --as, or publish it anyway with --anyway"
        )
    own = telling_as(task.output, begin.output)
    if begin.name != name or name.endswith(CANDIDATE):
        begin = msgspec.structs.replace(begin, targets=[], archive=False)
        own = _without_target(own)
    return msgspec.structs.replace(
        begin,
        name=name,
        model_size=publication.size,
        # A text prompt replaces the instruction.
        instruction="" if guidance.form == "text_prompt" else run.instruction,
        guidance=[f"{guidance.namespace}/{guidance.name}@{version}"],
        output=_softened(own, publication.scored),
        generation=task.generation,
        # As in the comparison: see `comparing.references` and `comparing.methods`.
        calibration="auto" if guidance.form == "text_prompt" else "off",
        retrieval=begin.retrieval if task.retrieval is None else task.retrieval,
    )


def _other_texts(endpoint: Endpoint, run: Run) -> str:
    """Why events of the endpoint become other texts than the rows of the run were, and what to do; empty: they do not.
    The sentence goes on with the options of `publish`."""
    template = InputRule().template if run.archived is None else run.archived.template
    if endpoint.retrieval is not None and endpoint.retrieval != run.task.retrieval:
        what = "passages by a rule that is not the task's"
    elif endpoint.input.template == template:
        return ""
    elif run.archived is not None:
        return (
            f"makes texts of events by the template {endpoint.input.template[:100]!r}, and the archived texts that the "
            f"run learnt from are of {template[:100]!r}: train with the other data.archive.text, publish under the "
            "name of an endpoint with that template"
        )
    else:
        what = "an input template"
    return (
        f"adds {what} to the text of events, but not to the rows of the run: apply another endpoint that adds nothing "
        "and publish under its name"
    )


def _without_target(rule: OutputRule) -> OutputRule:
    """The rule without a target for doubtful values, and then without doubt."""
    if doubtful_target(rule) is not None and isinstance(rule, Choice | Boolean):
        return msgspec.structs.replace(rule, min_confidence=None, below=None)
    return rule


def _softened(rule: OutputRule, scored: Scored) -> OutputRule:
    """The rule with the temperature that was fitted, if there is one: that of other guidance does not hold for this."""
    if isinstance(rule, Choice | Boolean) and rule.probabilities:
        temperature = 1.0 if scored.softening is None else scored.softening.temperature
        return msgspec.structs.replace(rule, label_temperature=temperature)
    return rule


def present_endpoint(catalogue: Catalogue, namespace: str, name: str) -> Endpoint | None:
    """The endpoint's newest version; None if there is none."""
    found = catalogue.latest(Identity("endpoint", namespace, name))
    return found[1] if found and isinstance(found[1], Endpoint) else None


def is_better(difference: Iterable[float]) -> bool:
    """Whether the whole interval of [difference, low, high] lies above zero."""
    return bool(numbers := list(difference)) and numbers[1] > 0


def interval(estimate: Iterable[float]) -> str:
    """[value, low, high] as text: `0.940 [0.919, 0.956]`."""
    numbers = list(estimate)
    return f"{numbers[0]:.3f} [{numbers[1]:.3f}, {numbers[2]:.3f}]" if numbers else "nothing"
