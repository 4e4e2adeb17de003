"""Where an endpoint's results go beside the caller, as the catalogue has it now. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.targets import Target, Webhook
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.topics import endpoint_of_reply_topic, reply_topic
from guideway.schemas.nearest import did_you_mean
from guideway.schemas.request import ReplyAddress


def target_topic(target: str, namespace: str) -> str:
    """The topic of a target that is a reply topic. target: `NAME` or `/NAMESPACE/NAME`; namespace: of its endpoint."""
    owner, _, name = target.removeprefix("/").rpartition("/")
    return reply_topic(owner or namespace, name)


def copies_to(endpoint: Endpoint, catalogue: Catalogue) -> list[ReplyAddress]:
    """The reply topics on which its results appear as well; those of others as long as these accept them."""
    topics = [target_topic(one, endpoint.namespace) for one in endpoint.topic_targets]
    return [ReplyAddress(topic=one) for one in topics if _accepted(one, endpoint.namespace, catalogue)]


def still_accepted(addresses: Sequence[ReplyAddress], namespace: str, catalogue: Catalogue) -> list[ReplyAddress]:
    """The first address, which is the caller's, and the others as far as they still accept this endpoint's results."""
    return [*addresses[:1], *(one for one in addresses[1:] if _accepted(one.topic, namespace, catalogue))]


def _accepted(topic: str, namespace: str, catalogue: Catalogue) -> bool:
    of = endpoint_of_reply_topic(topic)
    if of is None or of[0] == namespace:
        return of is not None
    found = target_of(catalogue, *of)
    return found is not None and found.accepts(namespace)


def target_of(catalogue: Catalogue, namespace: str, name: str) -> Target | None:
    """The newest version of a `target/v1`, or None."""
    found = catalogue.latest(Identity("target", namespace, name))
    return found[1] if found is not None and isinstance(found[1], Target) else None


def webhook_of(catalogue: Catalogue, namespace: str, name: str) -> tuple[int, Webhook] | None:
    """(version, webhook), the newest version, or None."""
    found = catalogue.latest(Identity("webhook", namespace, name))
    return (found[0], found[1]) if found is not None and isinstance(found[1], Webhook) else None


def targets_of(catalogue: Catalogue, namespace: str) -> list[Target]:
    """All targets of a namespace."""
    found = (target_of(catalogue, namespace, one.name) for one in catalogue.identities("target"))
    return [one for one in found if one is not None and one.namespace == namespace]


def require_target(target: str, namespace: str, catalogue: Catalogue) -> None:
    """Raises Refusal: `unknown_endpoint` for one of the own namespace, `not_allowed` for one of another.

    The latter says the same whether there is no such target or it does not accept this namespace.
    """
    owner, _, name = target.removeprefix("/").rpartition("/")
    if not owner or owner == namespace:
        if target_of(catalogue, namespace, name) is None:
            catalogue.endpoint(namespace, name)
        return
    if not _accepted(target_topic(target, namespace), namespace, catalogue):
        raise Refusal(
            FailureCode.NOT_ALLOWED,
            f"{target} accepts no results of namespace {namespace}, if there is such a target: correct the name, or "
            f"ask {owner} to apply a manifest of kind target/v1 with `accepts_from: [{namespace}]`",
        )


def require_webhook(name: str, namespace: str, catalogue: Catalogue) -> None:
    """Raises Refusal(invalid_manifest) where there is no such webhook."""
    if webhook_of(catalogue, namespace, name) is None:
        here = [one.name for one in catalogue.identities("webhook") if one.namespace == namespace]
        there = f"namespace {namespace} has {', '.join(here[:20])}" if here else "that namespace has none"
        raise Refusal(
            FailureCode.INVALID_MANIFEST,
            f"there is no webhook {namespace}/{name}: {did_you_mean(name, here)}apply a manifest of kind webhook/v1; "
            f"{there}",
        )
