"""Carries out the shadows that endpoints declare, for as long as it runs. Any number may run.

What is known of a shadow stands in Kafka only: in the catalogue what is compared, on `gw.NAMESPACE.shadows.v1` the rows
and how far it is, in the offsets of its group which events are read. So a process may be killed at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
from collections.abc import Collection
from typing import Final

import msgspec
import structlog
from aiokafka.errors import KafkaError

from guideway.catalogue.entries import Catalogue
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import Overtaken
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.services.shadow import ShadowState
from guideway.settings import Settings
from guideway.training.replays.answers import SIDES
from guideway.usecases.extras import importing
from guideway.usecases.replay.folder import Plan
from guideway.usecases.replay.run import apply_trials, remove_trials
from guideway.usecases.replay.trial import trial_name
from guideway.usecases.shadows import ending
from guideway.usecases.shadows.book import Endpoints
from guideway.usecases.shadows.decision import (
    Begin,
    Follow,
    Judge,
    NotePromoted,
    Rest,
    Step,
    Stop,
    next_step,
)
from guideway.usecases.shadows.declared import Idle, all_declared, declared, digest_of, present
from guideway.usecases.shadows.following import Following
from guideway.usecases.shadows.notes import Notes, now_ms
from guideway.usecases.shadows.pen import Pen

log = structlog.get_logger(__name__)

IN_FLIGHT: Final = 8
_LOOK_S: Final = 1.0
_REST_S: Final = 5.0
"""After brokers that do not answer, or trials."""
_LOOKS_AGAIN: Final = 60
"""After what the catalogue refuses, where it does not change."""
_CROWD_S: Final = 1.0
"""Several processes see at the same time that a shadow is full: most of them should see that it has ended."""


class ShadowService:
    """One of any number. `run` returns after `stop`; what it has at hand, others go on with."""

    def __init__(
        self,
        settings: Settings,
        namespaces: Collection[str] = (),
        *,
        in_flight: int = IN_FLIGHT,
        look_s: float = _LOOK_S,
    ) -> None:
        """namespaces: whose shadows; none: those of all that it may read. in_flight: events of each
        shadow at a time that it asks."""
        self._settings, self._only, self._most, self._look_s = settings, frozenset(namespaces), in_flight, look_s
        self._cluster = settings.cluster()
        self._stopping = asyncio.Event()
        self._notes = Notes(self._cluster, self._only)
        self._declared: dict[Endpoints, Plan | Idle | None] = {}
        self._looked_at = -1
        self._catalogue: CatalogueFollower
        self._kept: dict[Endpoints, asyncio.Task[None]] = {}

    def stop(self, within_s: float | None = None) -> None:
        """End `run`. What is under way stays in Kafka."""
        self._stopping.set()

    async def run(self) -> None:
        """Carry out shadows until `stop`. Raises Refusal(broker_unreachable | invalid_setting) at the start."""
        with importing("studio"):
            # What compares is needed at the end of each shadow, perhaps in days.
            importlib.import_module("guideway.training.replays.comparison")
        async with CatalogueFollower(self._cluster) as self._catalogue, self._notes.followed():
            try:
                while not self._stopping.is_set():
                    self._keep()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._look_s):
                            await self._stopping.wait()
            finally:
                for task in self._kept.values():
                    task.cancel()
                await asyncio.gather(*self._kept.values(), return_exceptions=True)

    # Each endpoint by itself -----------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Have a task at work for each endpoint of which there is something to do."""
        self._look()
        for endpoint in {*self._declared, *self._notes.book.endpoints()}:
            task = self._kept.get(endpoint)
            if (task is None or task.done()) and not isinstance(self._step(*endpoint), Rest):
                name = f"shadow of /{'/'.join(endpoint)}"
                self._kept[endpoint] = asyncio.create_task(self._see_to(*endpoint), name=name)

    def _look(self) -> None:
        """Have in `_declared` what the catalogue says now."""
        catalogue = self._catalogue.catalogue
        if self._looked_at != catalogue.changes:
            self._looked_at = catalogue.changes
            self._declared = all_declared(catalogue, self._only)

    def _step(self, namespace: str, name: str) -> Step:
        self._look()
        what, state = self._declared.get((namespace, name)), self._notes.state(namespace, name)
        rows = self._notes.rows(namespace, name, state.shadow if state is not None else "")
        return next_step(self._catalogue.catalogue, namespace, name, what, state, rows)

    async def _see_to(self, namespace: str, name: str) -> None:
        """Until there is nothing to do any more. Whatever fails is tried again."""
        while not isinstance(step := self._step(namespace, name), Rest):
            try:
                if isinstance(step, Follow):
                    await self._follow(namespace, name, step.plan)
                else:
                    await asyncio.sleep(random.uniform(0, _CROWD_S))
                    await self._settle(namespace, name)
                continue
            except Overtaken:
                log.info("another process writes of the shadows", namespace=namespace)
            except (Refusal, KafkaError, TimeoutError) as error:
                said = error.message if isinstance(error, Refusal) else repr(error)
                log.warning("a shadow is held up", endpoint=f"/{namespace}/{name}", why=said)
                await self._notes.tell(namespace, name, said)
                if isinstance(error, Refusal) and error.code is not FailureCode.BROKER_UNREACHABLE:
                    await self._changed()
            except Exception:
                log.exception("a shadow failed; it is tried again", endpoint=f"/{namespace}/{name}")
            await asyncio.sleep(_REST_S)

    async def _changed(self) -> None:
        """Until the catalogue changes, or a minute: each try takes the right to write from others."""
        seen = self._catalogue.catalogue.changes
        for _ in range(_LOOKS_AGAIN):
            if self._catalogue.catalogue.changes != seen:
                return
            await asyncio.sleep(_LOOK_S)

    async def _follow(self, namespace: str, name: str, plan: Plan) -> None:
        def require(there: Catalogue) -> None:
            what = declared(there, namespace, name)
            if not isinstance(what, Plan) or what.id != plan.id:
                raise Refusal(
                    FailureCode.INVALID_SETTING, f"{plan.question.address} has changed: it is looked at again"
                )

        def is_over() -> bool:
            now = self._step(namespace, name)
            return not (isinstance(now, Follow) and now.plan.id == plan.id)

        state = self._notes.state(namespace, name)
        assert state is not None, "what has begun has a state"
        versions = await apply_trials(self._settings, plan, require=require)
        following = Following(
            self._cluster,
            plan,
            state.begun_ms,
            self._most,
            lambda key: self._notes.rows(namespace, name, plan.id).has(key),
            lambda trouble: self._notes.tell(namespace, name, trouble),
        )
        await self._notes.tell(namespace, name, "")
        if why := await following.run(versions, is_over):
            raise Refusal(FailureCode.INVALID_SETTING, why)
        await self._notes.current()
        there = self._notes.state(namespace, name)
        if there is not None and there.stage == "ended":
            # Another process ended it while the trials were applied here: nobody else would remove them.
            await self._remove_trials(namespace, name, there)

    # What is said of it ----------------------------------------------------------------------------------------------

    async def _settle(self, namespace: str, name: str) -> None:
        """Do what is to be done next, and say so; by what the topics hold at this moment, and with the pen in hand."""
        await self._notes.require_topic(namespace)
        async with self._notes.pen(namespace) as pen:
            await self._catalogue.current()
            await self._do(namespace, name, pen)

    async def _do(self, namespace: str, name: str, pen: Pen) -> None:
        step, state = self._step(namespace, name), self._notes.state(namespace, name)
        match step:
            case Begin(plan):
                # Rows of another that came after its end.
                await self._notes.write(pen, namespace, name, ending.begun(plan, now_ms()), clear=True)
                log.info("a shadow begins", shadow=plan.id, changes=plan.question.changes)
            case Judge(plan, early):
                assert state is not None, "what has begun has a state"
                await self._judge(namespace, name, plan, early, state, pen)
            case NotePromoted(version):
                assert state is not None, "what has begun has a state"
                await self._end(pen, namespace, name, ending.promoted_state(state, now_ms(), version))
            case Stop(why):
                assert state is not None, "what has begun has a state"
                await self._end(pen, namespace, name, ending.ended(state, now_ms(), None, "", why))

    async def _judge(self, namespace: str, name: str, plan: Plan, early: str, state: ShadowState, pen: Pen) -> None:
        rows = self._notes.rows(namespace, name, plan.id)
        figures, why = await ending.compared(plan, list(rows))
        if early or why or state.promote == "never":
            await self._end(pen, namespace, name, ending.ended(state, now_ms(), figures, why, early))
            return
        # The version says what the candidate takes the place of: whatever came since was somebody's.
        about = msgspec.structs.replace(
            state, stage="promoting", at_ms=now_ms(), version=plan.question.version, figures=figures, trouble=""
        )
        await self._notes.write(pen, namespace, name, about)
        version, why = await ending.promote(self._settings, plan)
        if version is None:
            await self._end(pen, namespace, name, ending.ended(about, now_ms(), figures, why, ""))
        else:
            await self._end(pen, namespace, name, ending.promoted_state(about, now_ms(), version))

    async def _end(self, pen: Pen, namespace: str, name: str, state: ShadowState) -> None:
        await self._remove_trials(namespace, name, state)
        await self._notes.write(pen, namespace, name, state, clear=True)
        log.info("a shadow has ended", shadow=state.shadow, outcome=state.outcome, why=state.why)

    async def _remove_trials(self, namespace: str, name: str, state: ShadowState) -> None:
        await self._catalogue.current()
        # Those of a replay that somebody runs meanwhile stay.
        found = present(self._catalogue.catalogue, namespace, trial_name(name, "new"))
        if found is not None and digest_of(found[1]) == state.becomes:
            await remove_trials(self._settings, namespace, [trial_name(name, side) for side in SIDES])
