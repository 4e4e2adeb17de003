"""Checks what an endpoint names: it exists, the endpoint may use it, and it fits together. Pure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from guideway.catalogue.bounds import check_answer_fits, check_passages_fit, check_text_fits
from guideway.catalogue.changes import Deletion, catalogue_records
from guideway.catalogue.documents.faults import FieldPath, listed
from guideway.catalogue.entries import Catalogue, Identity, Kind
from guideway.catalogue.limits import beyond
from guideway.catalogue.targets.recipients import require_target, require_webhook
from guideway.catalogue.together import check_together
from guideway.producers.checks.routers import router_checks
from guideway.producers.marshalling.template import parse
from guideway.schemas.failures import Refusal
from guideway.schemas.kinds.router import Router
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.nearest import did_you_mean, nearest
from guideway.schemas.output import doubtful_target
from guideway.schemas.request import GuidanceRef

Checks = Iterator[tuple[FieldPath, Callable[[], object]]]
"""(place, check). A check raises ValueError or Refusal for a fault; its message may begin with a deeper place."""


def reference_checks(manifest: Manifest, catalogue: Catalogue) -> Checks:
    """Check that what an endpoint or a router names exists, that it may use it, and that it fits together."""
    if isinstance(manifest, Endpoint):
        yield from _endpoint_checks(manifest, catalogue)
    elif isinstance(manifest, Router):
        yield from router_checks(manifest, catalogue)


def _endpoint_checks(endpoint: Endpoint, catalogue: Catalogue) -> Checks:
    yield ("model_size",), partial(catalogue.model, endpoint.model_size)
    yield ("guidance",), partial(_check_together, endpoint, catalogue)
    size = catalogue.latest(Identity("model", "public", endpoint.model_size))
    model = size[1] if size is not None and isinstance(size[1], Model) else None
    if model is not None:
        asked = endpoint.request_generation.max_tokens or 0
        for field, tokens in (("generation", endpoint.generation.max_tokens), ("request_generation", asked)):
            yield (field, "max_tokens"), partial(check_answer_fits, f"{field}.max_tokens", tokens, model)
        if endpoint.retrieval is not None:
            check = partial(check_passages_fit, endpoint.retrieval, endpoint.generation, model)
            yield ("retrieval", "max_tokens"), check
        yield from _length_checks(endpoint, model, catalogue)
    for field, named in (("guidance", endpoint.guidance), ("request_guidance", endpoint.request_guidance)):
        for number, name in enumerate(named):
            yield (field, number), partial(_check_guidance, name, endpoint, model, catalogue)
    if (rule := endpoint.retrieval) is not None:
        for field, sets in (("sets", rule.sets), ("request_sets", rule.request_sets)):
            for number, name in enumerate(sets):
                yield ("retrieval", field, number), partial(_check_set, name, endpoint, catalogue)
    for number, target in enumerate(endpoint.targets):
        if isinstance(target, str):
            yield ("targets", number), partial(_check_target, target, endpoint, catalogue)
        else:
            yield (
                ("targets", number, "webhook"),
                partial(require_webhook, target.webhook, endpoint.namespace, catalogue),
            )
    if (doubtful := doubtful_target(endpoint.output)) is not None:
        yield ("output", "below", "target"), partial(_check_target, doubtful, endpoint, catalogue)


def _length_checks(endpoint: Endpoint, model: Model, catalogue: Catalogue) -> Checks:
    """Whether what is there whatever an event says leaves room for its text."""
    own = [guidance for _, guidance in _there(endpoint.guidance, endpoint, catalogue)]
    passages = endpoint.retrieval.max_tokens if endpoint.retrieval is not None else 0
    answer, asked = endpoint.generation.max_tokens, endpoint.request_generation.max_tokens

    def check(also: Sequence[Guidance] = (), passages: int = passages, answer: int = answer) -> Callable[[], None]:
        virtual = sum(one.virtual_tokens or 0 for one in (*own, *also))
        chars = fixed_chars(endpoint, [*own, *also])
        return partial(check_text_fits, virtual, chars, passages=passages, answer=answer, model=model)

    yield ("guidance",), check()
    if asked is not None:
        yield ("request_generation", "max_tokens"), check(passages=0, answer=asked)
    for number, name in enumerate(endpoint.request_guidance):
        # Each one alone, as an event may name it.
        also = [guidance for _, guidance in _there([name], endpoint, catalogue) if guidance not in own]
        yield ("request_guidance", number), check(also)


def fixed_chars(endpoint: Endpoint, guidance: Iterable[Guidance]) -> int:
    """Characters of instruction, text prompts and template, which are there whatever an event says."""
    with contextlib.suppress(ValueError):
        texts = [endpoint.instruction, parse(endpoint.input.template).bare, *(one.text for one in guidance)]
        # Chat templates may strip them.
        return sum(len(text.strip()) for text in texts)
    return 0


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


def owners_named(manifest: Manifest) -> dict[str, list[str]]:
    """Other namespaces that the manifest names something of → what it names of each."""
    named: list[str] = []
    if isinstance(manifest, Endpoint):
        rule = manifest.retrieval
        named = [*manifest.guidance, *manifest.request_guidance]
        named += [*rule.sets, *rule.request_sets] if rule is not None else []
        named += [one.removeprefix("/") for one in manifest.copied_to if one.startswith("/")]
    elif isinstance(manifest, Router):
        named = [one.removeprefix("/") for one in manifest.endpoints]
    found: dict[str, list[str]] = {}
    for one in named:
        if (owner := one.partition("/")[0]) != manifest.namespace:
            found.setdefault(owner, []).append(one)
    return found


def _is_hidden(name: str, catalogue: Catalogue) -> bool:
    """Whether whoever applies this cannot see whose it is; the services that can will check it."""
    return name.partition("/")[0] in catalogue.hidden


def _check_guidance(name: str, endpoint: Endpoint, model: Model | None, catalogue: Catalogue) -> None:
    if _is_hidden(name, catalogue):
        return
    with _near(name, partial(_names, "guidance", catalogue)):
        _, guidance = catalogue.guidance(name, for_namespace=endpoint.namespace)
    if model is not None:
        _check_fits(name, guidance, endpoint.model_size, model.fingerprint)


def _check_set(name: str, endpoint: Endpoint, catalogue: Catalogue) -> None:
    assert endpoint.retrieval is not None
    if _is_hidden(name, catalogue):
        return
    with _near(name, partial(_names, "set", catalogue)):
        _, found = catalogue.retrieval_set(name, for_namespace=endpoint.namespace)
    _check_filter(name, endpoint.retrieval.filter, found.metadata)


def _check_target(target: str, endpoint: Endpoint, catalogue: Catalogue) -> None:
    if not (target.startswith("/") and _is_hidden(target.removeprefix("/"), catalogue)):
        require_target(target, endpoint.namespace, catalogue)


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


def _check_fits(name: str, guidance: Guidance, size: str, fingerprint: str | None) -> None:
    wanted = guidance.model_fingerprint
    if wanted is not None and fingerprint is not None and wanted != fingerprint:
        raise ValueError(
            f"guidance {name} was trained on another base model than that of size {size}: train it on that one; or, if "
            f"it was and only has a fingerprint of the former way, apply it with model_fingerprint {fingerprint}"
        )


def broken_by(deletions: Sequence[Deletion], catalogue: Catalogue) -> list[tuple[Endpoint | Router, str]]:
    """The endpoints and routers that these deletions break, each with why: what they name is removed, or an earlier
    version that does not fit stands in its place, or in their own."""
    after = catalogue.after(catalogue_records(deletions))
    found: list[tuple[Endpoint | Router, str]] = []
    for namespace in {one.identity.name for one in deletions if one.identity.kind == "namespace"}:
        new, known = beyond(after, namespace), beyond(catalogue, namespace)
        found += [(after.endpoint(namespace, name)[1], why) for name, why in new.items() if name not in known]
    for _, manifest in after:
        if isinstance(manifest, Endpoint | Router):
            now = _faults(manifest, after)
            # Looked up again only where there is something wrong: thousands may be there.
            was = catalogue.latest(Identity.of(manifest)) if now else None
            before = _faults(was[1], catalogue) if was is not None and isinstance(was[1], Endpoint | Router) else {}
            found += [(manifest, why) for place, why in now.items() if place not in before][:1]
    return found


def _faults(manifest: Endpoint | Router, catalogue: Catalogue) -> dict[FieldPath, str]:
    """Place → what is wrong there beside the catalogue."""
    found = {}
    for place, check in reference_checks(manifest, catalogue):
        try:
            check()
        except (Refusal, ValueError) as error:
            found[place] = error.message if isinstance(error, Refusal) else str(error)
    return found
