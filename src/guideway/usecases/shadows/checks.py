"""What is said of a shadow when its endpoint is applied: all that can be known then. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from guideway.catalogue.changes import Deletion, catalogue_records, plan_changes
from guideway.catalogue.documents.faults import Fault
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.checks.check import faults, faults_together
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Endpoint, Manifest
from guideway.training.publishing.decision import CANDIDATE
from guideway.training.publishing.promotion import promoted
from guideway.training.replays.answers import SIDES
from guideway.usecases.replay.folder import Plan
from guideway.usecases.replay.trial import looks_like_trial
from guideway.usecases.shadows.book import Endpoints
from guideway.usecases.shadows.declared import Idle, all_declared, declared, digest_of, present, what_it_is
from guideway.workers.engine.text.grammar_trial import grammar_trial

Declared = Plan | Idle | None


def shadow_faults(sources: Sequence[Source], catalogue: Catalogue) -> list[Fault]:
    """The faults of the shadows that these manifests declare, which have no others."""
    if not (shadowed := _shadowed(sources)):
        return []
    after = _after(sources, catalogue)
    found = [fault for source, endpoint in shadowed for fault in _faults_of(source, endpoint, after)]
    return found or _faults_together(shadowed, catalogue, after)


def shadow_notes(sources: Sequence[Source], catalogue: Catalogue) -> Iterator[str]:
    """What there is to say of shadows that wait for something, and of those that go on no more."""
    shadowed, before = _shadowed(sources), all_declared(catalogue)
    if not shadowed and not before:
        return
    after = _after(sources, catalogue)
    yield from _ended(before, all_declared(after))
    for _, endpoint in shadowed:
        if version := _taken_back(endpoint, catalogue):
            yield (
                f"version {version} of {endpoint.address}, which is as a candidate of it was, is taken back: "
                f"`guideway studio rollback {endpoint.address}` brings it again; then put what `guideway describe "
                f"endpoint {endpoint.namespace}/{endpoint.name}` shows into your file"
            )
        what = declared(after, endpoint.namespace, endpoint.name)
        said = f"waits: {what.why}" if isinstance(what, Idle) else "is carried out by `guideway shadows`"
        yield f"the shadow of {endpoint.address} {said}"
        if isinstance(what, Plan) and (why := what.question.incomparable):
            yield f"the shadow of {endpoint.address} tells no agreement, only how many events are answered: {why}"
    yield from _crowded(shadowed, catalogue, after)


def _ended(before: Mapping[Endpoints, Declared], after: Mapping[Endpoints, Declared]) -> Iterator[str]:
    """Shadows whose place is taken by others, or by none. No catalogue says whether they are over."""
    for one, was in before.items():
        will = after.get(one)
        if isinstance(was, Plan) and not (isinstance(will, Plan) and will.id == was.id):
            why = "it declares none any more" if will is None else "another one begins, which has no rows yet"
            why = f"what it declares now waits: {will.why}" if isinstance(will, Idle) else why
            yield f"the shadow that {was.question.address} declares so far ends here, unless it is over: {why}"


def shadows_broken_by(deletions: Sequence[Deletion], catalogue: Catalogue) -> list[tuple[str, str]]:
    """(address, why) of the endpoints whose shadows can be carried out, and cannot after these deletions."""
    if not (before := all_declared(catalogue)):
        return []
    after = catalogue.after(catalogue_records(deletions))
    plans = {one: was for one, was in before.items() if isinstance(was, Plan)}
    known = _wrong_trials(plans.values(), catalogue)
    found = []
    for one, will in all_declared(after).items():
        if one in plans and will is not None:
            new = _wrong_trials([will], after) if isinstance(will, Plan) else {}
            whys = [will.why] if isinstance(will, Idle) else [why for what, why in new.items() if what not in known]
            found += [(plans[one].question.address, why) for why in whys[:1]]
    return found


def _wrong_trials(plans: Iterable[Plan], catalogue: Catalogue) -> dict[str, str]:
    """Trial → what it names that is not there, or does not fit."""
    trials = [Source(Path(), plan.trial(side)) for plan in plans for side in SIDES]
    return {fault.what: fault.message for fault in faults_together(trials, catalogue)}


def _crowded(shadowed: Sequence[tuple[Source, Endpoint]], before: Catalogue, after: Catalogue) -> Iterator[str]:
    """Trials that go beyond the limits beside those of shadows that were applied before and have not begun."""
    begin = [plan for _, plan in _beginning(shadowed, before, after)]
    named = {endpoint.address for _, endpoint in shadowed}
    for namespace in sorted({plan.now.namespace for plan in begin}):
        own = [plan for plan in begin if plan.now.namespace == namespace]
        others = [
            plan
            for plan in all_declared(after, [namespace]).values()
            if isinstance(plan, Plan) and plan.question.address not in named and not _has_trials(plan, after)
        ]
        trials = [Source(Path(), plan.trial(side)) for plan in [*others, *own] for side in SIDES]
        if others and (found := faults(trials, after, grammar_trial().compiles)):
            mine, theirs = (", ".join(plan.question.address for plan in plans) for plans in (own, others))
            yield f"the shadow of {mine} begins when that of {theirs} is over, if it is not: {found[0].message}"


def _has_trials(plan: Plan, catalogue: Catalogue) -> bool:
    return all(catalogue.latest(Identity.of(plan.trial(side))) is not None for side in SIDES)


def _taken_back(endpoint: Endpoint, catalogue: Catalogue) -> int | None:
    """The version with a candidate in its place, where this manifest is what was there before that."""
    if (found := present(catalogue, endpoint.namespace, endpoint.name)) is None:
        return None
    version, now = found

    def what(one: Manifest | None, *, is_candidate: bool = False) -> str | None:
        try:
            made = promoted(one, now, catalogue, anyway=True) if is_candidate and isinstance(one, Endpoint) else one
            return what_it_is(made, catalogue) if isinstance(made, Endpoint) else None
        except (Refusal, ValueError):
            # What it uses is not there any more.
            return None

    is_, will_be = what(now), what(endpoint)
    own = Identity.of(endpoint)
    before = (was for one in reversed(catalogue.versions(own)) if (was := what(catalogue.get(own, one))) != is_)
    if is_ is None or will_be is None or next(before, None) != will_be:
        return None
    candidates = Identity(own.kind, own.namespace, own.name + CANDIDATE)
    tried = (what(catalogue.get(candidates, one), is_candidate=True) for one in catalogue.versions(candidates))
    return version if is_ in tried else None


def shadow_trials(manifests: Iterable[Manifest], catalogue: Catalogue) -> list[Endpoint]:
    """The endpoints that the shadows of these manifests will need beside them, for which there must be room.

    catalogue: as it is without these manifests.
    """
    sources = [Source(Path(), one) for one in manifests]
    shadowed = _shadowed(sources)
    after = _after(sources, catalogue) if shadowed else catalogue
    plans = [declared(after, endpoint.namespace, endpoint.name) for _, endpoint in shadowed]
    return [plan.trial(side) for plan in plans if isinstance(plan, Plan) for side in SIDES]


def _shadowed(sources: Sequence[Source]) -> list[tuple[Source, Endpoint]]:
    return [
        (one, one.manifest) for one in sources if isinstance(one.manifest, Endpoint) and one.manifest.shadow is not None
    ]


def _after(sources: Sequence[Source], catalogue: Catalogue) -> Catalogue:
    return catalogue.after(catalogue_records(plan_changes(catalogue, [one.manifest for one in sources])))


def _faults_together(shadowed: Sequence[tuple[Source, Endpoint]], before: Catalogue, after: Catalogue) -> list[Fault]:
    """The faults of trials that each shadow may have, but not all that begin now at the same time."""
    begin = _beginning(shadowed, before, after)
    made = [(Source(Path(), plan.trial(side)), source) for source, plan in begin for side in SIDES]
    declared_in = {trial.fault("", ()).what: source for trial, source in made}
    return [
        declared_in[fault.what].fault(
            f"of the trials of all shadows that begin now, {fault.what}: {fault.message}; or apply this `shadow` when "
            "another has ended",
            ("shadow",),
        )
        for fault in faults([trial for trial, _ in made], after, grammar_trial().compiles)
    ]


def _beginning(
    shadowed: Sequence[tuple[Source, Endpoint]], before: Catalogue, after: Catalogue
) -> Iterator[tuple[Source, Plan]]:
    """(manifest, shadow) of those that were not there before: others are over, or have their trials in the catalogue,
    or have not begun."""
    for source, endpoint in shadowed:
        what = declared(after, endpoint.namespace, endpoint.name)
        if isinstance(what, Plan) and not _is_as_before(what, declared(before, endpoint.namespace, endpoint.name)):
            yield source, what


def _is_as_before(plan: Plan, before: Plan | Idle | None) -> bool:
    return (
        isinstance(before, Plan)
        and (before.rows, before.shadow) == (plan.rows, plan.shadow)
        and all(digest_of(before.trial(side)) == digest_of(plan.trial(side)) for side in SIDES)
    )


def _faults_of(source: Source, endpoint: Endpoint, after: Catalogue) -> Iterator[Fault]:
    what = declared(after, endpoint.namespace, endpoint.name)
    if isinstance(what, Idle) and what.is_wrong:
        yield source.fault(what.why, what.place)
    if not isinstance(what, Plan):
        return
    for side in SIDES:
        trial = what.trial(side)
        found = after.latest(Identity.of(trial))
        if found is not None and not looks_like_trial(found[1]):
            yield source.fault(
                f"{trial.address} is an endpoint of yours, and the shadow needs the name: give it another", ("shadow",)
            )
            return
    trials = [Source(Path(), what.trial(side)) for side in SIDES]
    for fault in faults(trials, after, grammar_trial().compiles):
        yield source.fault(f"of its shadow's trial, {fault.what}: {fault.message}", ("shadow",))
