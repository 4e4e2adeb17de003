"""What a steward does next: topics and rights that catalogues ask for and namespaces may have. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from guideway.infra import topics
from guideway.infra.rights.right import Right
from guideway.infra.rights.services import service_rights
from guideway.infra.rights.spaces import Space, fixed_topics, space_rights
from guideway.infra.rights.survey import Survey
from guideway.infra.topics import TopicDefinition
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.targets import Target
from guideway.schemas.manifests import Endpoint, Model
from guideway.schemas.names.addresses import PUBLIC, is_trial
from guideway.schemas.names.topics import REQUESTS, event_topic, partial_topic, reply_topic, trial_topics

MOST_ENDPOINTS: Final = 100
MOST_PARTITIONS: Final = 400
"""Of a namespace without limits of its own: beyond them no topics are made, for the cluster has room for so many."""


class Declared(msgspec.Struct, frozen=True):
    """What the catalogue says of one namespace."""

    namespace: str
    endpoints: Sequence[Endpoint]
    """The newest version of each."""
    unread: Collection[str] = frozenset()
    """Endpoints with a version that this program cannot read: nothing is taken from them."""
    limits: Namespace | None = None
    targets: Sequence[Target] = ()


class Work(msgspec.Struct, frozen=True):
    """What is to be done for one namespace, in this order; and what is not done for it."""

    namespace: str
    grants: Sequence[Right]
    topics: Sequence[TopicDefinition]
    """Those that are missing."""
    revocations: Sequence[Right]
    """Rights to write events to endpoints that are no more, and all on topics that are no more either."""
    refused: Mapping[str, str]
    """Endpoint, or target that is none → why it does not get all of its topics."""
    left_over: Sequence[str] = ()
    """Topics of trials that are no more: nothing is asked there, and soon nothing is answered."""


class Within(msgspec.Struct, frozen=True):
    """What a namespace may have of what it declares."""

    endpoints: Sequence[Endpoint] = ()
    targets: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Target that is no endpoint and has, or gets, a reply topic → partitions of a new one."""
    partial: Collection[str] = frozenset()
    """Endpoints that have, or get, a topic of pieces."""
    left_out: Collection[str] = frozenset()
    """Topics that are not made."""
    refused: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Endpoint, or target that is none → why it does not get all of its topics."""

    def of(self, definitions: Iterable[TopicDefinition]) -> list[TopicDefinition]:
        """Those of these topics that may be made."""
        return [one for one in definitions if one.name not in self.left_out]


def work_on(declared: Declared, survey: Survey) -> Work:
    """What one namespace needs. A namespace that nobody has made is not made."""
    namespace = declared.namespace
    within = within_limits(declared, survey)
    kept = {*(one.name for one in within.endpoints), *declared.unread}
    space = survey.space(namespace, kept)
    vanished = set(survey.endpoints_with_rights(namespace)) - kept - {*space.deleted}
    space = msgspec.structs.replace(
        space,
        reply_addresses=tuple(dict.fromkeys([*space.reply_addresses, *sorted(within.targets)])),
        partial=tuple(dict.fromkeys([*space.partial, *sorted(within.partial)])),
        leaves=space.leaves or any(one.leaves for one in within.endpoints),
    )
    wanted = space_rights(space, survey.services)
    definitions = [*topics.wanted([*within.endpoints, *declared.targets]), *fixed_topics(namespace)]
    ours = [one for one in definitions if one.name.startswith(f"gw.{namespace}.") or namespace == PUBLIC]
    return Work(
        namespace,
        grants=[] if survey.rights is None else survey.held.missing(wanted),
        topics=[one for one in {one.name: one for one in within.of(ours)}.values() if one.name not in survey.topics],
        revocations=_of_the_gone(space, [*space.deleted, *sorted(vanished)], wanted, survey),
        refused=within.refused,
        left_over=_of_trials([*space.deleted], declared, survey),
    )


def work_for_services(models: Sequence[Model], survey: Survey) -> Work:
    """What our services need whatever namespaces there are."""
    sizes = sorted({one.name for one in models})
    wanted = service_rights(survey.services, sizes)
    lanes = [one for one in topics.wanted(models) if one.name.startswith(REQUESTS)]
    return Work(
        PUBLIC,
        grants=[] if survey.rights is None else survey.held.missing(wanted),
        topics=[one for one in lanes if one.name not in survey.topics],
        revocations=[],
        refused={},
    )


def within_limits(declared: Declared, survey: Survey) -> Within:
    """What a namespace may have. Without limits of its own: topics up to MOST_ENDPOINTS and MOST_PARTITIONS.

    Topics of its endpoints come first, those with topics before the others by name; then those beside them: of pieces,
    and of targets. What is there counts, also what nobody declares any more: topics stay. Topics beside endpoints that
    are there stay whatever the limit, and keep no endpoint from its events that has its topics.
    """
    limits = declared.limits
    partitions = _of_the_deleted(declared, survey)
    beside = _beside(declared, survey)
    within: list[Endpoint] = []
    refused: dict[str, str] = {}
    for one in sorted(declared.endpoints, key=lambda one: (_event_topic(one) not in survey.topics, one.name)):
        wanted = survey.topics.get(_event_topic(one), one.partitions)
        taken = partitions + (0 if _event_topic(one) in survey.topics else beside)
        if limits is not None and limits.endpoints is not None and len(within) >= limits.endpoints:
            refused[one.name] = (
                f"namespace {declared.namespace} may have {limits.endpoints} endpoints: delete one, or ask whoever "
                "runs the cluster for more"
            )
        elif limits is not None and limits.partitions is not None and taken + wanted > limits.partitions:
            refused[one.name] = _no_partitions(declared.namespace, limits.partitions, taken, "this one", wanted)
        elif _beyond_the_usual(one, limits, len(within), taken + wanted, survey):
            refused[one.name] = (
                f"namespace {declared.namespace} has no limits of its own, and topics are then made for "
                f"{MOST_ENDPOINTS} endpoints with {MOST_PARTITIONS} partitions: whoever runs the cluster gives it "
                "limits with a manifest of kind namespace/v1 (`endpoints`, `partitions`)"
            )
        else:
            within.append(one)
            partitions += wanted
    return _with_beside(declared, within, partitions + beside, refused, survey)


def _with_beside(
    declared: Declared, endpoints: Sequence[Endpoint], partitions: int, refused: Mapping[str, str], survey: Survey
) -> Within:
    """These endpoints with what they may have beside them. partitions: those that are taken."""
    namespace = declared.namespace
    replies = {to: one.partitions for one in endpoints for to in one.own_targets}
    replies |= {one.name: one.partitions for one in declared.targets}
    targets = replies.keys() - {*(one.name for one in endpoints), *declared.unread}
    wanted = {_pieces_topic(one): (one.name, "its topic of pieces", one.partitions) for one in endpoints if one.partial}
    wanted |= {reply_topic(namespace, one): (one, f"target {one}", replies[one]) for one in targets}
    beyond: dict[str, str] = {}
    left_out: set[str] = set()
    most = _most_partitions(declared)
    for topic in sorted(wanted.keys() - survey.topics.keys(), key=lambda one: wanted[one][:2]):
        name, what, needed = wanted[topic]
        if most is not None and partitions + needed > most:
            left_out.add(topic)
            beyond[name] = _no_partitions(namespace, most, partitions, what, needed)
        else:
            partitions += needed
    return Within(
        endpoints,
        targets={one: replies[one] for one in targets if reply_topic(namespace, one) not in left_out},
        partial={one.name for one in endpoints if one.partial and _pieces_topic(one) not in left_out},
        left_out=left_out,
        refused={**beyond, **refused},
    )


def _no_partitions(namespace: str, most: int, taken: int, what: str, needed: int) -> str:
    return (
        f"namespace {namespace} may have {most} partitions, {taken} are taken (also by topics of endpoints that were "
        f"deleted) and {what} needs {needed}: lower `partitions`, or ask whoever runs the cluster for more, or to "
        "delete topics; those of targets and of pieces count too"
    )


def _most_partitions(declared: Declared) -> int | None:
    limits = declared.limits
    if limits is not None and limits.partitions is not None:
        return limits.partitions
    return None if declared.namespace == PUBLIC else MOST_PARTITIONS


def _of_the_deleted(declared: Declared, survey: Survey) -> int:
    """The partitions of the events of endpoints that are no more."""
    gone = {*survey.endpoints_with_topics(declared.namespace)} - {one.name for one in declared.endpoints}
    return sum(survey.topics[event_topic(declared.namespace, one)] for one in gone)


def _beside(declared: Declared, survey: Survey) -> int:
    """The partitions of topics that are there beside those of endpoints: of pieces, and replies that are of none."""
    namespace = declared.namespace
    replies = [reply_topic(namespace, one) for one in survey.reply_addresses(namespace)]
    pieces = [partial_topic(namespace, one) for one in survey.partial(namespace)]
    return sum(survey.topics[one] for one in (*replies, *pieces))


def _beyond_the_usual(
    endpoint: Endpoint, limits: Namespace | None, endpoints: int, partitions: int, survey: Survey
) -> bool:
    if endpoint.namespace == PUBLIC or _event_topic(endpoint) in survey.topics:
        return False
    many = (limits is None or limits.endpoints is None) and endpoints >= MOST_ENDPOINTS
    return many or ((limits is None or limits.partitions is None) and partitions > MOST_PARTITIONS)


def with_declared(partial: Sequence[str], endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
    """The names with a topic of pieces, and those of the endpoints that are to have one."""
    return tuple(dict.fromkeys([*partial, *sorted(one.name for one in endpoints if one.partial)]))


def _of_trials(deleted: Sequence[str], declared: Declared, survey: Survey) -> list[str]:
    """The topics of the trials among these."""
    there = {one.name for one in declared.endpoints}
    trials = [one for one in deleted if is_trial(one) and one not in there]
    topics_ = [topic for one in trials for topic in trial_topics(declared.namespace, one)]
    return [topic for topic in topics_ if topic in survey.topics]


def _pieces_topic(endpoint: Endpoint) -> str:
    return partial_topic(endpoint.namespace, endpoint.name)


def _event_topic(endpoint: Endpoint) -> str:
    return event_topic(endpoint.namespace, endpoint.name)


def _of_the_gone(space: Space, gone: Sequence[str], wanted: Sequence[Right], survey: Survey) -> list[Right]:
    """Rights of ours that these endpoints had and are not wanted any more. What others were granted by hand stays."""
    if not gone or survey.rights is None:
        return []
    once = msgspec.structs.replace(space, endpoints=(*space.endpoints, *gone), deleted=())
    return sorted({*space_rights(once, survey.services)} & survey.held.exactly - {*wanted})
