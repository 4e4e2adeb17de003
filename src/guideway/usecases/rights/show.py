"""What a namespace has on a cluster, and what it lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.limits import artefacts_of, limits_of, said, used_of
from guideway.delivery.clients.administrator import administrator
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.rights.keeping import Work, work_on
from guideway.infra.rights.right import user_of
from guideway.infra.rights.spaces import Space
from guideway.infra.rights.survey import Survey
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.names.addresses import endpoint_address
from guideway.schemas.services.usage import Used
from guideway.usecases.rights.create import require_namespace
from guideway.usecases.rights.declared import declared
from guideway.usecases.rights.surveying import catalogue_if_any, surveyed
from guideway.usecases.rights.usage import used_now


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Of one limit of a namespace."""

    used: int | None
    """None: it is not known, for no service tells it, or nobody counts it without a limit."""
    limit: int | None
    """None: there is none."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One namespace."""

    namespace: str
    team: tuple[str, ...]
    callers: tuple[str, ...]
    endpoints: tuple[str, ...]
    """In its catalogue."""
    reply_addresses: tuple[str, ...]
    topics: int
    partitions: int
    quotas: Mapping[str, Mapping[str, float]]
    """Principal → quota in Kafka's words → value."""
    limits: str
    uses: Mapping[str, Use]
    """Limit → how much of it is used, of the limits that are of an amount; empty where all namespaces are shown."""
    lacks: tuple[str, ...]
    """Topics and rights that are missing, in words."""
    left_over: tuple[str, ...]
    """Rights that a steward takes away: to write to endpoints that were deleted."""
    holds_rights: bool


OF_AN_AMOUNT: Final = (
    *("endpoints", "partitions", "store_bytes"),
    *("requests_per_minute", "tokens_per_minute", "cancellations_per_minute", "waiting", "reply_addresses", "rows"),
)
"""Limits of which a part may be used."""
_COUNTED_ANYWAY: Final = frozenset({"waiting", "rows"})


async def namespaces(cluster: Cluster) -> list[Shown]:
    """All namespaces. Raises Refusal(not_allowed | broker_unreachable)."""
    async with administrator(cluster) as admin:
        survey = await surveyed(admin)
    catalogue = await catalogue_if_any(cluster)
    return [_shown(one, survey, catalogue) for one in survey.namespaces()]


async def namespace(cluster: Cluster, name: str, store: ArtefactStore) -> Shown:
    """One namespace. Raises Refusal: as `namespaces`; invalid_setting where there is no such one."""
    require_namespace(name)
    async with administrator(cluster) as admin:
        survey = await surveyed(admin)
    if name not in (there := survey.namespaces()):
        raise Refusal(
            FailureCode.INVALID_SETTING, f"{cluster} has no namespace {name}, only {', '.join(there) or 'none'}"
        )
    catalogue = await catalogue_if_any(cluster)
    told = await used_now(cluster)
    stored = await asyncio.to_thread(_stored, catalogue, name, store)
    known = used_of(catalogue, name) | ({} if stored is None else {"store_bytes": stored})
    shown = _shown(name, survey, catalogue)
    return msgspec.structs.replace(shown, uses=uses(limits_of(catalogue, name), known, told))


def uses(limits: Namespace, known: Mapping[str, int], told: Mapping[str, Used] | None) -> dict[str, Use]:
    """Limit → how much of it is used. Pure.

    known: what is known without services. told: by services, of all namespaces that use anything; None: nothing.
    """
    found = {}
    used = msgspec.structs.asdict(told.get(limits.name, Used())) if told is not None else {}
    for name in OF_AN_AMOUNT:
        limit = getattr(limits, name)
        counted = known.get(name, used.get(name) if limit is not None or name in _COUNTED_ANYWAY else None)
        found[name] = Use(used=counted, limit=limit)
    return found


def _stored(catalogue: Catalogue, name: str, store: ArtefactStore) -> int | None:
    """Bytes of a namespace's artefacts; None where the store cannot be read from here."""
    try:
        return store.of(name).held_bytes(artefacts_of(catalogue, name))
    except (Refusal, OSError):
        return None


def _shown(name: str, survey: Survey, catalogue: Catalogue) -> Shown:
    wanted = declared(catalogue, name)
    endpoints = tuple(sorted(one.name for one in wanted.endpoints))
    space, work = survey.space(name, endpoints), work_on(wanted, survey)
    own = [count for topic, count in survey.topics.items() if topic.startswith(f"gw.{name}.")]
    return Shown(
        namespace=name,
        team=space.team,
        callers=space.callers,
        endpoints=endpoints,
        reply_addresses=space.reply_addresses,
        topics=len(own),
        partitions=sum(own),
        quotas=_quotas(space, survey),
        limits=said(limits_of(catalogue, name), used_of(catalogue, name)),
        uses={},
        lacks=tuple(_lacking(work)),
        left_over=tuple(map(str, work.revocations)),
        holds_rights=survey.rights is not None,
    )


def _quotas(space: Space, survey: Survey) -> dict[str, Mapping[str, float]]:
    people = (*space.team, *space.callers)
    return {one: survey.quotas[user_of(one)] for one in people if user_of(one) in survey.quotas}


def _lacking(work: Work) -> list[str]:
    refused = [f"{endpoint_address(work.namespace, one)}: {why}" for one, why in work.refused.items()]
    return [*(f"topic {one.name}" for one in work.topics), *map(str, work.grants), *refused]
