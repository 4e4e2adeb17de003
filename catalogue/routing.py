"""A namespace's router, and the endpoints among which it chooses. Pure."""

from __future__ import annotations

from guideway.catalogue.access import called_endpoint
from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.router import MAX_CANDIDATES, ROUTER, Router
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.addresses import endpoint_address


def router_of(catalogue: Catalogue, namespace: str) -> tuple[int, Router]:
    """(version, router) of the namespace, the newest version. Raises Refusal(no_route) if it has none."""
    found = catalogue.latest(Identity("router", namespace, ROUTER))
    if found is None or not isinstance(found[1], Router):
        raise Refusal(
            FailureCode.NO_ROUTE,
            f"it names no endpoint, and namespace {namespace} has no router: call one as "
            "/NAMESPACE/NAME (on Kafka: in the header `endpoint`), or apply a manifest of kind router/v1",
        )
    return found[0], found[1]


def router_at(catalogue: Catalogue, namespace: str, version: int) -> Router:
    """One version of the namespace's router. Raises Refusal(no_route)."""
    found = catalogue.get(Identity("router", namespace, ROUTER), version)
    if not isinstance(found, Router):
        raise Refusal(
            FailureCode.NO_ROUTE,
            f"version {version} of the router of namespace {namespace} was deleted: publish the event again",
        )
    return found


def endpoint_at(catalogue: Catalogue, address: str, *, caller: str) -> tuple[int, Endpoint]:
    """(version, endpoint) by `/NAMESPACE/NAME`, the newest version. Raises Refusal as `called_endpoint` does."""
    _, namespace, name = address.split("/")
    return called_endpoint(catalogue, namespace, name, caller=caller)


def candidates(router: Router, catalogue: Catalogue) -> dict[str, Endpoint]:
    """`/NAMESPACE/NAME` → endpoint: those that are there and that the router's namespace may call, in their order."""
    found: dict[str, Endpoint] = {}
    for one in router.endpoints or _described(router.namespace, catalogue):
        try:
            found[one] = endpoint_at(catalogue, one, caller=router.namespace)[1]
        except Refusal:
            continue  # deleted, or not allowed any more
    return found


class Candidates:
    """The candidates of each router, looked up anew only where the catalogue has changed. Owned by whoever routes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Router, int, dict[str, Endpoint]]] = {}
        """Namespace → its router, the changes of the catalogue by then, and what was found."""

    def of(self, router: Router, catalogue: Catalogue) -> dict[str, Endpoint]:
        """As `candidates`."""
        known = self._known.get(router.namespace)
        if known is not None and known[0] is router and known[1] == catalogue.changes:
            return known[2]
        found = candidates(router, catalogue)
        self._known[router.namespace] = router, catalogue.changes, found
        return found


def _described(namespace: str, catalogue: Catalogue) -> list[str]:
    found = []
    for identity in catalogue.owned("endpoint", namespace):
        latest = catalogue.latest(identity)
        if latest is not None and latest[1].description:
            found.append(endpoint_address(namespace, identity.name))
            if len(found) == MAX_CANDIDATES:
                break
    return found
