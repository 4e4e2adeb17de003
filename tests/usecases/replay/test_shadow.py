"""A shadow promotes what it has compared, by the studio's rule, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.training.publishing.test_decision import catalogue, endpoint, guided

from guideway.catalogue.entries import Catalogue
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.manifests import Endpoint, Manifest
from guideway.settings import Settings
from guideway.usecases.replay import shadow_order
from guideway.usecases.replay.folder import Plan
from guideway.usecases.replay.shadow import changed_since, promoted_of
from guideway.usecases.replay.shadow_order import ShadowOrder, begin

BETTER, NOISE, OLD = (guided("new", score) for score in ((0.95, 0.93, 0.97), (0.82, 0.78, 0.86), (0.8, 0.76, 0.84)))
OLD = msgspec.structs.replace(OLD, name="old")
MOOD, CANDIDATE = endpoint("mood", "old@1"), endpoint("mood-candidate", "new@1")


def known(*more: Manifest, new: Manifest = BETTER) -> Catalogue:
    return catalogue(new, OLD, MOOD, CANDIDATE, *more)


async def begun(
    folder: Path, monkeypatch: pytest.MonkeyPatch, there: Catalogue, *, despite_limits: bool = False, **order: Any
) -> Plan:
    async def found(_: Settings) -> Catalogue:
        return there

    monkeypatch.setattr(shadow_order, "catalogue_of", found)
    made = ShadowOrder(**{"address": "/shop/mood", "changes": {}, "promote": "if_better", **order})
    settings = Settings(home=folder, store=str(folder / "store"))
    _, plan = await begin(settings, made, None, despite_limits=despite_limits)
    return plan


async def test_a_better_candidate_is_promoted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = await begun(tmp_path, monkeypatch, known())
    assert (plan.now.guidance, plan.new.guidance) == (["shop/old@1"], ["shop/new@1"])
    assert plan.question.changes == {"candidate": "/shop/mood-candidate@1"}
    made = promoted_of(plan, known())
    assert (made.name, made.guidance) == ("mood", ["shop/new@1"])
    behind = known(made)
    assert promoted_of(plan, behind) == made, "a kill came behind it"
    assert await begun(tmp_path, monkeypatch, known()) == plan, "the same again goes on"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (msgspec.structs.replace(MOOD, instruction="Else."), "/shop/mood is version 2 now, and this shadow compares"),
        (msgspec.structs.replace(CANDIDATE, instruction="Else."), "/shop/mood-candidate is version 2 now"),
    ],
)
async def test_what_has_changed_since_is_not_promoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Endpoint, says: str
) -> None:
    plan = await begun(tmp_path, monkeypatch, known())
    assert not changed_since(plan, known())
    assert says in changed_since(plan, known(more))
    with pytest.raises(Refusal, match=says):
        promoted_of(plan, known(more))


async def test_guidance_by_its_newest_version_is_promoted_as_it_was_compared_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = endpoint("mood-candidate", "new")
    there = catalogue(BETTER, OLD, MOOD, loose)
    plan = await begun(tmp_path, monkeypatch, there)
    assert promoted_of(plan, there).guidance == ["shop/new"]
    newer = catalogue(BETTER, OLD, MOOD, loose, msgspec.structs.replace(BETTER, description="newer"))
    with pytest.raises(Refusal, match="has another version now than when the shadow began"):
        promoted_of(plan, newer)


async def test_what_could_never_be_promoted_is_told_at_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refusal, match=r"so would a shadow: .* does not beat the endpoint as it is") as caught:
        await begun(tmp_path, monkeypatch, known(new=NOISE))
    assert caught.value.code is FailureCode.NOT_BETTER
    assert not os.listdir(tmp_path), "nothing is begun"
    assert (await begun(tmp_path, monkeypatch, known(new=NOISE), promote="never")).rows == 2000
    with pytest.raises(Refusal, match="there is no candidate /shop/mood-candidate: put it there"):
        await begun(tmp_path, monkeypatch, catalogue(BETTER, OLD, MOOD))
    with pytest.raises(Refusal, match="is as its candidate already"):
        await begun(tmp_path, monkeypatch, catalogue(BETTER, OLD, endpoint("mood", "new@1"), CANDIDATE))


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ({"share": 0.0}, "is no share"),
        ({"share": 1.5}, "is no share"),
        ({"share": float("nan")}, "is no share"),
        ({"rows": 199}, "too few to promote anything"),
        ({"changes": {"guidance": "shop/new@1"}}, "live traffic has no right answers"),
        ({"address": "/shop/mood-replay-now"}, "is the trial of a replay"),
    ],
)
async def test_what_is_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: dict[str, Any], says: str
) -> None:
    with pytest.raises(Refusal, match=says):
        await begun(tmp_path, monkeypatch, known(), **order)


async def test_where_live_requests_could_be_refused_because_of_it_somebody_must_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Namespace(namespace="public", name="shop", requests_per_minute=100)
    with pytest.raises(Refusal, match=r"has limits \(requests_per_minute\).*10% more"):
        await begun(tmp_path, monkeypatch, known(limits))
    assert await begun(tmp_path, monkeypatch, known(limits), despite_limits=True)
    others = Namespace(namespace="public", name="shop", endpoints=100)
    assert await begun(tmp_path / "two", monkeypatch, known(others))
