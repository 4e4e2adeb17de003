"""What there is to say of manifests beside the catalogue, though nothing is wrong with them. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from guideway.catalogue.changes import Change, catalogue_records, plan_changes
from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.limits import beyond
from guideway.producers.checks.calibration import settled
from guideway.producers.checks.doubts import CHARS_OF_TOKEN
from guideway.producers.checks.references import fixed_chars, reference_checks
from guideway.schemas.calibration import CalibrationRule
from guideway.schemas.failures import Refusal
from guideway.schemas.kinds.router import Router
from guideway.schemas.manifests import Endpoint, Guidance

_SHOWN: Final = 10
_NAMED_BY_OTHERS: Final = frozenset({"endpoint", "guidance", "set", "alias", "model", "target"})


def beside(sources: Sequence[Source], catalogue: Catalogue) -> Iterator[str]:
    """In lines. catalogue: as it is without these manifests, which have no faults beside it."""
    changes = plan_changes(catalogue, [source.manifest for source in sources])
    after = catalogue.after(catalogue_records(changes))
    for source in sources:
        if isinstance(source.manifest, Endpoint):
            yield from _long_prompts(source.manifest, after)
    yield from _unfitting(changes, catalogue, after)
    yield from _calibrated_otherwise(changes, catalogue, after)


def _long_prompts(endpoint: Endpoint, after: Catalogue) -> Iterator[str]:
    """Prompts that hardly leave room for a text."""
    model = after.model(endpoint.model_size)
    named = [one for one in (_guidance(name, endpoint, after) for name in endpoint.guidance) if one is not None]
    chars = fixed_chars(endpoint, named)
    virtual = sum(one.virtual_tokens or 0 for one in named)
    passages = endpoint.retrieval.max_tokens if endpoint.retrieval is not None else 0
    answer = endpoint.generation.max_tokens
    if chars // CHARS_OF_TOKEN + virtual + passages + answer >= model.max_context_tokens:
        others = [f"{virtual} virtual tokens"] if virtual else []
        others += [f"{passages} of passages"] if passages else []
        yield (
            f"the instruction, text prompts and template of {endpoint.address} have {chars:,} characters, which hardly "
            f"fit into the {model.max_context_tokens} tokens of model size {model.name} beside "
            f"{', '.join([*others, f'an answer of {answer}'])}: shorten them, or its events are refused with "
            "text_too_long"
        )


def _guidance(name: str, endpoint: Endpoint, after: Catalogue) -> Guidance | None:
    try:
        return after.guidance(name, for_namespace=endpoint.namespace)[1]
    except Refusal:
        # Of a namespace that is hidden here.
        return None


def _unfitting(changes: Sequence[Change], before: Catalogue, after: Catalogue) -> Iterator[str]:
    """Endpoints and routers that are not applied now, and are named or limited by what is."""
    applied = {change.identity for change in changes}
    changed = [change.identity for change in changes if change.action != "unchanged"]
    found: list[tuple[Identity, str]] = []
    for namespace in {one.name for one in changed if one.kind == "namespace"}:
        new = beyond(after, namespace)
        known = beyond(before, namespace)
        found += [(Identity("endpoint", namespace, name), why) for name, why in new.items() if name not in known]
    if any(one.kind in _NAMED_BY_OTHERS for one in changed):
        for _, manifest in after:
            if isinstance(manifest, Endpoint | Router) and (now := _faults(manifest, after)):
                found += [(Identity.of(manifest), why) for why in sorted(now - _faults(manifest, before))[:1]]
    told = [f"{one} does not fit with this any more: {why}" for one, why in sorted(found) if one not in applied]
    yield from told[:_SHOWN]
    if len(told) > _SHOWN:
        yield f"{len(told) - _SHOWN} more endpoints and routers do not fit with this any more"


def _calibrated_otherwise(changes: Sequence[Change], before: Catalogue, after: Catalogue) -> Iterator[str]:
    """Endpoints that are not applied now, and whose calibration was decided with other guidance of the same name."""
    applied = {change.identity for change in changes}
    turned = {
        f"{one.namespace}/{one.name}"
        for one in (change.manifest for change in changes if change.action == "updated")
        if isinstance(one, Guidance)
        and (was := before.latest(Identity.of(one))) is not None
        and isinstance(was[1], Guidance)
        and (was[1].form == "text_prompt") != (one.form == "text_prompt")
    }
    told = []
    for _, endpoint in after if turned else ():
        if isinstance(endpoint, Endpoint) and Identity.of(endpoint) not in applied:
            names = turned.intersection(name.partition("*")[0] for name in endpoint.guidance)
            if names and _by_itself(endpoint, before) == endpoint.calibration != _by_itself(endpoint, after):
                told.append(
                    f"{Identity.of(endpoint)} was applied when guidance {', '.join(sorted(names))} had another form, "
                    "and whether its labels are calibrated was decided by that: apply it again"
                )
    yield from told[:_SHOWN]
    if len(told) > _SHOWN:
        yield f"{len(told) - _SHOWN} more endpoints are calibrated as with guidance of another form: apply them again"


def _by_itself(endpoint: Endpoint, catalogue: Catalogue) -> CalibrationRule | None:
    """How an endpoint that says nothing of it would be calibrated."""
    with contextlib.suppress(Refusal):
        [made] = settled([msgspec.structs.replace(endpoint, calibration=None)], catalogue)
        return made.calibration if isinstance(made, Endpoint) else None
    return endpoint.calibration


def _faults(manifest: Endpoint | Router, catalogue: Catalogue) -> set[str]:
    found = set()
    for _, check in reference_checks(manifest, catalogue):
        try:
            check()
        except Refusal as refusal:
            found.add(refusal.message)
        except ValueError as error:
            found.add(str(error))
    return found
