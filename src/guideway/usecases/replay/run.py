"""A replay from its rows to its report: trials applied, both asked on the batch lane, trials removed, compared."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from guideway.catalogue.changes import Deletion, plan_deletion
from guideway.catalogue.entries import Catalogue, Identity
from guideway.infra.topic_removal import remove_topics
from guideway.producers.client.client import Client, split_address
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.addresses import is_trial
from guideway.schemas.names.topics import trial_topics
from guideway.settings import Settings
from guideway.training.replays.answers import SIDES, Question, Side
from guideway.usecases.apply import apply_made
from guideway.usecases.delete import remove
from guideway.usecases.extras import importing
from guideway.usecases.lookup import catalogue_of, found_in
from guideway.usecases.replay import inputs
from guideway.usecases.replay.asking import IN_FLIGHT, AllRefused, Asking, Watch
from guideway.usecases.replay.folder import Plan, ReplayFolder, folder_for, missing
from guideway.usecases.replay.trial import (
    changed,
    looks_like_trial,
    require_change,
    trial_name,
    trial_of,
    with_versions,
)
from guideway.usecases.replay.trial_checks import require_appliable


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be replayed, and how."""

    address: str
    """`/NAMESPACE/ENDPOINT`"""
    source: str
    """`archive`, `topic`, or a file."""
    changes: dict[str, str]
    """What is new, as `--with` has it."""
    since: str | None = None
    sample: int = 2000
    seed: int = 1
    text: str = "text"
    """The column of the text, of a file."""
    label: str = "label"
    """The column of the right answer, of a file."""

    @property
    def told(self) -> str:
        """The source for people."""
        name = self.source if self.source in ("archive", "topic") else Path(self.source).name
        return f"{name} since {self.since}" if self.since is not None else name


async def begin(settings: Settings, order: Order, out: Path | None) -> tuple[ReplayFolder, Plan]:
    """The replay of this order: begun now, or found unfinished. out: its folder; None: one in GUIDEWAY_HOME.

    Raises Refusal: of an endpoint or a change that is not there, of a source without rows, of a folder that holds
    another replay; Faulty where the trials could not be applied.
    """
    namespace, name = split_address(order.address)
    require_change(order.changes)
    order = msgspec.structs.replace(order, address=f"/{namespace}/{name}")
    asked_for = _asked_for(order)
    folder = ReplayFolder(out) if out else folder_for(settings.home / "replays", f"{namespace}-{name}", asked_for)
    if (plan := folder.plan) is not None:
        if plan.asked_for != asked_for:
            raise Refusal(
                FailureCode.INVALID_SETTING, f"{folder.path} holds another replay ({plan.id}): name another with --out"
            )
        return folder, plan
    if is_trial(name):
        raise Refusal(
            FailureCode.INVALID_SETTING, f"{order.address} is the trial of a replay: name the endpoint itself"
        )
    catalogue = await catalogue_of(settings)
    version, endpoint = found_in(catalogue, Identity("endpoint", namespace, name))
    assert isinstance(endpoint, Endpoint), "entries of this kind are endpoints"
    new = changed(endpoint, order.changes)
    now_trial, new_trial = (
        trial_of(one, name, side, catalogue) for one, side in ((endpoint, SIDES[0]), (new, SIDES[1]))
    )
    await require_appliable(settings, [now_trial, new_trial], catalogue)
    drawn = inputs.Drawn(order.sample, order.seed)
    await _draw(settings, order, endpoint, drawn)
    rows = drawn.rows()
    if not rows:
        why = "; ".join(f"{count} {reason}" for reason, count in drawn.left_out.items())
        raise Refusal(
            FailureCode.INVALID_DATA,
            f"{order.told} has no row to replay{f' ({why})' if why else ''}: name an earlier --since or another --from",
        )
    plan = Plan(
        id=f"{namespace}-{name}-{uuid.uuid4().hex[:8]}",
        asked_for=asked_for,
        question=Question(
            address=order.address,
            version=version,
            now=now_trial.output,
            new=new_trial.output,
            changes=order.changes | with_versions(order.changes, new_trial),
            source=order.told,
            left_out=drawn.left_out,
        ),
        now=now_trial,
        new=new_trial,
        rows=len(rows),
    )
    folder.begin(plan, rows)
    return folder, plan


def _asked_for(order: Order) -> dict[str, Any]:
    """What makes it the same replay: of a file, its content too. Raises Refusal(invalid_data) where there is none."""
    told: dict[str, Any] = msgspec.to_builtins(order)
    if order.source in ("archive", "topic"):
        return told
    try:
        content = Path(order.source).read_bytes()
    except OSError as error:
        raise Refusal(
            FailureCode.INVALID_DATA, f"{order.source} cannot be read ({error.strerror}): correct its path"
        ) from None
    return told | {"source": str(Path(order.source).absolute()), "content": hashlib.sha256(content).hexdigest()}


async def _draw(settings: Settings, order: Order, endpoint: Endpoint, drawn: inputs.Drawn) -> None:
    since = inputs.since_ms(order.since)
    match order.source:
        case "archive":
            await asyncio.to_thread(inputs.from_archive, settings, endpoint, since, drawn)
        case "topic":
            await inputs.from_topics(settings, endpoint, since, drawn)
        case file:
            if since:
                raise Refusal(FailureCode.INVALID_SETTING, "the rows of a file have no time: leave out --since")
            inputs.from_file(Path(file), endpoint, drawn, text=order.text, label=order.label)


