"""The client to the retrieval process: started when needed, outlived, and refused with a code when it does not help."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Model
from guideway.schemas.retrieval import Retrieval, SetRef
from guideway.workers.retrieval.retrieval_client import RetrievalClient
from guideway.workers.retrieval.settings import RetrievalSettings

MODEL = Model(namespace="public", name="small", source="x")
MakeLink = Callable[..., RetrievalClient]


def lookup(query: str) -> Retrieval:
    return Retrieval(sets=[SetRef(namespace="team", name="facts", version=1)], query=query)


@pytest.fixture
def starts(tmp_path: Path) -> Callable[[], int]:
    """How often the process was started."""
    file = tmp_path / "starts"
    return lambda: file.read_text().count("started") if file.exists() else 0


@pytest.fixture
def make_link(tmp_path: Path) -> MakeLink:
    program = (sys.executable, str(Path(__file__).with_name("fake_process.py")), str(tmp_path / "starts"))

    def make(embedding: str = "fine", silence_s: float = 300) -> RetrievalClient:
        return RetrievalClient(
            RetrievalSettings(embedding=embedding), MODEL, "models", program=program, silence_s=silence_s
        )

    return make


async def test_it_is_started_by_the_first_lookup_only(make_link: MakeLink, starts: Callable[[], int]) -> None:
    async with make_link() as client:
        await asyncio.sleep(0.2)
        assert starts() == 0
        found = await asyncio.gather(*(client.look_up(lookup(f"q{i}"), []) for i in range(20)))
        assert [one[0].text for one in found] == [f"q{i}" for i in range(20)]
    assert starts() == 1


async def test_its_death_costs_its_neighbours_nothing(make_link: MakeLink) -> None:
    async with make_link() as client:
        poison = asyncio.create_task(client.look_up(lookup("die"), []))
        fine = [asyncio.create_task(client.look_up(lookup(f"fine{i}"), [])) for i in range(5)]
        with pytest.raises(Refusal) as caught:
            await poison
        assert caught.value.code is FailureCode.RETRIEVAL_FAILED
        assert caught.value.code.retryable
        assert [(await one)[0].text for one in fine] == [f"fine{i}" for i in range(5)]
        assert (await client.look_up(lookup("later"), []))[0].text == "later"


async def test_after_three_deaths_in_a_row_it_is_left_alone(make_link: MakeLink, starts: Callable[[], int]) -> None:
    async with make_link() as client:
        with pytest.raises(Refusal):
            await client.look_up(lookup("die"), [])
        with pytest.raises(Refusal) as caught:
            await asyncio.wait_for(client.look_up(lookup("later"), []), 1)
        assert caught.value.code is FailureCode.RETRIEVAL_FAILED
    assert starts() == 3


async def test_a_refusal_is_the_lookups_own(make_link: MakeLink) -> None:
    async with make_link() as client:
        with pytest.raises(Refusal) as caught:
            await client.look_up(lookup("refuse"), [])
        assert caught.value.code is FailureCode.GUIDANCE_DAMAGED
        assert (await client.look_up(lookup("fine"), []))[0].text == "fine"


async def test_a_process_that_cannot_load_says_why(make_link: MakeLink) -> None:
    async with make_link("broken") as client:
        with pytest.raises(Refusal, match="no such model") as caught:
            await client.look_up(lookup("fine"), [])
        assert caught.value.code is FailureCode.SET_WRONG_EMBEDDING


async def test_a_silent_process_is_ended(make_link: MakeLink) -> None:
    async with make_link(silence_s=0.4) as client:
        with pytest.raises(Refusal) as caught:
            await asyncio.wait_for(client.look_up(lookup("hang"), []), 20)
        assert caught.value.code is FailureCode.RETRIEVAL_FAILED


async def test_a_lookup_that_nobody_waits_for_any_more_disturbs_none(make_link: MakeLink) -> None:
    async with make_link() as client:
        await client.look_up(lookup("first"), [])
        given_up = asyncio.create_task(client.look_up(lookup("second"), []))
        await asyncio.sleep(0)
        given_up.cancel()
        assert (await client.look_up(lookup("third"), []))[0].text == "third"


async def test_who_waits_while_it_is_closed_is_refused_and_starts_it_no_more(
    make_link: MakeLink, starts: Callable[[], int]
) -> None:
    async with make_link() as client:
        await client.look_up(lookup("first"), [])
        waiting = asyncio.create_task(client.look_up(lookup("wait"), []))
        await asyncio.sleep(0.1)
    with pytest.raises(Refusal, match="closed because its worker ends") as caught:
        await asyncio.wait_for(waiting, 5)
    assert caught.value.code is FailureCode.RETRIEVAL_FAILED
    await asyncio.sleep(0.3)
    assert starts() == 1
    with pytest.raises(Refusal, match="closed because its worker ends"):
        await client.look_up(lookup("late"), [])


async def test_texts_are_embedded_in_the_same_process(make_link: MakeLink, starts: Callable[[], int]) -> None:
    async with make_link() as client:
        found, passages = await asyncio.gather(client.embed(["ab", "c"]), client.look_up(lookup("q"), []))
        assert (found.dimension, found.vectors) == (1, b"\x02\x00\x00\x00\x01\x00\x00\x00")
        assert passages[0].text == "q"
        with pytest.raises(Refusal) as caught:
            await client.embed(["die"])
        assert caught.value.code is FailureCode.RETRIEVAL_FAILED
