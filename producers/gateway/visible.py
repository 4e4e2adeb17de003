"""Which endpoints a namespace may call, as the catalogue has them now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from guideway.catalogue.entries import Catalogue
from guideway.catalogue.routing import router_of
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Endpoint

_KEPT: Final = 64
"""Of so many namespaces the list is kept until the catalogue changes: with 10,000 endpoints it takes a while."""


class Visible(NamedTuple):
    """What one namespace may call."""

    endpoints: Mapping[str, tuple[int, Endpoint]]
    """`NAMESPACE/NAME` → (version, endpoint), in order."""
    has_router: bool
    """Whether its general address takes events that name no endpoint."""


class VisibleEndpoints:
    """Owner of the lists that are kept."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Catalogue, int, Visible]] = {}

    def of(self, catalogue: Catalogue, namespace: str) -> Visible:
        """The endpoints of the namespace, those of `public`, and those of others that let it call."""
        kept = self._kept.pop(namespace, None)
        if kept is None or kept[0] is not catalogue or kept[1] != catalogue.changes:
            kept = catalogue, catalogue.changes, visible(catalogue, namespace)
        self._kept[namespace] = kept
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        return kept[2]


def visible(catalogue: Catalogue, namespace: str) -> Visible:
    """As `VisibleEndpoints.of`, made anew."""
    found = {
        f"{one.namespace}/{one.name}": (version, one)
        for version, one in catalogue
        if isinstance(one, Endpoint) and one.callable_by(namespace)
    }
    try:
        router_of(catalogue, namespace)
    except Refusal:
        return Visible(found, False)
    return Visible(found, True)
