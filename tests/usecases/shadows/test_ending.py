"""The end of a shadow: what is compared, and that nothing is promoted but what was judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.usecases.shadows.test_decision import CANDIDATE, answered, known, mood, plan_in

from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Manifest
from guideway.settings import Settings
from guideway.usecases.replay.shadow import promoted_of
from guideway.usecases.shadows import ending


async def promoted(there: Catalogue, monkeypatch: pytest.MonkeyPatch) -> tuple[int | None, str, list[Endpoint]]:
    """(version, why not, what is applied) of the plan that the catalogue had at first, on the catalogue as it is."""
    applied: list[Endpoint] = []

    async def apply_made(
        _settings: Settings, _namespaces: object, made_on: Callable[[Catalogue], list[Endpoint]], *, by: str
    ) -> list[Any]:
        assert by == "shadow"
        applied.extend(made_on(there))
        return [SimpleNamespace(version=7)]

    monkeypatch.setattr(ending, "apply_made", apply_made)
    settings = Settings(home=Path("/nowhere"), store="/nowhere")
    version, why = await ending.promote(settings, plan_in(known()))
    return version, why, applied


async def test_what_was_judged_takes_the_endpoints_place(monkeypatch: pytest.MonkeyPatch) -> None:
    version, why, [made] = await promoted(known(), monkeypatch)
    assert (version, why, made.name, made.guidance) == (7, "", "mood", ["shop/new@1"])
    assert made == promoted_of(plan_in(known()), known())


@pytest.mark.parametrize(
    "meanwhile",
    [
        mood(instruction="Else."),
        msgspec.structs.replace(mood(), description="For people."),
        mood(rule=None),
        mood("new@1"),
        msgspec.structs.replace(CANDIDATE, instruction="Else."),
    ],
)
async def test_whatever_somebody_has_changed_meanwhile_is_not_written_over(
    meanwhile: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, why, applied = await promoted(known(meanwhile), monkeypatch)
    assert (version, applied) == (None, [])
    assert "was changed while they were compared" in why or "were changed" in why


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (FailureCode.BROKER_UNREACHABLE, "gone"),
        (FailureCode.INVALID_SETTING, "others publish at the same time: run the command again"),
    ],
)
async def test_a_refusal_that_passes_is_no_reason_against_it(
    code: FailureCode, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def apply_made(*_: object, **__: object) -> list[Any]:
        raise Refusal(code, says)

    monkeypatch.setattr(ending, "apply_made", apply_made)
    with pytest.raises(Refusal, match=says):
        await ending.promote(Settings(home=Path("/nowhere"), store="/nowhere"), plan_in(known()))


async def test_rows_are_compared_as_a_replay_compares_them() -> None:
    figures, why = await ending.compared(plan_in(known()), answered(200))
    assert (figures.rows, figures.changed, figures.metric, why) == (200, 0, "accuracy", "")
    assert figures.agreement[0] == figures.answered_new[0] == 1
    figures, why = await ending.compared(plan_in(known()), answered(200, failed=["new"]))
    assert (figures.changed, figures.answered_over[0]) == (200, -1)
    assert "may leave 2% more of live traffic without a result" in why
