"""What the catalogue says of an endpoint's shadow: what is to be compared, or why nothing is. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

import msgspec
import structlog

from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.failures import Refusal
from guideway.schemas.kinds.shadow import Shadow, ShadowChanges
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.addresses import PUBLIC, is_trial
from guideway.training.publishing.decision import CANDIDATE
from guideway.usecases.replay.folder import Plan
from guideway.usecases.replay.shadow_plan import (
    beyond_limits,
    has_candidate,
    plan_of,
    require_promotable,
    told_candidate,
    tried,
)
from guideway.usecases.replay.trial import changed_as, told, trial_of

log = structlog.get_logger(__name__)

_DIGITS: Final = 12


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """A shadow that has nothing to do."""

    why: str
    is_wrong: bool = False
    """The manifest is; else what it waits for may come."""
    place: tuple[str, ...] = ("shadow",)
    """In the manifest."""


def present(catalogue: Catalogue, namespace: str, name: str) -> tuple[int, Endpoint] | None:
    """(version, endpoint) as it is now; None where there is none."""
    found = catalogue.latest(Identity("endpoint", namespace, name))
    return (found[0], found[1]) if found is not None and isinstance(found[1], Endpoint) else None


def declared(catalogue: Catalogue, namespace: str, name: str) -> Plan | Idle | None:
    """The shadow that this endpoint declares; None where it declares none, or is not there.

    The plan's id says what is compared, and on how many rows of which share: whatever else is new at the endpoint goes
    on with the rows that there are.
    """
    found = present(catalogue, namespace, name)
    if found is None or (rule := found[1].shadow) is None:
        return None
    version, endpoint = found
    if is_trial(name):
        return Idle(why=f"{endpoint.address} has the name of a trial, of which there is no shadow", is_wrong=True)
    why = beyond_limits(catalogue, namespace, rule.share, "`despite_limits: true`")
    if why and not rule.despite_limits:
        return Idle(why=why, is_wrong=True)
    try:
        if isinstance(rule.with_, ShadowChanges):
            return _of_changes(version, endpoint, rule, rule.with_, catalogue)
        return _of_candidate(version, endpoint, rule, catalogue)
    except Refusal as refusal:
        is_wrong = isinstance(rule.with_, ShadowChanges)
        return Idle(why=refusal.message, is_wrong=is_wrong, place=("shadow", "with"))


def declaring(catalogue: Catalogue, only: Collection[str] = ()) -> list[tuple[str, str]]:
    """(namespace, name) of the endpoints that declare a shadow. only: of these namespaces; none: of all."""
    return [
        (one.namespace, one.name)
        for _, one in catalogue
        if isinstance(one, Endpoint) and one.shadow is not None and (not only or one.namespace in only)
    ]


def all_declared(catalogue: Catalogue, only: Collection[str] = ()) -> dict[tuple[str, str], Plan | Idle | None]:
    """`declared` of each endpoint that declares one. only: as of `declaring`."""
    return {one: declared_or_idle(catalogue, *one) for one in declaring(catalogue, only)}


def declared_or_idle(catalogue: Catalogue, namespace: str, name: str) -> Plan | Idle | None:
    """The same of one endpoint among many: what nobody foresaw is said of it, and stops no other."""
    try:
        return declared(catalogue, namespace, name)
    except Exception as error:
        # One manifest must not keep the shadows of all others from being carried out.
        log.exception("a shadow cannot be read", endpoint=f"/{namespace}/{name}")
        return Idle(why=f"{type(error).__name__}: report it")


def _of_changes(
    version: int, endpoint: Endpoint, rule: Shadow, changes: ShadowChanges, catalogue: Catalogue
) -> Plan | Idle:
    """Raises Refusal of guidance that is not there."""
    new = changed_as(endpoint, changes)
    if new == endpoint:
        return Idle(why=f"{endpoint.address} is so already: name what would be new, or leave out `shadow`")
    return _plan(version, endpoint, new, catalogue, rule, told(changes))


def _of_candidate(version: int, endpoint: Endpoint, rule: Shadow, catalogue: Catalogue) -> Plan | Idle:
    """Raises Refusal where the candidate is not to be tried."""
    if not has_candidate(catalogue, endpoint):
        return Idle(
            why=f"there is no candidate {endpoint.address}{CANDIDATE} yet: `guideway studio publish TASK --candidate` "
            "puts it there"
        )
    candidate, new = tried(catalogue, endpoint)
    if rule.promote == "if_better":
        require_promotable(catalogue, endpoint, "write `promote: never`")
    return _plan(version, endpoint, new, catalogue, rule, told_candidate(endpoint, candidate), candidate)


def what_it_is(endpoint: Endpoint, catalogue: Catalogue) -> str:
    """A digest of all that a shadow compares of an endpoint: by it a promotion is known again after a kill.

    Raises Refusal of guidance that is not there.
    """
    return digest_of(trial_of(endpoint, endpoint.name, "new", catalogue))


def digest_of(trial: Endpoint) -> str:
    """`what_it_is`, of its trial. How it is calibrated is decided anew where it is applied, and does not count."""
    return _digest(msgspec.structs.replace(trial, name="a", calibration=None))


def _plan(
    version: int,
    endpoint: Endpoint,
    new: Endpoint,
    catalogue: Catalogue,
    rule: Shadow,
    changes: dict[str, str],
    candidate: int | None = None,
) -> Plan:
    """Raises Refusal of guidance that is not there."""
    plan = plan_of(
        "",
        version,
        endpoint,
        new,
        catalogue,
        changes=changes,
        candidate=candidate,
        share=rule.share,
        rows=rule.rows,
        promote=rule.promote,
        asked_for={},
    )
    models = [catalogue.latest(Identity("model", PUBLIC, one.model_size)) for one in (plan.now, plan.new)]
    compared = _digest([plan.now, plan.new, models, rule.share, rule.rows, rule.promote])
    return msgspec.structs.replace(plan, id=f"{endpoint.name}-{compared[:_DIGITS]}")


def _digest(what: object) -> str:
    return hashlib.sha256(msgspec.json.encode(what, order="deterministic")).hexdigest()
