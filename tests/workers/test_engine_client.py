"""The client to an engine process that answers, refuses, dies, hangs or cannot start: a real process, no model."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.contents import Altered
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.schemas.request import Request
from guideway.workers.engine_client import EngineClient, Poison
from guideway.workers.guidance.artefact_fetch import ArtefactFetch
from guideway.workers.messages.to_engine import Artefact, EngineSettings

MakeRequest = Callable[..., Request]


def link(source: str = "fine", **settings: Any) -> EngineClient:
    model = Model(namespace="public", name="small", source=source)
    program = (sys.executable, str(Path(__file__).with_name("fake_engine.py")))
    return EngineClient(model, EngineSettings(), program=program, **settings)


async def test_requests_are_answered_each_with_its_own(make_request: MakeRequest) -> None:
    async with link() as engine:
        assert engine.fingerprint == "f"
        texts = [str(number) for number in range(20)]
        answers = await asyncio.gather(*(engine.run(make_request(text), []) for text in texts))
        assert [answer.samples[0].text for answer in answers] == texts
        with pytest.raises(Refusal) as caught:
            await engine.run(make_request("refuse"), [])
        assert caught.value.code is FailureCode.TEXT_TOO_LONG


async def test_who_kills_the_engine_is_refused_at_the_third_death_and_neighbours_finish(
    make_request: MakeRequest,
) -> None:
    async with link() as engine:
        neighbours = [asyncio.create_task(engine.run(make_request("wait"), [])) for _ in range(3)]
        await asyncio.sleep(0.1)
        poison = asyncio.create_task(engine.run(make_request("die"), []))
        # In quarantine each runs alone, and the fake engine answers a waiting request along with the next that comes.
        while not all(task.done() for task in (*neighbours, poison)):
            await engine.run(make_request("go"), [])
            await asyncio.sleep(0.05)
        refusal = poison.exception()
        assert isinstance(refusal, Poison)
        assert refusal.code is FailureCode.ENGINE_FAILED
        assert all(task.result().samples for task in neighbours)


async def test_a_silent_engine_is_ended_and_its_requests_refused(make_request: MakeRequest) -> None:
    # So long that a busy machine does not take the next engine for a silent one.
    async with link(silence_s=3, attempts=1) as engine:
        with pytest.raises(Refusal) as caught:
            await asyncio.wait_for(engine.run(make_request("hang"), []), 20)
        assert caught.value.code is FailureCode.ENGINE_FAILED
        assert (await asyncio.wait_for(engine.run(make_request("again"), []), 20)).samples[0].text == "again"


async def test_a_model_that_cannot_be_loaded_is_said() -> None:
    with pytest.raises(Refusal, match="no such model") as caught:
        async with link("broken"):
            pass
    assert caught.value.code is FailureCode.UNKNOWN_MODEL_SIZE


async def test_an_engine_that_dies_before_it_is_ready_is_not_started_for_ever() -> None:
    with pytest.raises(Refusal, match="5 times before it was ready") as caught:
        async with link("crash"):
            pass
    assert caught.value.code is FailureCode.ENGINE_FAILED


async def test_a_report_that_cannot_be_taken_ends_the_link_and_hangs_nobody(make_request: MakeRequest) -> None:
    async with link() as engine:
        engine._engine._hear = None  # type: ignore[assignment]  # whatever fails in the keeper
        asking = asyncio.create_task(engine.run(make_request("x"), []))
        await asyncio.wait([engine.broken], timeout=20)
        assert isinstance(engine.broken.exception(), Refusal)
    with pytest.raises(Refusal, match="is closed"):
        await asyncio.wait_for(asking, 20)


async def test_a_cancelled_request_leaves_nothing_behind(make_request: MakeRequest) -> None:
    async with link() as engine:
        waiting = asyncio.create_task(engine.run(make_request("wait"), []))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not engine._engine.waiting
        assert (await engine.run(make_request("next"), [])).samples[0].text == "next"


async def test_a_copy_that_the_engine_finds_altered_is_fetched_again(make_request: MakeRequest, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    store = ArtefactStore(str(tmp_path / "store"))
    digest = store.of("a").put_folder(tmp_path)
    fetch = ArtefactFetch(store, ArtefactCache(tmp_path / "cache"))
    async with link() as engine, fetch.held("a", digest, "guidance a/b@1") as folder:
        artefact = Artefact(name="a/b@1", form="lora", digest=digest, folder=str(folder), by_content=True)
        (folder / "adapter_model.safetensors").write_bytes(b"altered")
        with pytest.raises(Altered) as caught:
            await engine.run(make_request("load"), [artefact])
        assert caught.value.digest == digest
        answer = await fetch.with_good_copies(lambda: engine.run(make_request("load"), [artefact]))
        assert answer.samples[0].text == "loaded"


async def test_a_closed_engine_refuses_at_once(make_request: MakeRequest) -> None:
    async with link() as engine:
        pass
    with pytest.raises(Refusal, match="is closed") as caught:
        await asyncio.wait_for(engine.run(make_request("x"), []), 1)
    assert caught.value.code is FailureCode.ENGINE_FAILED
    assert not isinstance(caught.value, Poison)


async def test_closing_refuses_who_is_in_the_engine_and_who_waits_for_it(make_request: MakeRequest) -> None:
    async with link(attempts=1) as engine:
        inside = asyncio.create_task(engine.run(make_request("wait"), []))
        while not engine._engine.waiting:
            await asyncio.sleep(0)
        engine._engine.ready.clear()  # as after a death of the process
        before = asyncio.create_task(engine.run(make_request("x"), []))
        await asyncio.sleep(0)
    for task in (inside, before):
        with pytest.raises(Refusal, match="is closed") as caught:
            await asyncio.wait_for(task, 1)
        assert not isinstance(caught.value, Poison)
