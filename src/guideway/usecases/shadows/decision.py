"""What is to be done next about the shadow of one endpoint. Pure."""

from __future__ import annotations

import msgspec

from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import Refusal
from guideway.schemas.services.shadow import ShadowState
from guideway.usecases.replay.folder import Plan
from guideway.usecases.shadows.book import Rows
from guideway.usecases.shadows.declared import Idle, present, what_it_is


class Rest(msgspec.Struct, frozen=True):
    """Nothing."""


class Begin(msgspec.Struct, frozen=True):
    """Say that this shadow begins."""

    plan: Plan


class Follow(msgspec.Struct, frozen=True):
    """Ask both, until there are enough rows."""

    plan: Plan


class Judge(msgspec.Struct, frozen=True):
    """Compare what there is, promote or not, and end it."""

    plan: Plan
    early: str
    """Why, though there are not as many rows as were wanted; empty: there are."""


class NotePromoted(msgspec.Struct, frozen=True):
    """Say that the candidate is in the endpoint's place: a kill came before that was said."""

    version: int


class Stop(msgspec.Struct, frozen=True):
    """End what has begun, before it has all rows."""

    why: str


Step = Rest | Begin | Follow | Judge | NotePromoted | Stop


def next_step(
    catalogue: Catalogue,
    namespace: str,
    name: str,
    what: Plan | Idle | None,
    state: ShadowState | None,
    rows: Rows,
) -> Step:
    """What has ended is not begun again, until something else is compared.

    what: the endpoint declares, by this catalogue. rows: of the shadow that the state names.
    """
    is_open = state is not None and state.stage != "ended"
    if state is not None and is_open and not (isinstance(what, Plan) and what.id == state.shadow):
        version = _promoted_version(catalogue, namespace, name, state)
        return Stop(_why(catalogue, namespace, name, state, what)) if version is None else NotePromoted(version)
    if not isinstance(what, Plan):
        return Rest()
    if state is None or state.shadow != what.id:
        return Begin(what)
    if not is_open:
        return Rest()
    if state.stage == "promoting" and what.question.version != state.version:
        # Perhaps the candidate was in its place already, and somebody has taken it back.
        return Stop(f"{what.question.address} was changed while its candidate was to take its place")
    early = rows.hopeless() if len(rows) < what.rows else ""
    return Judge(what, early) if len(rows) >= what.rows or early else Follow(what)


def _promoted_version(catalogue: Catalogue, namespace: str, name: str, state: ShadowState) -> int | None:
    """The endpoint's version, where it has become what this shadow was about to make of it."""
    found = present(catalogue, namespace, name)
    if state.stage != "promoting" or found is None:
        return None
    try:
        return found[0] if what_it_is(found[1], catalogue) == state.becomes else None
    except Refusal:
        return None


def _why(catalogue: Catalogue, namespace: str, name: str, state: ShadowState, what: Plan | Idle | None) -> str:
    found = present(catalogue, namespace, name)
    if found is None:
        return f"/{namespace}/{name} was deleted"
    if what is None:
        return f"/{namespace}/{name} declares no shadow any more"
    if isinstance(what, Idle):
        return what.why
    return (
        f"/{namespace}/{name}, its candidate, or what they use has changed since version {state.version} of it: it "
        "begins anew"
    )
