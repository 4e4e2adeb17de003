"""A namespace, or one of its principals, taken off a cluster, as far as nothing is lost by it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.structs import TopicPartition

from guideway.catalogue.entries import Catalogue, Identity
from guideway.delivery.clients.administrator import administrator
from guideway.delivery.clients.kafka_client import make_consumer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.rights import held
from guideway.infra.rights.right import Right, user_of
from guideway.infra.rights.setup import Quota
from guideway.infra.rights.spaces import Space, space_rights
from guideway.infra.rights.survey import Survey
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import PUBLIC
from guideway.usecases.rights.create import require_namespace, services_planned
from guideway.usecases.rights.surveying import catalogue_if_any, endpoints_of, surveyed


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be taken away, or was."""

    rights: tuple[Right, ...]
    quotas: tuple[str, ...]
    """Principals whose quotas go: those that belong to no other namespace."""
    topics: tuple[str, ...] = ()
    """Empty ones."""
    kept: tuple[str, ...] = ()
    """Topics that hold records."""


async def removal(cluster: Cluster, namespace: str, principals: Sequence[str], *, topics: bool) -> Removal:
    """What `remove` would take away. principals: of these only, and no topics; none: the whole namespace.

    Raises Refusal: invalid_setting where something stands in the way, which the message says; not_allowed.
    """
    require_namespace(namespace)
    async with administrator(cluster) as admin:
        survey = await surveyed(admin)
    if namespace not in survey.namespaces():
        raise Refusal(FailureCode.INVALID_SETTING, f"there is no namespace {namespace}: `guideway namespaces list`")
    catalogue = await catalogue_if_any(cluster)
    # Endpoints that are deleted have topics, and may have rights.
    known = {
        *(one.name for one in endpoints_of(catalogue, namespace)),
        *survey.endpoints_with_topics(namespace),
        *survey.endpoints_with_rights(namespace),
    }
    space = survey.space(namespace, known)
    if principals:
        return _of_principals(space, survey, principals)
    _require_empty(namespace, catalogue)
    gone = tuple(sorted({*space_rights(space, survey.services)} & survey.held.exactly))
    empty, kept = await _by_content(cluster, namespace, survey) if topics else ([], [])
    people = [*space.team, *space.callers]
    return Removal(rights=gone, quotas=_quotas(people, namespace, survey), topics=tuple(empty), kept=tuple(kept))


async def service_removal(cluster: Cluster, principals: Sequence[str]) -> Removal:
    """The rights of these principals as services of ours: for when nobody logs in as them any more.

    Raises Refusal: invalid_setting for one that is no service, or the last of its kind; not_allowed.
    """
    async with administrator(cluster) as admin:
        survey = await surveyed(admin)
    catalogue = await catalogue_if_any(cluster)
    roles = msgspec.structs.asdict(survey.services)
    for one in principals:
        its = [role for role, known in roles.items() if one in known]
        if not its:
            known = ", ".join(sorted(survey.services.all))
            raise Refusal(FailureCode.INVALID_SETTING, f"{one} is no service of ours, only {known}")
        if alone := [role for role in its if {*roles[role]} <= {*principals}]:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"without {one} nobody could run as {alone[0]}: first name the new one, with `guideway services create "
                f"--{alone[0]} {one} --{alone[0]} User:NEW`",
            )
    rights = [one for one in services_planned(survey.services, survey, catalogue).rights if one.principal in principals]
    return Removal(rights=tuple(sorted({*rights} & survey.held.exactly)), quotas=())


async def remove(cluster: Cluster, planned: Removal) -> None:
    """Take it away. Raises Refusal(not_allowed | broker_unreachable)."""
    async with administrator(cluster) as admin:
        await held.revoke(admin, planned.rights)
        nothing = dict.fromkeys(Quota().in_kafkas_words())
        for principal in planned.quotas:
            await held.set_quotas(admin, user_of(principal), nothing)
        if planned.topics:
            await _delete_topics(admin, planned.topics)


def _of_principals(space: Space, survey: Survey, principals: Sequence[str]) -> Removal:
    for one in principals:
        if one not in (*space.team, *space.callers):
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{one} has no part in namespace {space.name}: `guideway namespaces show {space.name}` says who has",
            )
    theirs = msgspec.structs.replace(space, team=tuple(principals), callers=tuple(principals))
    rights = {one for one in space_rights(theirs, survey.services) if one.principal in principals}
    return Removal(rights=tuple(sorted(rights & survey.held.exactly)), quotas=_quotas(principals, space.name, survey))


def _quotas(people: Sequence[str], namespace: str, survey: Survey) -> tuple[str, ...]:
    others = [survey.space(one, ()) for one in survey.namespaces() if one != namespace]
    elsewhere = {principal for space in others for principal in (*space.team, *space.callers)}
    return tuple(sorted({one for one in people if user_of(one) in survey.quotas} - elsewhere))


def _require_empty(namespace: str, catalogue: Catalogue) -> None:
    """Raises Refusal(invalid_setting)."""
    if namespace == PUBLIC:
        raise Refusal(FailureCode.INVALID_SETTING, "public is the platform's namespace: all others need it")
    entries = [*(Identity.of(one) for _, one in catalogue), *(one.identity for one in catalogue.unread())]
    if own := [str(one) for one in entries if one.namespace == namespace and one.kind != "calibration"]:
        some = ", ".join(own[:5]) + (", …" if len(own) > 5 else "")
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"namespace {namespace} has {len(own)} entries in its catalogue: {some}; delete them first (`guideway "
            "delete KIND NAME`), or take only principals away, with --principal",
        )


async def _by_content(cluster: Cluster, namespace: str, survey: Survey) -> tuple[list[str], list[str]]:
    """(those of its topics that hold nothing, the others)."""
    own = {topic: count for topic, count in survey.topics.items() if topic.startswith(f"gw.{namespace}.")}
    partitions = [TopicPartition(topic, number) for topic, count in own.items() for number in range(count)]
    async with started(make_consumer(cluster, "namespaces"), cluster) as consumer:
        first, end = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    used = {tp.topic for tp in partitions if first[tp] < end[tp]}
    return sorted({*own} - used), sorted(used)


async def _delete_topics(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> None:
    response = await admin.delete_topics(list(topics))
    for topic, code, *_ in response.topic_error_codes:
        error: type[KafkaError] = for_code(code)
        if code:
            raise Refusal(FailureCode.NOT_ALLOWED, f"topic {topic} cannot be deleted: {error.__name__}")
