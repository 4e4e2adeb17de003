"""Checks what an endpoint names: it exists, the endpoint may use it, and it fits together. Pure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from guideway.catalogue.changes import Deletion, catalogue_records
from guideway.catalogue.documents.faults import FieldPath, listed
from guideway.catalogue.entries import Catalogue, Identity, Kind
from guideway.catalogue.together import check_together
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.nearest import did_you_mean, nearest
from guideway.schemas.request import GuidanceRef

Checks = Iterator[tuple[FieldPath, Callable[[], object]]]
"""(place, check). A check raises ValueError or Refusal for a fault; its message may begin with a deeper place."""


def reference_checks(endpoint: Manifest, catalogue: Catalogue) -> Checks:
    """Check that what an endpoint names exists, that the endpoint may use it, and that it fits together."""
    if not isinstance(endpoint, Endpoint):
        return
    yield ("model_size",), partial(catalogue.model, endpoint.model_size)
    yield ("guidance",), partial(_check_together, endpoint, catalogue)
    size = catalogue.latest(Identity("model", "public", endpoint.model_size))
    model = size[1] if size is not None and isinstance(size[1], Model) else None
    if model is not None:
        yield ("generation", "max_tokens"), partial(_check_length, endpoint, model.max_context_tokens)
    for field, named in (("guidance", endpoint.guidance), ("request_guidance", endpoint.request_guidance)):
        for number, name in enumerate(named):
            yield (field, number), partial(_check_guidance, name, endpoint, model, catalogue)
    if (rule := endpoint.retrieval) is not None:
        for field, sets in (("sets", rule.sets), ("request_sets", rule.request_sets)):
            for number, name in enumerate(sets):
                yield ("retrieval", field, number), partial(_check_set, name, endpoint, catalogue)
    for number, target in enumerate(endpoint.targets):
        yield ("targets", number), partial(_check_target, target, endpoint, catalogue)


def _check_together(endpoint: Endpoint, catalogue: Catalogue) -> None:
    """Check the guidance that exists; another check reports what does not."""
    own = _there(endpoint.guidance, endpoint, catalogue)
    check_together(own)
    for one in _there(endpoint.request_guidance, endpoint, catalogue):
        # Each one alone, as an event may name it.
        check_together([*own, one])


def _there(names: Iterable[str], endpoint: Endpoint, catalogue: Catalogue) -> list[tuple[GuidanceRef, Guidance]]:
    found = []
    for name in names:
        with contextlib.suppress(Refusal):
            found.append(catalogue.guidance(name, for_namespace=endpoint.namespace))
    return found


def _check_guidance(name: str, endpoint: Endpoint, model: Model | None, catalogue: Catalogue) -> None:
    with _near(name, partial(_names, "guidance", catalogue)):
        _, guidance = catalogue.guidance(name, for_namespace=endpoint.namespace)
    if model is not None:
        _check_fits(name, guidance, endpoint.model_size, model.fingerprint)


def _check_set(name: str, endpoint: Endpoint, catalogue: Catalogue) -> None:
    assert endpoint.retrieval is not None
    with _near(name, partial(_names, "set", catalogue)):
        _, found = catalogue.retrieval_set(name, for_namespace=endpoint.namespace)
    _check_filter(name, endpoint.retrieval.filter, found.metadata)


def _check_target(target: str, endpoint: Endpoint, catalogue: Catalogue) -> None:
    catalogue.endpoint(endpoint.namespace, target)


def _names(kind: Kind, catalogue: Catalogue) -> list[str]:
    return [f"{one.namespace}/{one.name}" for one in catalogue.identities(kind)]


@contextlib.contextmanager
def _near(word: str, known: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Add to a refusal of an unknown name the nearest known one."""
    try:
        yield
    except Refusal as refusal:
        plain = re.split(r"[@*]", word)[0]
        names = known()
        near = "" if plain in names else did_you_mean(plain, names)
        raise Refusal(refusal.code, f"{refusal.message}{f'; {near.rstrip()}' if near else ''}") from None


def _check_filter(name: str, wanted: Iterable[str], known: Sequence[str]) -> None:
    """Raises ValueError for a filter on metadata that no passage has."""
    for key in wanted:
        if known and key not in known:
            near = nearest(key, known)
            meant = f"did you mean {near!r}? " if near is not None else ""
            raise ValueError(
                f"retrieval.filter: no passage of set {name} has metadata {key!r}; {meant}it has {listed(known)}"
            )


def _check_length(endpoint: Endpoint, context_tokens: int) -> None:
    if endpoint.generation.max_tokens >= context_tokens:
        raise ValueError(
            f"generation.max_tokens is {endpoint.generation.max_tokens}, and model size {endpoint.model_size} has "
            f"{context_tokens} tokens for the text and its answer together: lower it"
        )


def _check_fits(name: str, guidance: Guidance, size: str, fingerprint: str | None) -> None:
    wanted = guidance.model_fingerprint
    if wanted is not None and fingerprint is not None and wanted != fingerprint:
        raise ValueError(
            f"guidance {name} was trained on another base model than that of size {size}: train it on that one; or, if "
            f"it was and only has a fingerprint of the former way, apply it with model_fingerprint {fingerprint}"
        )


def broken_by(deletions: Iterable[Deletion], catalogue: Catalogue) -> list[tuple[Endpoint, str]]:
    """The endpoints that name what these deletions remove, each with the message that its events would get."""
    after = catalogue.after(catalogue_records(deletions))
    found = []
    for _, manifest in after:
        if isinstance(manifest, Endpoint):
            before = _missing(manifest, catalogue)
            found += [(manifest, why) for name, why in _missing(manifest, after).items() if name not in before][:1]
    return found


def _missing(endpoint: Endpoint, catalogue: Catalogue) -> dict[str, str]:
    """What the endpoint names and cannot use, or does not exist → the message that its events get."""
    rule, namespace = endpoint.retrieval, endpoint.namespace
    asked: dict[str, Callable[[], object]] = {}
    for name in [*endpoint.guidance, *endpoint.request_guidance]:
        asked[f"guidance {name}"] = partial(catalogue.guidance, name, for_namespace=namespace)
    for name in [*rule.sets, *rule.request_sets] if rule is not None else ():
        asked[f"set {name}"] = partial(catalogue.retrieval_set, name, for_namespace=namespace)
    for name in endpoint.targets:
        asked[f"target {name}"] = partial(catalogue.endpoint, namespace, name)
    missing = {}
    # Not `Catalogue.model`: it lists all sizes each time, and thousands of endpoints may name one.
    if catalogue.latest(Identity("model", "public", endpoint.model_size)) is None:
        missing["model"] = f"there is no model size {endpoint.model_size!r}"
    for what, ask in asked.items():
        try:
            ask()
        except Refusal as refusal:
            missing[what] = refusal.message
    return missing
