"""Answers of a trial that a service has not seen yet, of another trial, and of one that answers nothing."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from guideway.producers.client.client import Client
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Choice
from guideway.schemas.reply import Completed, Failed, Reply, Sample, Usage
from guideway.training.replays.answers import Asked, Given, Question
from guideway.usecases.replay.asking import SILENCE_S, AllRefused, Asking, Silence, Watch
from guideway.usecases.replay.folder import Plan, missing

RULE = Choice(["glad", "sad"])
ROWS = [Asked(number=n, id=str(n), content=f"text {n}") for n in range(1, 31)]


def plan() -> Plan:
    question = Question(address="/shop/mood", version=1, now=RULE, new=RULE, changes={"a": "b"}, source="x")
    now, new = (Endpoint(namespace="shop", name=name, model_size="small", output=RULE) for name in ("t-now", "t-new"))
    return Plan(id="one", asked_for={}, question=question, now=now, new=new, rows=len(ROWS))


def completed(version: int) -> Completed:
    return Completed(
        id="1",
        namespace="shop",
        endpoint="mood",
        endpoint_version=version,
        samples=[Sample(value="sad", text="sad", finish_reason="stop")],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="",
    )


def failed(code: FailureCode) -> Failed:
    return Failed(id="1", namespace="shop", endpoint="mood", code=code, message="why", retryable=code.retryable)


class Answering:
    """In place of a client."""

    def __init__(self, reply: Callable[[str, int], Reply]) -> None:
        """reply: of an address, and how often that was called before."""
        self._reply = reply
        self.calls: dict[str, int] = {}
        self.at_once = self.most = 0

    async def submit(self, address: str, content: object, **_: Any) -> Reply:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        number = self.calls[address] = self.calls.get(address, 0) + 1
        return self._reply(address, number - 1)


async def ask(answering: Answering, monkeypatch: pytest.MonkeyPatch, in_flight: int = 4) -> list[Given]:
    at_once = asyncio.sleep

    async def soon(_: float) -> None:
        await at_once(0)

    monkeypatch.setattr("asyncio.sleep", soon)
    stream = io.BytesIO()
    made = Asking(cast(Client, answering), plan(), {"now": 3, "new": 4}, stream, Watch())
    try:
        await made.all_of(iter(missing(plan(), ROWS, {})), in_flight)
    finally:
        monkeypatch.undo()
    return [msgspec.json.decode(line, type=Given) for line in stream.getvalue().splitlines()]


def version_of(address: str) -> int:
    return 3 if address.endswith("now") else 4


async def test_each_row_is_answered_once_by_each_and_few_are_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    answering = Answering(lambda address, _: completed(version_of(address)))
    found = await ask(answering, monkeypatch)
    assert len({(one.side, one.number) for one in found}) == len(found) == 60
    assert answering.most == 4


@pytest.mark.parametrize(
    "early", [completed(1), failed(FailureCode.UNKNOWN_ENDPOINT), failed(FailureCode.INTERNAL_ERROR)]
)
async def test_what_passes_is_asked_again(monkeypatch: pytest.MonkeyPatch, early: Reply) -> None:
    answering = Answering(lambda address, before: early if before < 4 else completed(version_of(address)))
    found = await ask(answering, monkeypatch)
    assert len(found) == 60
    assert not [one for one in found if one.failure]


async def test_a_quota_is_waited_for_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    beyond = failed(FailureCode.QUOTA_EXCEEDED)
    found = await ask(Answering(lambda address, n: completed(version_of(address)) if n > 200 else beyond), monkeypatch)
    assert len(found) == 60
    assert not [one for one in found if one.failure]


@pytest.mark.parametrize("other", [completed(9), failed(FailureCode.UNKNOWN_ENDPOINT)])
async def test_answers_of_another_trial_are_never_taken_for_ours(monkeypatch: pytest.MonkeyPatch, other: Reply) -> None:
    answering = Answering(lambda address, before: completed(version_of(address)) if before < 10 else other)
    with pytest.raises(Refusal, match="not the trial of this replay any more"):
        await ask(answering, monkeypatch)


async def test_a_trial_without_any_result_is_refused_and_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(address: str, _: int) -> Reply:
        return completed(3) if address.endswith("now") else failed(FailureCode.GUIDANCE_WRONG_MODEL)

    with pytest.raises(AllRefused, match="the new endpoint has no result for any row: why") as caught:
        await ask(Answering(reply), monkeypatch)
    assert caught.value.code is FailureCode.GUIDANCE_WRONG_MODEL


async def test_some_failures_are_results(monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(address: str, before: int) -> Reply:
        return failed(FailureCode.TEXT_TOO_LONG) if before % 3 else completed(version_of(address))

    found = await ask(Answering(reply), monkeypatch)
    assert sum(one.failure == "text_too_long" for one in found) == 40


def test_a_trial_is_silent_while_it_owes_a_result_and_gives_none() -> None:
    silence, later = Silence(), 100 + SILENCE_S
    assert not silence.of(1000)
    silence.asked("now", 100)
    silence.asked("now", 110)
    silence.asked("new", 110)
    assert silence.of(later - 0.1) == {}
    assert silence.of(later) == {"now": ""}
    silence.put_off("new", "the limit is reached")
    assert silence.of(later + 10) == {"now": "", "new": "the limit is reached"}
    silence.answered("now", later)
    silence.answered("new", later)
    assert silence.of(later + SILENCE_S) == {"now": ""}, "it owes another"
    silence.answered("now", later + SILENCE_S)
    assert silence.of(later + 1000) == {}
    silence.asked("new", later + 1000)
    assert silence.of(later + 1001) == {}, "nobody asked meanwhile"
