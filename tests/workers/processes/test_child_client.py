"""What both process clients are made of, and the engine's client on it: in virtual time, with a child in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import msgspec
import pytest
from tests.delivery.simulation.simulated_kafka import VirtualTime

from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Model
from guideway.schemas.request import Request
from guideway.workers.engine_client import EngineClient
from guideway.workers.messages.every_child import Ready, Stop
from guideway.workers.messages.from_engine import Finished, Generated, Progress
from guideway.workers.messages.to_engine import Admit, Cancel, EngineSettings, Start
from guideway.workers.processes import child_client
from guideway.workers.processes.child_client import ChildEnded

MakeRequest = Callable[..., Request]


class MemoryChild:
    """An engine without a process. A text `slow N` takes it N seconds, in which it says nothing; `hang` for ever."""

    def __init__(self, load_s: float = 1.0) -> None:
        self._outbox: asyncio.Queue[Any] = asyncio.Queue()
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._load_s = load_s
        self._working = asyncio.create_task(self._work())
        self.was_killed = False
        self.told: list[Any] = []

    def send(self, message: msgspec.Struct) -> None:
        self._inbox.put_nowait(message)

    async def drain(self) -> None:
        pass

    async def receive(self, decoder: object) -> Any:
        return await self._outbox.get()

    def kill(self) -> None:
        self.was_killed = True
        self._working.cancel()
        self._outbox.put_nowait(None)

    async def _work(self) -> None:
        while True:
            message = await self._inbox.get()
            self.told.append(message)
            match message:
                case Start():
                    await asyncio.sleep(self._load_s)
                    self._outbox.put_nowait(Ready(fingerprint="f", load_s=self._load_s))
                case Admit():
                    word, _, seconds = message.request.parts[-1].text.partition(" ")
                    await asyncio.sleep({"slow": float(seconds or 0), "hang": 1e9}.get(word, 0.0))
                    generated = Generated(text=word, finish_reason="stop")
                    self._outbox.put_nowait(
                        Finished(id=message.id, samples=[generated], prompt_tokens=1, output_tokens=1)
                    )
                    self._outbox.put_nowait(Progress(step=1, running=0, waiting=0, output_tokens=1, busy_s=0.0))
                case Stop():
                    self._outbox.put_nowait(None)
                    return


class Children:
    """Those that were started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, load_s: float = 1.0) -> None:
        self.started: list[MemoryChild] = []

        @contextlib.asynccontextmanager
        async def child_process(program: Sequence[str]) -> AsyncIterator[MemoryChild]:
            child = MemoryChild(load_s)
            self.started.append(child)
            try:
                yield child
            finally:
                child._working.cancel()

        monkeypatch.setattr(child_client, "child_process", child_process)

    @property
    def killed(self) -> int:
        return sum(child.was_killed for child in self.started)


def in_virtual_time(test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(test)


def link(**settings: Any) -> EngineClient:
    return EngineClient(Model(namespace="public", name="small", source="x"), EngineSettings(), **settings)


@pytest.mark.parametrize("idle_s", [0.0, 299.0, 1_800.0, 100_000.0])
def test_a_slow_first_request_after_idle_time_ends_no_engine(
    idle_s: float, make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(monkeypatch)

    async def test() -> None:
        async with link() as engine:
            for _ in range(3):
                await asyncio.sleep(idle_s)
                assert (await engine.run(make_request("slow 290"), [])).samples[0].text == "slow"
        assert (len(children.started), children.killed) == (1, 0)

    in_virtual_time(test())


def test_an_engine_that_hangs_is_ended_also_where_its_requests_have_short_deadlines(
    make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(monkeypatch)

    async def test() -> None:
        async with link() as engine:
            given_up = 0
            while not children.killed:
                given_up += 1
                assert given_up < 15, "nobody finds out"
                # Another comes once each has gone; the last one is tried again, and hangs the next engine.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(engine.run(make_request("hang"), []), 60)
                await asyncio.sleep(30)
            assert given_up >= 5
            assert (await engine.run(make_request("fine"), [])).samples[0].text == "fine"

    in_virtual_time(test())


def test_an_engine_that_loads_for_long_is_let_load_and_one_that_never_ends_is_ended(
    make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(monkeypatch, load_s=590.0)

    async def loads() -> None:
        async with link() as engine:
            assert (await engine.run(make_request("fine"), [])).samples[0].text == "fine"

    in_virtual_time(loads())
    assert (len(children.started), children.killed) == (1, 0)
    children = Children(monkeypatch, load_s=10_000.0)

    async def never() -> None:
        with pytest.raises(Refusal, match="did not start within 600 s"):
            async with link():
                pass

    in_virtual_time(never())


def test_who_is_told_to_stop_while_the_engine_starts_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    children = Children(monkeypatch, load_s=500.0)

    async def test() -> None:
        entering = asyncio.create_task(link().__aenter__())
        await asyncio.sleep(20)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert asyncio.get_running_loop().time() < 30
        assert asyncio.all_tasks() == {asyncio.current_task()}

    in_virtual_time(test())
    assert len(children.started) == 1


def test_a_request_is_given_up_once_and_leaves_nothing(
    make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(monkeypatch)

    async def test() -> None:
        async with link() as engine:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.run(make_request("slow 20"), []), 10)
            assert engine._engine.waiting == 0
            await engine.run(make_request("fine"), [])
            told = children.started[0].told
            assert [type(message) for message in told] == [Start, Admit, Cancel, Admit]
            assert isinstance(told[1], Admit)
            assert told[1].id == told[2].id

    in_virtual_time(test())


def test_what_is_asked_before_there_is_a_process_is_asked_of_the_next_and_ends_with_it(
    make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(monkeypatch)

    async def test() -> None:
        engine = link()._engine

        def admit(id_: str) -> Admit:
            return Admit(id=id_, request=make_request("hang"), artefacts=[])

        asking = asyncio.create_task(engine.ask(admit))
        await asyncio.sleep(0)
        living = asyncio.create_task(engine.live())
        await asyncio.sleep(50)
        assert not asking.done()
        children.started[0].kill()
        assert await living
        with pytest.raises(ChildEnded):
            await asking
        assert engine.waiting == 0

    in_virtual_time(test())


def test_what_nobody_waits_for_any_more_when_the_process_comes_is_not_sent(
    make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(monkeypatch)

    async def test() -> None:
        engine = link()._engine
        given_up = asyncio.create_task(engine.ask(lambda id_: Admit(id=id_, request=make_request("x"), artefacts=[])))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        engine.start(engine.live)
        await engine.ready.wait()
        await engine.close()
        assert [type(message) for message in children.started[0].told] == [Start, Stop]

    in_virtual_time(test())


def test_one_that_is_closed_starts_no_process_any_more_and_answers_nobody(
    make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children(monkeypatch)

    async def test() -> None:
        engine = link()._engine
        engine.start(engine.live)
        await engine.ready.wait()
        await engine.close()
        assert engine.closed
        engine.start(engine.live)
        with pytest.raises(ChildEnded):
            await engine.ask(lambda id_: Admit(id=id_, request=make_request("x"), artefacts=[]))
        await asyncio.sleep(100)
        assert len(children.started) == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    in_virtual_time(test())


def test_a_process_is_kept_by_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    children = Children(monkeypatch)

    async def test() -> None:
        engine = link()._engine
        for _ in range(3):
            engine.start(engine.live)
            await engine.ready.wait()
        assert len(children.started) == 1
        children.started[0].kill()
        await asyncio.sleep(1)
        engine.start(engine.live)
        await engine.ready.wait()
        assert len(children.started) == 2
        await engine.close()

    in_virtual_time(test())
