"""What a namespace, or our services, need on a cluster: planned, and made or handed out to be printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient

from guideway.catalogue.entries import Catalogue
from guideway.delivery.clients.administrator import administrator
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.rights import held
from guideway.infra.rights.keeping import Within, with_declared, within_limits
from guideway.infra.rights.right import Right, require_principal, user_of
from guideway.infra.rights.services import service_rights
from guideway.infra.rights.setup import USUAL, Quota, Setup
from guideway.infra.rights.spaces import Services, Space, fixed_topics, space_rights
from guideway.infra.rights.survey import Survey
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Model
from guideway.schemas.names.addresses import NAME, PUBLIC, RESERVED_ENDPOINTS, RESERVED_NAMESPACES
from guideway.schemas.names.topics import REQUESTS, reply_topic
from guideway.usecases.rights.declared import declared
from guideway.usecases.rights.surveying import catalogue_if_any, endpoints_of, sizes_of, surveyed

NOWHERE: Final = Survey(topics={}, rights=(), quotas={})
"""What is found where there is no cluster to ask: nothing."""


@dataclass(frozen=True)
class Wanted:
    """What somebody asks for, for one namespace."""

    namespace: str
    team: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    reply_addresses: tuple[str, ...] = ()
    """NAME of each further topic `gw.NAMESPACE.NAME.out.v1`."""
    quota: Quota | None = None
    """For its principals, in the place of what they have. None: the usual one for those that have none."""


@dataclass(frozen=True)
class Made:
    """What was done."""

    topics: tuple[str, ...]
    rights: tuple[Right, ...]
    quotas: Mapping[str, Quota]
    holds_rights: bool
    """Whether the cluster holds rights; without it, everybody may do everything."""
    space: Space | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    """Endpoint, or target that is none → why it does not get all of its topics."""


def require_namespace(name: str) -> None:
    """Raises Refusal(invalid_setting) for what can be no namespace."""
    if NAME.fullmatch(name) is None:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{name[:80]!r} can be no namespace: write 1 to 63 of a-z, 0-9 and hyphens, no hyphen first or last",
        )
    if name in RESERVED_NAMESPACES:
        raise Refusal(FailureCode.INVALID_SETTING, f"namespace {name!r} is reserved: choose another")


def check(wanted: Wanted, services: Services) -> None:
    """Raises Refusal(invalid_setting) for what should not be made."""
    require_namespace(wanted.namespace)
    for one in (*wanted.team, *wanted.callers):
        require_principal(one)
        if one in services.all:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{one} is a service of ours: a team that logs in as it could do whatever the service may; give the "
                "team a user of its own",
            )
    if both := sorted({*wanted.team} & {*wanted.callers}):
        raise Refusal(
            FailureCode.INVALID_SETTING, f"{both[0]} is named as --principal and as --caller: a principal may call"
        )
    for name in wanted.reply_addresses:
        if NAME.fullmatch(name) is None or name in RESERVED_ENDPOINTS:
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"{name[:80]!r} can be no reply address: write NAME of gw.{wanted.namespace}.NAME.out.v1",
            )


def planned(wanted: Wanted, survey: Survey, within: Within, services: Services) -> tuple[Space, Setup]:
    """The namespace as it is to be, and all that it needs, whether it is there already or not. Pure."""
    endpoints = within.endpoints
    found = survey.space(wanted.namespace, [one.name for one in endpoints])
    team = tuple(dict.fromkeys([*found.team, *wanted.team]))
    space = Space(
        wanted.namespace,
        team=team,
        callers=tuple(one for one in dict.fromkeys([*found.callers, *wanted.callers]) if one not in team),
        endpoints=found.endpoints,
        deleted=found.deleted,
        reply_addresses=tuple(
            dict.fromkeys([*found.reply_addresses, *wanted.reply_addresses, *sorted(within.targets)])
        ),
        partial=tuple(dict.fromkeys([*found.partial, *sorted(within.partial)])),
        leaves=found.leaves or any(one.leaves for one in endpoints),
    )
    quotas = {}
    for principal in (*space.team, *space.callers):
        if wanted.quota is not None and principal in (*wanted.team, *wanted.callers):
            quotas[principal] = wanted.quota
        elif not survey.quotas.get(user_of(principal)):
            quotas[principal] = USUAL
    return space, Setup(tuple(_topics(space, within)), tuple(space_rights(space, services)), quotas)


def _targets(endpoints: Iterable[Endpoint], known: Sequence[str]) -> list[str]:
    return sorted({to for one in endpoints for to in one.own_targets if to not in known})


def _topics(space: Space, within: Within) -> list[topics.TopicDefinition]:
    own = [one for one in within.of(topics.wanted(within.endpoints)) if one.name.startswith(f"gw.{space.name}.")]
    addresses = [
        topics.TopicDefinition(reply_topic(space.name, one), within.targets.get(one, 1))
        for one in space.reply_addresses
    ]
    by_name = {one.name: one for one in (*addresses, *own, *fixed_topics(space.name))}
    return sorted(by_name.values(), key=lambda one: one.name)


def services_planned(services: Services, survey: Survey, catalogue: Catalogue) -> Setup:
    """All that our services need, on the topics of all namespaces too. Pure."""
    rights = service_rights(services, sizes_of(catalogue))
    for namespace in dict.fromkeys([PUBLIC, *survey.namespaces()]):
        endpoints = endpoints_of(catalogue, namespace)
        space = survey.space(namespace, [one.name for one in endpoints])
        ours = Space(
            namespace,
            endpoints=space.endpoints,
            deleted=space.deleted,
            reply_addresses=(*space.reply_addresses, *_targets(endpoints, space.endpoints)),
            partial=with_declared(space.partial, endpoints),
            leaves=space.leaves or any(one.leaves for one in endpoints),
        )
        rights += space_rights(ours, services)
    models = [one for _, one in catalogue if isinstance(one, Model)]
    requests = [one for one in topics.wanted(models) if one.name.startswith(REQUESTS)]
    return Setup((*fixed_topics(PUBLIC), *requests), tuple(dict.fromkeys(rights)), {})


async def namespace_setup(cluster: Cluster | None, wanted: Wanted) -> tuple[Space, Setup, Mapping[str, str]]:
    """What `create_namespace` would make, and which endpoints get no topics, and why.

    cluster: None where there is none to ask. Raises Refusal as it does.
    """
    if cluster is None:
        check(wanted, Services())
        return *planned(wanted, NOWHERE, Within(), Services()), {}
    async with administrator(cluster) as admin:
        survey = await surveyed(admin)
    check(wanted, survey.services)
    within = within_limits(declared(await catalogue_if_any(cluster), wanted.namespace), survey)
    return *planned(wanted, survey, within, survey.services), within.refused


async def create_namespace(cluster: Cluster, wanted: Wanted, *, replication: int | None = None) -> Made:
    """Make the topics of a namespace, give the rights, set the quotas; what is there already stays.

    Raises Refusal: invalid_setting, not_allowed, broker_unreachable.
    """
    space, setup, refused = await namespace_setup(cluster, wanted)
    async with administrator(cluster) as admin:
        survey = await surveyed(admin)
        made = await _make(cluster, admin, setup, survey, replication, space)
    return replace(made, refused=refused)


async def services_setup(cluster: Cluster | None, services: Services | None) -> Setup:
    """What `create_services` would make. services: None for those that the cluster knows. Raises Refusal."""
    for one in services.all if services is not None else ():
        require_principal(one)
    if cluster is None:
        return services_planned(services or Services(), NOWHERE, Catalogue())
    async with administrator(cluster) as admin:
        survey = await surveyed(admin)
    return services_planned(services or survey.services, survey, await catalogue_if_any(cluster))


async def create_services(cluster: Cluster, services: Services | None, *, replication: int | None = None) -> Made:
    """Make the platform's topics, and give our services their rights. Raises Refusal as `create_namespace`."""
    setup = await services_setup(cluster, services)
    async with administrator(cluster) as admin:
        return await _make(cluster, admin, setup, await surveyed(admin), replication, None)


async def _make(
    cluster: Cluster,
    admin: AIOKafkaAdminClient,
    setup: Setup,
    survey: Survey,
    replication: int | None,
    space: Space | None,
) -> Made:
    """Rights before topics: whoever waits for a topic finds that it may be used."""
    lacking = [] if survey.rights is None else survey.held.missing(setup.rights)
    await held.grant(admin, lacking)
    if survey.rights is not None:
        for principal, quota in setup.quotas.items():
            await held.set_quotas(admin, user_of(principal), quota.in_kafkas_words())
    applied = await make_topics(cluster, setup.topics, replication=replication)
    return Made(
        topics=applied.created,
        rights=tuple(lacking),
        quotas={} if survey.rights is None else dict(setup.quotas),
        holds_rights=survey.rights is not None,
        space=space,
    )
