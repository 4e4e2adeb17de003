"""The limits of a namespace, as the catalogue has them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from guideway.catalogue.entries import KINDS, Catalogue, Identity
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.retrieval_set import RetrievalSet
from guideway.schemas.kinds.targets import Target
from guideway.schemas.manifests import Endpoint, Guidance


def limits_of(catalogue: Catalogue, namespace: str) -> Namespace:
    """The newest limits of this namespace; without a manifest it has the defaults."""
    found = catalogue.latest(Identity("namespace", "public", namespace))
    if found is not None and isinstance(found[1], Namespace):
        return found[1]
    return _without_limits(namespace)


@lru_cache(maxsize=10_000)
def _without_limits(namespace: str) -> Namespace:
    # Asked for at each event, and to make one costs more than to look it up.
    return Namespace(namespace="public", name=namespace)


def said(limits: Namespace, used: Mapping[str, int] | None = None) -> str:
    """The limits that are set, in one line. used: limit → how much of it is used now, of those that are known."""
    set_ = {name: value for name, value in msgspec.structs.asdict(limits).items() if name not in _NO_LIMIT}
    known = used or {}
    shown = [
        f"{name.replace('_', ' ')} {f'{known[name]:,} of ' if name in known else ''}{value:,}"
        for name, value in set_.items()
        if value is not None
    ]
    return ", ".join([*shown, "beyond it events wait" if limits.over_limit == "wait" else "beyond it they are refused"])


def used_of(catalogue: Catalogue, namespace: str) -> dict[str, int]:
    """How much of its limits a namespace uses, as far as the catalogue tells: endpoints, and partitions."""
    endpoints = _endpoints(catalogue, namespace)
    # Pieces have a topic of their own, as wide as that of the replies.
    own = [one.partitions * (2 if one.partial else 1) for one in endpoints]
    partitions = [*own, *_targets(catalogue, namespace, endpoints).values()]
    return {"endpoints": len(endpoints), "partitions": sum(partitions)}


def _endpoints(catalogue: Catalogue, namespace: str) -> list[Endpoint]:
    found = [catalogue.latest(identity) for identity in catalogue.by_creation("endpoint", namespace)]
    return [latest[1] for latest in found if latest is not None and isinstance(latest[1], Endpoint)]


def _targets(catalogue: Catalogue, namespace: str, endpoints: Sequence[Endpoint]) -> dict[str, int]:
    """The namespace's targets that are no endpoints → their partitions."""
    declared = [catalogue.latest(identity) for identity in catalogue.by_creation("target", namespace)]
    found = {one[1].name: one[1].partitions for one in declared if one is not None and isinstance(one[1], Target)}
    for endpoint in endpoints:
        found |= dict.fromkeys(sorted(endpoint.own_targets - found.keys()), endpoint.partitions)
    return {name: partitions for name, partitions in found.items() if name not in {one.name for one in endpoints}}


_NO_LIMIT = ("namespace", "name", "description", "over_limit")


def beyond(catalogue: Catalogue, namespace: str) -> dict[str, str]:
    """The endpoints that a namespace has beyond its limits: name → why.

    The ones that were created first stay. That the numbers are kept is checked when endpoints are applied, and again by
    the services, since a team may write its catalogue with any program.
    """
    limits = limits_of(catalogue, namespace)
    if limits.endpoints is None and limits.partitions is None and limits.max_tokens is None:
        return {}
    found: dict[str, str] = {}
    count = partitions = 0
    for identity in catalogue.by_creation("endpoint", namespace):
        latest = catalogue.latest(identity)
        assert latest is not None
        endpoint = latest[1]
        assert isinstance(endpoint, Endpoint)
        if why := _too_long(endpoint, limits):
            found[identity.name] = why
        elif limits.endpoints is not None and count >= limits.endpoints:
            found[identity.name] = (
                f"namespace {namespace} may have {limits.endpoints} endpoints, and {count} were created before this "
                f"one: delete one, or {_ASK}"
            )
        elif limits.partitions is not None and partitions + endpoint.partitions > limits.partitions:
            found[identity.name] = (
                f"partitions: namespace {namespace} may have {limits.partitions}, {partitions} are those of its other "
                f"endpoints and this one has {endpoint.partitions}: lower `partitions`, or {_ASK}"
            )
        else:
            count, partitions = count + 1, partitions + endpoint.partitions
    return found


def partitions_beyond(before: Catalogue, after: Catalogue, namespace: str) -> str:
    """Why the namespace may not have the partitions that it has `after` and had not `before`; empty: it may.

    Only `apply` and the steward count targets and topics of pieces: they keep no endpoint from its events.
    """
    limit = limits_of(after, namespace).partitions
    had, wanted = (used_of(catalogue, namespace)["partitions"] for catalogue in (before, after))
    if limit is None or wanted <= max(limit, had):
        return ""
    return (
        f"partitions: namespace {namespace} may have {limit}, and its endpoints and targets would have {wanted} "
        f"together: lower `partitions`, name fewer `targets`, have fewer with `partial` (each counts twice), or {_ASK}"
    )


def artefacts_of(catalogue: Catalogue, namespace: str) -> set[str]:
    """The digests of the artefacts of all versions of a namespace's guidance and retrieval sets."""
    found = set()
    for kind in KINDS:
        for identity in catalogue.by_creation(kind, namespace):
            for version in catalogue.versions(identity):
                one = catalogue.get(identity, version)
                if isinstance(one, Guidance | RetrievalSet) and one.artefact:
                    found.add(one.artefact)
    return found


def _too_long(endpoint: Endpoint, limits: Namespace) -> str:
    asked = endpoint.request_generation.max_tokens or 0
    for what, tokens in (("generation", endpoint.generation.max_tokens), ("request_generation", asked)):
        if limits.max_tokens is not None and tokens > limits.max_tokens:
            return (
                f"{what}.max_tokens is {tokens}, and namespace {endpoint.namespace} may have at most "
                f"{limits.max_tokens}: lower it, or {_ASK}"
            )
    return ""


_ASK = "ask the platform for a higher limit"
