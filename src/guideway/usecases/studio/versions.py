"""An endpoint's versions: what each was and how it did, what two have different, and which is to serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from guideway.catalogue.changes import Change
from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Lineage, Manifest
from guideway.settings import Settings
from guideway.training.publishing import decision, promotion
from guideway.usecases.apply import Told, apply_made
from guideway.usecases.lookup import found_in


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of an endpoint."""

    number: int
    endpoint: Endpoint
    lineage: Lineage | None
    """How its guidance did when it was trained; None where that is not known, or the guidance is removed."""


def endpoint_at(address: str) -> Identity:
    """Raises Refusal(invalid_setting) for what is no `/NAMESPACE/ENDPOINT`."""
    namespace, slash, name = address.strip("/").partition("/")
    if not slash:
        raise Refusal(FailureCode.INVALID_SETTING, f"{address!r} is no endpoint: write /NAMESPACE/ENDPOINT")
    return Identity("endpoint", namespace, name)


def versions(catalogue: Catalogue, identity: Identity) -> list[Version]:
    """All versions, oldest first. Raises Refusal(unknown_endpoint)."""
    found = [(number, catalogue.get(identity, number)) for number in _numbers(catalogue, identity)]
    return [
        Version(number=number, endpoint=one, lineage=_lineage(one, catalogue))
        for number, one in found
        if isinstance(one, Endpoint)
    ]


def changed(catalogue: Catalogue, identity: Identity, old: int, new: int) -> dict[str, tuple[Any, Any]]:
    """Field → (in version `old`, in version `new`), where they differ.

    Raises Refusal(unknown_endpoint | invalid_setting), the latter where there is no such version.
    """
    before, after = (msgspec.to_builtins(_version(catalogue, identity, number)) for number in (old, new))
    keys = [key for key in sorted(before | after) if before.get(key) != after.get(key)]
    return {key: (before.get(key), after.get(key)) for key in keys}


async def roll_back(
    settings: Settings, address: str, to: int | None, told: Told = lambda _line: None
) -> Sequence[Change]:
    """Publish an earlier version anew, as the newest. to: default: the one before the newest.

    told: as of `apply_manifests`. Raises Refusal as `apply_made` does, and where there is no such version.
    """
    identity = endpoint_at(address)

    def manifests(catalogue: Catalogue) -> list[Manifest]:
        numbers = _numbers(catalogue, identity)
        if to is None and len(numbers) < 2:
            raise Refusal(FailureCode.INVALID_SETTING, f"{address} has one version only, and none before it")
        return [_version(catalogue, identity, numbers[-2] if to is None else to)]

    return await apply_made(settings, [identity.namespace], manifests, told=told)


async def promote(
    settings: Settings, address: str, *, anyway: bool, told: Told = lambda _line: None
) -> Sequence[Change]:
    """Put an endpoint's candidate in its place, if it is better. anyway: even if it is not.

    told: as of `apply_manifests`. Raises Refusal as `promotion.promoted` and `apply_made` do.
    """
    identity = endpoint_at(address)

    def manifests(catalogue: Catalogue) -> list[Manifest]:
        _, candidate = catalogue.endpoint(identity.namespace, identity.name + decision.CANDIDATE)
        current = decision.present_endpoint(catalogue, identity.namespace, identity.name)
        return [promotion.promoted(candidate, current, catalogue, anyway=anyway)]

    return await apply_made(settings, [identity.namespace], manifests, told=told)


def _numbers(catalogue: Catalogue, identity: Identity) -> list[int]:
    found_in(catalogue, identity)
    return catalogue.versions(identity)


def _version(catalogue: Catalogue, identity: Identity, version: int) -> Endpoint:
    numbers = _numbers(catalogue, identity)
    found = catalogue.get(identity, version)
    if not isinstance(found, Endpoint):
        known = ", ".join(map(str, numbers))
        raise Refusal(FailureCode.INVALID_SETTING, f"{identity} has no version {version}, only {known}")
    return found


def _lineage(endpoint: Endpoint, catalogue: Catalogue) -> Lineage | None:
    try:
        return promotion.score_of(endpoint, catalogue)
    except Refusal:
        return None
