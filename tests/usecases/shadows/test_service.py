"""`guideway shadows` in this process, on a broker: what it does where trials or other processes are in its way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.usecases.shadows.conftest import Shop, shadows

from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.schemas.wire import SHADOW
from guideway.usecases.apply import apply_made
from guideway.usecases.replay import asking, run
from guideway.usecases.shadows import service
from guideway.usecases.shadows.ending import begun, ended
from guideway.usecases.shadows.pen import sole_pen

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]
NOW, NEW = "mood-replay-now", "mood-replay-new"


async def test_a_trial_that_does_not_answer_is_told_until_it_does(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "SILENCE_S", 0.5)
    await shop.apply("mood")
    shop.silence(NEW)
    async with shadows(shop):
        view = await shop.until("mood", lambda view: bool(view.why) and view.stage == "running", calls=1)
        assert "held up: no result for 0.5 s: does `guideway endpoints` run, and `guideway worker --size" in view.told
        shop.silence()
        view = await shop.until("mood", lambda view: view.rows > 0)
        view = await shop.until("mood", lambda view: not view.why)
        assert "held up" not in view.told


async def test_a_shadow_whose_trials_do_not_answer_keeps_no_other_from_its_end(shop: Shop) -> None:
    await shop.apply("mood", "calm")
    shop.silence(NOW, NEW)
    async with shadows(shop, in_flight=1):
        await shop.until("mood", lambda _: NOW in shop.asked, calls=1)
        view = await shop.until("calm", lambda view: view.stage == "ended", calls=2)
        assert view.outcome == "compared"
        assert (await shop.until("mood", lambda _: True)).rows == 0


async def test_what_the_catalogue_refuses_is_tried_again_when_it_changes(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_REST_S", 0.01)
    monkeypatch.setattr(service, "_LOOK_S", 0.05)
    monkeypatch.setattr(service, "_LOOKS_AGAIN", 10_000)
    tries = 0
    plain = run.apply_trials

    async def apply_trials(*given: Any, **named: Any) -> Any:
        nonlocal tries
        tries += 1
        return await plain(*given, **named)

    monkeypatch.setattr(service, "apply_trials", apply_trials)
    other = Endpoint(
        namespace=shop.namespace, name=NEW, model_size=shop.namespace, output=Text(), lane="batch", instruction="Mine."
    )
    await shop.apply("mood")
    await apply_made(shop.settings, {shop.namespace}, lambda _there: [other])
    async with shadows(shop):
        await shop.until("mood", lambda view: "another replay or shadow" in view.why)
        await asyncio.sleep(1)
        assert tries == 1, "each try would take the right to write from others"
        await run.remove_trials(shop.settings, shop.namespace, [NEW])
        await shop.until("mood", lambda view: view.rows > 0 and not view.why, calls=1)
        assert tries == 2


async def test_trials_that_are_applied_while_another_process_ends_the_shadow_go(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run.apply_trials

    async def apply_trials(settings: Any, plan: Any, **named: Any) -> Any:
        versions = await plain(settings, plan, **named)
        while len(shop.trials()) < 2:
            await asyncio.sleep(0.05)
        state = ended(begun(plan, 1), 2, None, "", "another process says so")
        async with sole_pen(shop.cluster, shop.namespace) as pen:
            await pen.write([(b"mood", SHADOW.encode(state))])
        return versions

    monkeypatch.setattr(service, "apply_trials", apply_trials)
    await shop.apply("mood")
    async with shadows(shop):
        view = await shop.until("mood", lambda view: view.stage == "ended")
        assert "another process says so" in view.why
        async with asyncio.timeout(20):
            while shop.trials():
                await asyncio.sleep(0.1)
