"""What people are told of a shadow, at each stage."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.training.publishing.test_decision import catalogue
from tests.usecases.shadows.test_decision import BETTER, CANDIDATE, NOISE, OLD, answered, known, mood, plan_in, running

from guideway.catalogue.entries import Catalogue
from guideway.schemas.names.service_topics import shadows_topic
from guideway.schemas.services.shadow import ShadowFigures, ShadowRow, ShadowState
from guideway.schemas.wire import SHADOW
from guideway.settings import Settings
from guideway.usecases.shadows import declared, ending, view
from guideway.usecases.shadows.book import Book, key_of_row
from guideway.usecases.shadows.ending import ended, promoted_state
from guideway.usecases.shadows.view import View, viewed


def book_of(state: ShadowState | None, rows: int) -> Book:
    book, topic = Book(), shadows_topic("shop")
    if state is not None:
        book.absorb(topic, b"mood", SHADOW.encode(state))
        for row in answered(rows):
            one = ShadowRow(shadow=state.shadow, id=row.id, now=row.now, new=row.new)
            book.absorb(topic, key_of_row("mood", state.shadow, row.id), SHADOW.encode(one))
    return book


def told(there: Catalogue, state: ShadowState | None, rows: int = 0) -> View:
    return viewed(there, book_of(state, rows), "shop", "mood")


def test_each_stage_says_what_is_missing_or_why() -> None:
    there = known()
    state = running(there)
    assert told(there, None).told == "is not begun: does `guideway shadows` run?"
    assert told(there, None).changes == {"candidate": "/shop/mood-candidate@1"}
    assert told(there, state, 140).told == "140 of 200 rows; missing to a decision: 60"
    held_up = msgspec.structs.replace(state, trouble="another replay runs")
    assert told(there, held_up, 140).told.endswith("missing to a decision: 60; held up: another replay runs")
    waiting = told(catalogue(OLD, mood()), None)
    assert waiting.told.startswith("waits: there is no candidate /shop/mood-candidate yet")
    assert "does not beat the endpoint as it is" in told(known(new=NOISE), None).told

    figures = ShadowFigures(rows=200, changed=3)
    promoted = promoted_state(msgspec.structs.replace(state, figures=figures), 2, 2)
    after = catalogue(BETTER, OLD, CANDIDATE, mood("new@1"))
    assert told(after, promoted).told == (
        "ended with 200 of 200 rows: its candidate was promoted: it is version 2 of the endpoint"
    )
    refused = ended(state, 2, figures, "it may leave 2% more of live traffic without a result", "")
    assert told(there, refused).told == (
        "ended with 200 of 200 rows: not promoted: it may leave 2% more of live traffic without a result"
    )
    assert told(there, ended(state, 2, None, "", "/shop/mood was deleted")).told == (
        "ended with 0 of 200 rows: stopped before it had all rows: /shop/mood was deleted"
    )
    begins_anew = ended(msgspec.structs.replace(state, shadow="mood-other"), 2, None, "", "it has changed")
    assert told(there, begins_anew).stage == "begins"
    assert plan_in(there).rows == 200


async def test_rows_are_compared_for_whoever_asks_for_figures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    there, compared = known(), 0
    book = book_of(running(there), 30)

    async def catalogue_of(_settings: object) -> Catalogue:
        return there

    async def all_of(_settings: object, _namespace: object) -> Book:
        return book

    async def compare(*_: object) -> tuple[ShadowFigures, str]:
        nonlocal compared
        compared += 1
        return ShadowFigures(rows=30, changed=1), ""

    monkeypatch.setattr(view, "catalogue_of", catalogue_of)
    monkeypatch.setattr(view, "_book", all_of)
    monkeypatch.setattr(ending, "compared", compare)
    settings = Settings(home=Path("/nowhere"), store="/nowhere")
    brief = await view.shadow_of(settings, "/shop/mood", with_figures=False)
    assert (brief.rows, brief.figures, compared) == (30, None, 0)
    whole = await view.shadow_of(settings, "/shop/mood")
    assert (whole.rows, whole.figures, compared) == (30, ShadowFigures(rows=30, changed=1), 1)


def test_a_manifest_that_nobody_can_read_keeps_nobody_from_seeing_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("nobody foresaw it")

    monkeypatch.setattr(declared, "declared", broken)
    assert told(known(), None).told == "waits: KeyError: report it"
