"""One namespace's manifests that take long to check keep no other's from being applied by the same process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from guideway.catalogue.documents.manifest_files import Source
from guideway.catalogue.entries import Catalogue
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.settings import Settings
from guideway.usecases import apply
from guideway.usecases.apply import apply_made


async def test_nobody_waits_for_the_slow_schemas_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, under_way, most = threading.Event(), 0, 0

    def check_alone(sources: Sequence[Source]) -> None:
        nonlocal under_way, most
        if sources[0].manifest.namespace == "slow":
            under_way += 1
            most = max(most, under_way)
            goes_on.wait(20)
            under_way -= 1

    async def applied(_settings: Settings, _of: Collection[str], made_on: Callable[..., Any], *_: object) -> Any:
        return await made_on(Catalogue())

    monkeypatch.setattr(apply, "check_alone", check_alone)
    monkeypatch.setattr(apply, "_apply", applied)

    def applying(namespace: str) -> asyncio.Task[Any]:
        endpoint = Endpoint(namespace=namespace, name="task", model_size="small", output=Text())
        return asyncio.create_task(apply_made(Settings.from_environ({}), [namespace], lambda _: [endpoint]))

    slow = [applying("slow") for _ in range(50)]
    await asyncio.sleep(0.05)
    # In the loop itself, or with all threads taken, this would come after all of them.
    assert len(await asyncio.wait_for(applying("quick"), 5)) == 1
    assert not any(one.done() for one in slow)
    goes_on.set()
    await asyncio.gather(*slow)
    assert most == 1
