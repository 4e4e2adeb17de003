"""As whom we log in, and which rights are missing for what we are."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Collection, Sequence
from typing import Final, Literal, get_args

import msgspec
from aiokafka.errors import KafkaError

from guideway.catalogue.entries import Catalogue
from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.connection.identity import principal
from guideway.delivery.connection.trouble import Trouble
from guideway.infra.doctor import Check
from guideway.infra.rights.as_commands import acl_command
from guideway.infra.rights.keeping import with_declared
from guideway.infra.rights.mine import lacking, rules_the_cluster
from guideway.infra.rights.right import Right
from guideway.infra.rights.services import service_rights
from guideway.infra.rights.setup import Setup
from guideway.infra.rights.spaces import Services, Space, space_rights
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import PUBLIC
from guideway.schemas.names.service_topics import owner_of_catalogue, results_topic
from guideway.usecases.rights.surveying import catalogue_if_any, endpoints_of, sizes_of

Role = Literal["endpoints", "worker", "trainer", "targets", "steward", "gateway", "batcher", "team", "caller"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
_UNKNOWN: Final = "User:NAME"
"""Where a client cannot know whom the brokers see in it."""
_MANY: Final = 20
"""So many commands are shown."""


class Guess(msgspec.Struct, frozen=True):
    """What somebody probably is."""

    role: Role | None
    """None: whoever may give rights needs none."""
    namespace: str | None = None


async def diagnosed(cluster: Cluster, role: str | None, namespace: str | None) -> tuple[Guess, list[Check]]:
    """As what we log in, as whom, and what is missing. role, namespace: of whom; None: guessed.

    Raises Refusal: invalid_setting for what is no role or needs a namespace; broker_unreachable.
    """
    if role is not None and role not in ROLES:
        raise Refusal(FailureCode.INVALID_SETTING, f"{role[:40]!r} is no role: write one of {', '.join(ROLES)}")
    me = await asyncio.to_thread(principal_of, cluster)
    async with administrator(cluster) as admin:
        visible = frozenset(await partitions_by_topic(admin))
        try:
            free = await rules_the_cluster(admin)
            guess = guessed(me, visible, free=free)
            # What is said goes before what is guessed.
            as_what = role if role is not None else guess.role
            what = Guess(as_what, namespace or (guess.namespace if as_what in ("team", "caller") else None))
            checks = [_of_login(cluster, me, what, said=role is not None)]
            if what.role is None:
                return what, checks
            if what.role in ("team", "caller") and what.namespace is None:
                return what, [*checks, _whose(me, visible)]
            wanted = needed(what.role, what.namespace, me, visible, await catalogue_if_any(cluster))
            return what, [*checks, *_of_rights(cluster, await lacking(admin, wanted, visible), len(wanted), what)]
        except KafkaError as error:
            mend = "try again; look at their log"
            return Guess(None), [Check("rights", False, f"the brokers do not tell: {error!r}", mend)]


def principal_of(cluster: Cluster) -> str:
    """`User:NAME`, as far as a client knows it."""
    try:
        return principal(cluster) or _UNKNOWN
    except Trouble as trouble:
        raise trouble.cause.refusal(cluster) from None


def guessed(me: str, visible: Collection[str], *, free: bool) -> Guess:
    """What `me` is: a service by its name, else the team of the one namespace whose catalogue it sees. Pure."""
    for role, usual in msgspec.structs.asdict(Services()).items():
        if me in usual:
            return Guess(role)  # type: ignore[arg-type]
    if free:
        return Guess(None)
    owners = _owners(visible) - {PUBLIC}
    if len(owners) == 1:
        return Guess("team", owners.pop())
    calls = {one[1] for topic in visible if (one := re.fullmatch(r"gw\.([a-z0-9-]+)\.call\.v1", topic)) is not None}
    return Guess("caller", calls.pop()) if len(calls) == 1 and not owners else Guess("team")


def needed(
    role: Role, namespace: str | None, me: str, visible: Collection[str], catalogue: Catalogue
) -> Sequence[Right]:
    """The rights that `me` needs. namespace: None for those on all namespaces, for a service. Pure."""
    owners = sorted(_owners(visible) | {PUBLIC}) if namespace is None else [namespace]
    found: list[Right] = []
    for owner in owners:
        endpoints = endpoints_of(catalogue, owner)
        space = Space(
            owner,
            team=(me,) if role == "team" else (),
            callers=(me,) if role == "caller" else (),
            endpoints=tuple(sorted(one.name for one in endpoints)),
            partial=with_declared((), endpoints),
            leaves=results_topic(owner) in visible,
        )
        found += space_rights(space, _only(role, me))
    if role not in ("team", "caller"):
        found += service_rights(_only(role, me), sizes_of(catalogue))
    return list(dict.fromkeys(found))


def _only(role: Role, me: str) -> Services:
    nobody = dict.fromkeys(msgspec.structs.asdict(Services()), ())
    return Services(**nobody | ({role: (me,)} if role in nobody else {}))


def _of_login(cluster: Cluster, me: str, what: Guess, *, said: bool) -> Check:
    who = me if me != _UNKNOWN else ("a certificate" if cluster.security.tls is not None else "nobody in particular")
    if cluster.security.login is not None and me == _UNKNOWN:
        who = cluster.security.login.principal
    what_for = f"{what.role}{f' of {what.namespace}' if what.namespace else ''}"
    if what.role is None:
        return Check("login", True, f"as {who}, who may give rights: needs no other")
    return Check("login", True, f"as {who}, {'' if said else 'probably '}{what_for}")


def _whose(me: str, visible: Collection[str]) -> Check:
    say = f"say what you are: `guideway doctor --as ROLE NAMESPACE` ({', '.join(ROLES)})"
    if owners := sorted(_owners(visible) - {PUBLIC}):
        return Check(
            "rights", False, f"the catalogues of {', '.join(owners[:10])} are to be seen: whose team is it?", say
        )
    mend = f"ask an administrator for `guideway namespaces create NAMESPACE --principal {me}`; or {say}"
    return Check("rights", False, "no catalogue of a namespace is to be seen", mend)


def _owners(visible: Collection[str]) -> set[str]:
    return {owner for topic in visible if (owner := owner_of_catalogue(topic)) is not None}


def _of_rights(cluster: Cluster, lacks: Sequence[Right] | None, wanted: int, what: Guess) -> list[Check]:
    if lacks is None:
        return [Check("rights", True, "these brokers do not tell")]
    if not lacks:
        return [Check("rights", True, f"all {wanted} that are needed")]
    login = f"--bootstrap-server {cluster} --command-config admin.properties"
    by_right = Setup((), tuple(lacks), {}).operations()
    lines = [acl_command(one, operations, login) for one, operations in by_right.items()]
    more = [f"… and {len(lines) - _MANY} more"] if len(lines) > _MANY else []
    mend = "\n  ".join([f"an administrator runs `{_ours(lacks[0].principal, what)}`, or:", *lines[:_MANY], *more])
    shown = "; ".join(str(one).partition(": ")[2] for one in lacks[:3]) + ("; …" if len(lacks) > 3 else "")
    return [Check("rights", False, f"{len(lacks)} of {wanted} are missing: {shown}", mend)]


def _ours(principal: str, what: Guess) -> str:
    """The command of ours that grants."""
    match what.role:
        case "team" | "caller":
            flag = "--principal" if what.role == "team" else "--caller"
            return f"guideway namespaces create {what.namespace} {flag} {shlex.quote(principal)}"
        case None:
            return "guideway services create"
    usual = principal in msgspec.structs.asdict(Services())[what.role]
    return "guideway services create" + ("" if usual else f" --{what.role} {shlex.quote(principal)}")
