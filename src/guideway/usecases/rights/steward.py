"""The steward: makes topics and rights of what teams apply, within their limits, and keeps the audit trail."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Hashable, Iterable, Sequence
from typing import Final

import structlog
from aiokafka.errors import KafkaError

from guideway.catalogue.entries import Catalogue
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.clients.administrator import administrator
from guideway.delivery.connection.cluster import Cluster
from guideway.infra.rights import held
from guideway.infra.rights.keeping import Work, work_for_services, work_on
from guideway.infra.rights.right import Right
from guideway.infra.rights.survey import Survey
from guideway.infra.topic_making import make_topics
from guideway.infra.topic_removal import remove_topics
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Model
from guideway.schemas.names.service_topics import owner_of_catalogue
from guideway.usecases.rights.declared import declared
from guideway.usecases.rights.surveying import surveyed

log = structlog.get_logger(__name__)

_SAID: Final = 20
"""So many rights are named in one line of the log."""
_PAUSE_S: Final = 0.5
"""So soon at the latest it is seen that a catalogue has changed."""


class Steward:
    """One of any number of stewards: what they do, they may do at the same time. `run` returns after `stop`."""

    def __init__(
        self,
        cluster: Cluster,
        reader: CatalogueFollower,
        *,
        replication: int | None = None,
        look_s: float = 30,
        trials_s: float = 3600,
    ) -> None:
        """look_s: seconds between two looks whether somebody has changed topics or rights by hand.

        trials_s: for how many seconds topics of a replay stay that has removed its trials from the catalogue.
        """
        self._trials_s = trials_s
        self._cluster, self._reader = cluster, reader
        self._replication, self._look_s = replication, look_s
        self._stopping = asyncio.Event()
        self._gone: frozenset[Right] = frozenset()
        """Rights that were to be taken away at the last look."""
        self._survey: Survey | None = None
        """Of the last look."""
        self._left_over: dict[str, float] = {}
        """Topic of a trial that is no more → since when."""
        self._refused: dict[tuple[str, str], str] = {}
        """(namespace, endpoint) → why it has no topics, as far as that was said."""

    def writers(self, topic: str) -> tuple[str, ...]:
        """Who may write a namespace's catalogue, or the keys, as of the last look; none where nobody holds rights."""
        if self._survey is None:
            return ()
        namespace = owner_of_catalogue(topic)
        return self._survey.makers_of_keys() if namespace is None else self._survey.space(namespace, ()).team

    def stop(self, within_s: float | None = None) -> None:
        """End `run` after what it is doing now."""
        self._stopping.set()

    async def run(self) -> None:
        """Keep topics and rights until `stop`, whatever fails in between."""
        seen: Hashable = None
        looked_at = float("-inf")
        while not self._stopping.is_set():
            state, now = _state(self._reader.catalogue), time.monotonic()
            if state != seen or now - looked_at >= self._look_s:
                try:
                    await self.keep()
                    seen = state
                except (Refusal, KafkaError, TimeoutError) as error:
                    log.warning("topics and rights cannot be kept; it is tried again", error=_why(error))
                except Exception:
                    # Whatever it is, it must not end this task unseen: nobody would get topics or rights any more.
                    log.exception("topics and rights cannot be kept; it is tried again")
                looked_at = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_S):
                    await self._stopping.wait()

    async def keep(self) -> None:
        """Do once whatever is to be done. Raises: KafkaError; Refusal(not_allowed | broker_unreachable)."""
        catalogue = self._reader.catalogue
        async with administrator(self._cluster) as admin:
            self._survey = survey = await surveyed(admin, with_quotas=False)
            works = [work_for_services([one for _, one in catalogue if isinstance(one, Model)], survey)]
            works += [work_on(declared(catalogue, one), survey) for one in survey.namespaces()]
            # Rights before topics: whoever waits for a topic finds that it may be used.
            if grants := [right for work in works for right in work.grants]:
                await held.grant(admin, grants)
                _say("granted", grants)
            for work in works:
                await self._make_topics(work)
                self._tell_refused(work)
            gone = frozenset(right for work in works for right in work.revocations)
            # A catalogue that is just being read again looks empty: what is gone counts at the second look.
            if certain := sorted(gone & self._gone):
                await held.revoke(admin, certain)
                _say("taken away, for the endpoints were deleted", certain)
            self._gone = gone
        await self._remove_left_over(works)

    async def _remove_left_over(self, works: Iterable[Work]) -> None:
        """Topics of trials, once these have been gone for a while: what was under way is answered by then."""
        now = time.monotonic()
        self._left_over = {topic: self._left_over.get(topic, now) for work in works for topic in work.left_over}
        due = [topic for topic, since in self._left_over.items() if now - since >= self._trials_s]
        if due:
            stay = await remove_topics(self._cluster, due)
            log.info("topics of replays that are over", deleted=sorted({*due} - {*stay}), not_allowed=stay)

    async def _make_topics(self, work: Work) -> None:
        """One namespace's topics must not keep others from theirs."""
        if not work.topics:
            return
        try:
            made = await make_topics(self._cluster, work.topics, replication=self._replication)
            log.info("created topics", namespace=work.namespace, topics=made.created)
        except (Refusal, KafkaError) as error:
            log.error("topics cannot be created", namespace=work.namespace, error=_why(error))

    def _tell_refused(self, work: Work) -> None:
        said = {key: why for key, why in self._refused.items() if key[0] != work.namespace or key[1] in work.refused}
        for endpoint, why in work.refused.items():
            if said.get((work.namespace, endpoint)) != why:
                log.warning(
                    "an endpoint or a target does not get all of its topics",
                    namespace=work.namespace,
                    name=endpoint,
                    why=why,
                )
            said[work.namespace, endpoint] = why
        self._refused = said


def _say(what: str, rights: Sequence[Right]) -> None:
    """One line for each principal."""
    for principal in dict.fromkeys(one.principal for one in rights):
        found = [str(one).partition(": ")[2] for one in rights if one.principal == principal]
        log.info(what, principal=principal, count=len(found), rights=found[:_SAID])


def _state(catalogue: Catalogue) -> Hashable:
    """What topics and rights depend on."""
    return tuple(_versions(catalogue))


def _versions(catalogue: Catalogue) -> Iterable[tuple[str, int]]:
    for identity in catalogue.identities():
        if identity.kind in ("endpoint", "model", "namespace", "target"):
            yield str(identity), max(catalogue.versions(identity))


def _why(error: Exception) -> str:
    return error.message if isinstance(error, Refusal) else repr(error)
