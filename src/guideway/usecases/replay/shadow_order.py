"""What a shadow is to do, and its beginning: all that can be wrong is said before it runs for days."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Literal

import msgspec

from guideway.catalogue.entries import Catalogue, Identity
from guideway.producers.client.client import split_address
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.addresses import is_trial
from guideway.settings import Settings
from guideway.training.publishing.decision import CANDIDATE
from guideway.training.replays.shadow import LEAST_ROWS
from guideway.usecases.lookup import catalogue_of, found_in
from guideway.usecases.replay.folder import Plan, ReplayFolder, folder_for
from guideway.usecases.replay.shadow_plan import (
    beyond_limits,
    has_candidate,
    plan_of,
    require_promotable,
    told_candidate,
    tried,
)
from guideway.usecases.replay.trial import changed
from guideway.usecases.replay.trial_checks import require_appliable


class ShadowOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be shadowed, and how."""

    address: str
    """`/NAMESPACE/ENDPOINT`"""
    changes: dict[str, str]
    """What is new, as `--with` has it; empty: the endpoint's candidate."""
    share: float = 0.05
    """Of the events, above 0 and up to 1."""
    rows: int = 2000
    """It ends with so many."""
    promote: Literal["never", "if_better"] = "never"


async def begin(
    settings: Settings, order: ShadowOrder, out: Path | None, *, despite_limits: bool = False
) -> tuple[ReplayFolder, Plan]:
    """The shadow of this order: begun now, or found unfinished. out: its folder; None: one in GUIDEWAY_HOME.

    despite_limits: also where the namespace has limits, of which it uses a part. Raises Refusal: of an endpoint, a
    candidate or a change that is not there, of one that could not be promoted, of a folder that holds another; Faulty
    where its trials could not be applied.
    """
    namespace, name = split_address(order.address)
    order = msgspec.structs.replace(order, address=f"/{namespace}/{name}")
    _check(order, name)
    asked_for: dict[str, Any] = {"shadow": msgspec.to_builtins(order)}
    folder = ReplayFolder(out) if out else folder_for(settings.home / "shadows", f"{namespace}-{name}", asked_for)
    if (plan := folder.plan) is not None:
        if plan.asked_for != asked_for or folder.is_finished:
            what = "a finished one" if plan.asked_for == asked_for else f"another replay or shadow ({plan.id})"
            raise Refusal(FailureCode.INVALID_SETTING, f"{folder.path} holds {what}: name another with --out")
        return folder, plan
    catalogue = await catalogue_of(settings)
    version, endpoint = found_in(catalogue, Identity("endpoint", namespace, name))
    assert isinstance(endpoint, Endpoint), "entries of this kind are endpoints"
    if not despite_limits and (why := beyond_limits(catalogue, namespace, order.share, "--despite-limits")):
        raise Refusal(FailureCode.INVALID_SETTING, why)
    candidate, new, told = None, endpoint, order.changes
    if order.changes:
        new = changed(endpoint, order.changes)
    else:
        _require_candidate(catalogue, endpoint)
        candidate, new = tried(catalogue, endpoint)
        told = told_candidate(endpoint, candidate)
        if order.promote == "if_better":
            require_promotable(catalogue, endpoint, "leave out --promote")
    plan = plan_of(
        f"{namespace}-{name}-{uuid.uuid4().hex[:8]}",
        version,
        endpoint,
        new,
        catalogue,
        changes=told,
        candidate=candidate,
        share=order.share,
        rows=order.rows,
        promote=order.promote,
        asked_for=asked_for,
    )
    if order.changes:
        # A candidate has passed the same.
        await require_appliable(settings, [plan.now, plan.new], catalogue)
    folder.begin(plan, [])
    return folder, plan


def _check(order: ShadowOrder, name: str) -> None:
    wrong = ""
    if is_trial(name):
        wrong = f"{order.address} is the trial of a replay: name the endpoint itself"
    elif not 0 < order.share <= 1:
        wrong = f"--share {order.share:g} is no share: write a number above 0, up to 1 (0.05 is one event in twenty)"
    elif order.promote == "if_better" and order.changes:
        wrong = (
            "live traffic has no right answers, so it cannot show that this is better, and only a candidate has the "
            "score of a run: put it there with `guideway studio publish --candidate` and say --candidate in place of "
            "--with; or leave out --promote, and look at the report"
        )
    elif order.promote == "if_better" and order.rows < LEAST_ROWS:
        wrong = f"{order.rows} rows are too few to promote anything: say --rows {LEAST_ROWS} or more"
    if wrong:
        raise Refusal(FailureCode.INVALID_SETTING, wrong)


def _require_candidate(catalogue: Catalogue, endpoint: Endpoint) -> None:
    if not has_candidate(catalogue, endpoint):
        raise Refusal(
            FailureCode.UNKNOWN_ENDPOINT,
            f"there is no candidate {endpoint.address}{CANDIDATE}: put it there with `guideway studio publish TASK "
            "--candidate`, or say with --with what is new",
        )