async def carry_out(
    settings: Settings,
    folder: ReplayFolder,
    plan: Plan,
    watch: Watch,
    *,
    in_flight: int = IN_FLIGHT,
    anyway: bool = False,
) -> None:
    """Ask both endpoints what they have not answered yet. Interrupted, it can be called again.

    anyway: also where trials of another replay are there. Raises Refusal: as `apply_made`, and where there are some.
    """
    there, rows = folder.answers(), folder.rows()
    left = missing(plan, rows, there)
    watch.begun(2 * len(rows) - len(left), 2 * len(rows))
    if not left:
        await remove_left_over(settings, plan)
        return
    async with trials(settings, plan, anyway=anyway) as versions, Client(settings.answering_cluster()) as client:
        with folder.writing() as stream:
            try:
                await Asking(client, plan, versions, stream, watch).all_of(iter(left), in_flight)
            except AllRefused:
                # What is mended is asked from the start.
                folder.forget_answers()
                raise


def finish(folder: ReplayFolder, plan: Plan) -> Path:
    """Compare all answers, and write the report; returns its path."""
    with importing("studio"):
        from guideway.training.replays.comparison import compare_sides
        from guideway.training.replays.report import page_of

    answers, rows = folder.answers(), folder.rows()
    now, new = ([answers[side, row.number] for row in rows] for side in SIDES)
    compared = compare_sides(plan.question, rows, now, new)
    told = {"question": plan.question, **msgspec.structs.asdict(compared)}
    folder.finish(msgspec.json.encode(told), page_of(plan.question, compared))
    return folder.path / "report.html"


# Trials --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def trials(settings: Settings, plan: Plan, *, anyway: bool) -> AsyncIterator[dict[Side, int]]:
    """Both trials in the catalogue, with their versions; removed on the way out, also at Ctrl-C."""
    versions = await apply_trials(settings, plan, anyway=anyway)
    is_over, trials_ = False, [plan.trial(side).name for side in SIDES]
    try:
        yield versions
        is_over = True
    finally:
        await remove_trials(settings, plan.now.namespace, trials_)
        if is_over:
            await _remove_topics(settings, plan.now.namespace, trials_)


async def apply_trials(
    settings: Settings, plan: Plan, *, anyway: bool = False, require: Callable[[Catalogue], None] = lambda _there: None
) -> dict[Side, int]:
    """Put both trials into the catalogue, or find them there; returns their versions.

    anyway: also in the place of others. require: raises where the catalogue forbids it. Raises Refusal: as
    `apply_made`, and where there are others.
    """

    def made_on(catalogue: Catalogue) -> list[Endpoint]:
        require(catalogue)
        for side in SIDES:
            trial = plan.trial(side)
            found = catalogue.latest(Identity.of(trial))
            if found is not None and not looks_like_trial(found[1]):
                raise Refusal(
                    FailureCode.INVALID_SETTING,
                    f"{trial.address} is an endpoint of yours, and a replay needs the name: give it another",
                )
            # Of this replay, which a kill has interrupted, they are the same but for their calibration.
            if found is not None and not anyway and _plain(found[1]) != _plain(trial):
                raise Refusal(
                    FailureCode.INVALID_SETTING,
                    f"{trial.address} is there: another replay or shadow of {plan.question.address} runs, or was "
                    "killed. Wait for it, give its own command again to go on with it, or take its place with --anyway",
                )
        return [plan.now, plan.new]

    changes = await apply_made(settings, {plan.now.namespace}, made_on)
    versions = {change.identity: change.version for change in changes}
    return {side: versions[Identity.of(plan.trial(side))] for side in SIDES}


async def remove_left_over(settings: Settings, plan: Plan) -> None:
    """The trials of a replay that was killed after its last answer."""
    catalogue = await catalogue_of(settings)
    there = {side: catalogue.latest(Identity.of(plan.trial(side))) for side in SIDES}
    ours = [
        plan.trial(side).name for side, found in there.items() if found and _plain(found[1]) == _plain(plan.trial(side))
    ]
    if ours:
        await remove_trials(settings, plan.now.namespace, ours)
        await _remove_topics(settings, plan.now.namespace, ours)


def _plain(endpoint: object) -> object:
    return msgspec.structs.replace(endpoint, calibration=None) if isinstance(endpoint, Endpoint) else endpoint


async def remove_trials(settings: Settings, namespace: str, names_: list[str]) -> list[str]:
    """Remove the trials that are there; returns their names. Their topics stay, for whoever goes on."""
    removed: list[str] = []

    def made_on(catalogue: Catalogue) -> list[Deletion]:
        identities = [Identity("endpoint", namespace, name) for name in names_]
        there = {
            one: sorted(catalogue.versions(one))
            for one in identities
            if (found := catalogue.latest(one)) is not None and looks_like_trial(found[1])
        }
        removed[:] = [one.name for one in there]
        return [deletion for one, versions in there.items() for deletion in plan_deletion(catalogue, one, versions)]

    await remove(settings.answering_cluster(), [Identity("endpoint", namespace, names_[0]).topic], made_on, anyway=True)
    return removed


async def clean(settings: Settings, address: str) -> list[str]:
    """Remove what a killed replay of this endpoint has left; returns the names of its trials in the catalogue."""
    namespace, name = split_address(address)
    trials_ = [trial_name(name, side) for side in SIDES]
    removed = await remove_trials(settings, namespace, trials_)
    catalogue = await catalogue_of(settings)
    # One that is still there is an endpoint of somebody's.
    gone = [one for one in trials_ if not catalogue.versions(Identity("endpoint", namespace, one))]
    await _remove_topics(settings, namespace, gone)
    return removed


async def _remove_topics(settings: Settings, namespace: str, trials_: list[str]) -> None:
    """Nothing of them is asked any more, nor answered. Where that may not be done, they stay for the next replay."""
    topics = [topic for one in trials_ for topic in trial_topics(namespace, one)]
    if topics:
        await remove_topics(settings.answering_cluster(), topics)
