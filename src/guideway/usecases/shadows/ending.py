"""The end of a shadow: what was compared, whether the candidate takes the endpoint's place, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from guideway.catalogue.documents.faults import Faulty
from guideway.catalogue.entries import Catalogue
from guideway.producers.client.client import split_address
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.services.shadow import ShadowFigures, ShadowRow, ShadowState
from guideway.settings import Settings
from guideway.training.replays.shadow import why_not
from guideway.usecases.apply import apply_made
from guideway.usecases.extras import importing
from guideway.usecases.replay.folder import Plan
from guideway.usecases.replay.shadow import promoted_of
from guideway.usecases.shadows.book import compared_rows
from guideway.usecases.shadows.declared import declared, digest_of

if TYPE_CHECKING:
    # It needs numpy, and whoever only says how far a shadow is should not.
    from guideway.training.evaluation.intervals import Estimate
    from guideway.training.replays.comparison import Compared


def begun(plan: Plan, now_ms: int) -> ShadowState:
    """The state of a shadow that begins."""
    assert plan.shadow is not None, "a plan of a shadow"
    return ShadowState(
        shadow=plan.id,
        stage="running",
        begun_ms=now_ms,
        at_ms=now_ms,
        changes=plan.question.changes,
        version=plan.question.version,
        rows=plan.rows,
        becomes=digest_of(plan.new),
        promote=plan.shadow.promote,
    )


async def compared(plan: Plan, rows: Iterable[ShadowRow]) -> tuple[ShadowFigures, str]:
    """(what came of comparing these rows, why they forbid to promote). Raises Refusal without the extra `studio`."""
    found = await asyncio.to_thread(compare, plan, rows)
    return figures_of(found), why_not(found)


def compare(plan: Plan, rows: Iterable[ShadowRow]) -> Compared:
    """As a replay compares. Raises Refusal(invalid_setting) without the extra `studio`."""
    with importing("studio"):
        from guideway.training.replays.comparison import compare_sides

    return compare_sides(plan.question, *compared_rows(rows))


def figures_of(found: Compared) -> ShadowFigures:
    """What is kept of it."""
    answered = found.figure("answered")
    return ShadowFigures(
        rows=found.rows,
        changed=found.changed_rows,
        metric=found.agreement_metric,
        agreement=_figure(found.agreement),
        answered_now=_figure(answered.now if answered else None),
        answered_new=_figure(answered.new if answered else None),
        answered_over=_figure(answered.difference if answered else None),
    )


def _figure(found: Estimate | None) -> list[float]:
    return [] if found is None else [found.value, found.low, found.high]


class _NotPromoted(Refusal):
    """What was judged forbids it; whatever else is refused may be allowed a moment later."""


async def promote(settings: Settings, plan: Plan) -> tuple[int | None, str]:
    """Put the candidate in the endpoint's place; returns (its version, why it was refused).

    Whatever was changed since the plan was made refuses it. Raises Refusal(broker_unreachable).
    """
    namespace, name = split_address(plan.question.address)

    def made_on(catalogue: Catalogue) -> list[Endpoint]:
        there = declared(catalogue, namespace, name)
        if not isinstance(there, Plan) or (there.id, there.question.version) != (plan.id, plan.question.version):
            raise _NotPromoted(
                FailureCode.INVALID_SETTING,
                f"{plan.question.address}, its candidate, or what they use was changed while they were compared",
            )
        try:
            return [promoted_of(there, catalogue)]
        except Refusal as refusal:
            raise _NotPromoted(refusal.code, refusal.message) from None

    try:
        [change] = await apply_made(settings, [namespace], made_on, by=header.SHADOW)
    except (_NotPromoted, Faulty) as refusal:
        return None, refusal.message
    return change.version, ""


def ended(state: ShadowState, now_ms: int, figures: ShadowFigures | None, why: str, early: str) -> ShadowState:
    """The state of a shadow that ends without a promotion. early: why it has not all rows; why: nothing is promoted."""
    outcome = "stopped" if early else "not_promoted" if state.promote == "if_better" else "compared"
    return msgspec.structs.replace(
        state,
        stage="ended",
        at_ms=now_ms,
        outcome=outcome,
        why=early or (why if outcome == "not_promoted" else ""),
        figures=figures,
        trouble="",
    )


def promoted_state(state: ShadowState, now_ms: int, version: int) -> ShadowState:
    """The state of a shadow whose candidate is in the endpoint's place."""
    return msgspec.structs.replace(
        state, stage="ended", at_ms=now_ms, outcome="promoted", version=version, why="", trouble=""
    )
