"""A shadow: a replay whose rows are yet to come. It follows live traffic until there are enough rows, and compares.

Then it promotes the endpoint's candidate, or says why not. It reads live events beside the endpoint service, and does
nothing to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.clients.kafka_client import started
from guideway.delivery.clients.span_reader import SpanReader
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.producers.client.client import Client, split_address
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.clients import client_id
from guideway.settings import Settings
from guideway.training.publishing.decision import CANDIDATE
from guideway.training.publishing.promotion import promoted
from guideway.training.replays.answers import SIDES
from guideway.training.replays.shadow import Outcome, why_not
from guideway.training.runs.folder import locked
from guideway.usecases.apply import apply_made
from guideway.usecases.extras import importing
from guideway.usecases.replay.asking import AllRefused, Asking, Watch
from guideway.usecases.replay.folder import Plan, ReplayFolder, missing
from guideway.usecases.replay.live import LiveRows, Seen, seen_in
from guideway.usecases.replay.run import remove_left_over, trials
from guideway.usecases.replay.trial import trial_of

IN_FLIGHT: Final = 8
"""Fewer than in a replay: it runs beside live traffic for long."""
_LOOK_S: Final = 1.0
_QUIET_LOOKS: Final = 60
_REST_S: Final = 5.0
"""After the brokers did not answer."""


async def carry_out(
    settings: Settings,
    folder: ReplayFolder,
    plan: Plan,
    watch: Watch,
    *,
    in_flight: int = IN_FLIGHT,
    anyway: bool = False,
) -> Path:
    """Follow live traffic until there are enough rows, and then do the rest; returns the report's path.

    Interrupted, it can be called again, and has missed nothing. anyway: also where trials of another are there.
    Raises Refusal: as `apply_made` and `Asking.all_of`; invalid_setting where another process does this already.
    """
    lock = folder.path.with_name(f"{folder.path.name}.lock")
    with locked(lock, f"another process carries out the shadow in {folder.path}"):
        early = await _follow(settings, folder, plan, watch, in_flight=in_flight, anyway=anyway)
        return await _finish(settings, folder, plan, early)


async def _follow(
    settings: Settings, folder: ReplayFolder, plan: Plan, watch: Watch, *, in_flight: int, anyway: bool
) -> str:
    """Returns why it has ended before there were enough rows; empty: it has not."""
    cluster = settings.answering_cluster()
    async with AsyncExitStack() as stack:
        directory = TopicDirectory(cluster, client_id("shadow"))
        await stack.enter_async_context(started(directory, cluster))
        reader = await stack.enter_async_context(SpanReader.connected(cluster, "shadow"))
        catalogue = (await stack.enter_async_context(CatalogueFollower(cluster))).catalogue
        live = LiveRows(folder, plan, cluster, reader, directory)
        await live.begin()
        there = folder.answers()
        watch.begun(len(there), 2 * plan.rows)
        left = missing(plan, folder.rows(), there)
        is_done = live.is_full and not left
        if is_done or changed_since(plan, catalogue):
            await remove_left_over(settings, plan)
            return "" if is_done else changed_since(plan, catalogue)
        asking = await stack.enter_async_context(_asking(settings, folder, plan, watch, anyway=anyway))
        looks, is_answered = 0, True
        while True:
            try:
                await asking.all_of(iter(left), in_flight)
                left = []
                if live.is_full:
                    return ""
                if why := changed_since(plan, catalogue):
                    return why
                left, is_answered = missing(plan, await live.more(), {}), True
                looks = 0 if left else looks + 1
                if looks == _QUIET_LOOKS:
                    watch.say(
                        f"no event was chosen for {looks * _LOOK_S:g} s: does anybody call {plan.question.address}?"
                    )
                if not left:
                    await asyncio.sleep(_LOOK_S)
            except AllRefused:
                # What is mended is asked from the start.
                folder.forget_answers()
                raise
            except Refusal as refusal:
                if refusal.code is not FailureCode.BROKER_UNREACHABLE:
                    raise
                if is_answered:
                    watch.say(f"{refusal.message}; the shadow goes on when they answer")
                is_answered = False
                await asyncio.sleep(_REST_S)
                left = missing(plan, folder.rows(), folder.answers())


@asynccontextmanager
async def _asking(
    settings: Settings, folder: ReplayFolder, plan: Plan, watch: Watch, *, anyway: bool
) -> AsyncIterator[Asking]:
    async with trials(settings, plan, anyway=anyway) as versions, Client(settings.answering_cluster()) as client:
        with folder.writing() as stream:
            yield Asking(client, plan, versions, stream, watch)


def changed_since(plan: Plan, catalogue: Catalogue) -> str:
    """What is not any more as it was when the shadow began; empty: all is."""
    namespace, name = split_address(plan.question.address)
    assert plan.shadow is not None, "a plan of a shadow"
    for one, version in ((name, plan.question.version), (name + CANDIDATE, plan.shadow.candidate)):
        found = catalogue.latest(Identity("endpoint", namespace, one))
        if version is not None and (found is None or found[0] != version):
            now = "was deleted" if found is None else f"is version {found[0]} now"
            return f"/{namespace}/{one} {now}, and this shadow compares version {version}"
    return ""


# Its end -------------------------------------------------------------------------------------------------------------


async def _finish(settings: Settings, folder: ReplayFolder, plan: Plan, early: str) -> Path:
    """Compare what both have answered, promote or say why not, write the report; returns its path.

    Raises Refusal(invalid_setting) where nothing is answered; then the same command begins anew.
    """
    with importing("studio"):
        from guideway.training.replays.comparison import compare_sides
        from guideway.training.replays.report import page_of

    answers = folder.answers()
    rows = [row for row in folder.rows() if all((side, row.number) in answers for side in SIDES)]
    if not rows:
        folder.give_up()
        raise Refusal(FailureCode.INVALID_SETTING, f"{early}, with no row answered: give this command again")
    question = msgspec.structs.replace(plan.question, left_out=(seen_in(folder) or Seen()).left_out)
    now, new = ([answers[side, row.number] for row in rows] for side in SIDES)
    compared = compare_sides(question, rows, now, new)
    outcome = Outcome(early=early)
    if plan.shadow is not None and plan.shadow.promote == "if_better":
        # Before the result is written: whoever finds one may rely on it that nothing is left to be done.
        why = "it has ended early" if early else why_not(compared)
        outcome = Outcome(early=early, why=why) if why else await _promoted(settings, plan)
    told = {"question": question, **msgspec.structs.asdict(compared), "outcome": outcome}
    folder.finish(msgspec.json.encode(told), page_of(question, compared, outcome.told))
    return folder.path / "report.html"


async def _promoted(settings: Settings, plan: Plan) -> Outcome:
    """Put the candidate in the endpoint's place, as `guideway studio promote` does. Done twice, it is done once."""
    namespace, _ = split_address(plan.question.address)

    def made_on(catalogue: Catalogue) -> list[Endpoint]:
        return [promoted_of(plan, catalogue)]

    try:
        [change] = await apply_made(settings, [namespace], made_on)
    except Refusal as refusal:
        if refusal.code is FailureCode.BROKER_UNREACHABLE:
            raise
        return Outcome(why=refusal.message)
    return Outcome(promoted=True, version=change.version)


def promoted_of(plan: Plan, catalogue: Catalogue) -> Endpoint:
    """The endpoint with its candidate in its place. Raises Refusal: as `promoted`, and for what was not compared.

    Where the candidate is there already, because a kill came behind it, the endpoint is as it is.
    """
    namespace, name = split_address(plan.question.address)
    _, present = catalogue.endpoint(namespace, name)
    _, candidate = catalogue.endpoint(namespace, name + CANDIDATE)
    new = promoted(candidate, present, catalogue, anyway=True)
    if trial_of(new, name, "new", catalogue) != plan.new:
        uses = "guidance or a retrieval set that it uses has another version now than when the shadow began"
        raise Refusal(FailureCode.INVALID_SETTING, changed_since(plan, catalogue) or uses)
    if new == present:
        return present
    if why := changed_since(plan, catalogue):
        raise Refusal(FailureCode.INVALID_SETTING, why)
    return promoted(candidate, present, catalogue, anyway=False)
