"""Endpoints beyond the limits of their namespace get no requests. Takes `now`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from guideway.catalogue.entries import Catalogue
from guideway.catalogue.limits import beyond
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint

KNOWN_S: Final = 1.0
"""So long it is not looked for again: a namespace may have thousands of endpoints."""


class WithinLimits:
    """Owner of what is known of each namespace: `apply` refuses such endpoints, but another program may write them."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Mapping[str, str]]] = {}

    def require(self, endpoint: Endpoint, catalogue: Catalogue, now: float) -> None:
        """Raises Refusal(not_allowed). `now`: seconds that never go back."""
        at, found = self._known.get(endpoint.namespace, (float("-inf"), {}))
        if now - at >= KNOWN_S:
            found = beyond(catalogue, endpoint.namespace)
            self._known[endpoint.namespace] = now, found
        if endpoint.name in found:
            others = f"endpoint {endpoint.address} is not served now: ask namespace {endpoint.namespace}, which owns it"
            raise Refusal(
                FailureCode.NOT_ALLOWED,
                f"endpoint {endpoint.address} is not served: {found[endpoint.name]}",
                to_others=others,
            )
