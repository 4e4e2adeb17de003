"""Which pieces count, and what the reply adds to them. No broker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from guideway.delivery.replies import failed
from guideway.producers.client.partial_reader import streamed
from guideway.producers.client.partial_text import PartialText
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.partial import Partial, Streamed
from guideway.schemas.reply import Completed, FailedSample, Reply, Sample, Usage


def piece(text: str, number: int, *, attempt: int = 1, sample: int = 0) -> Partial:
    return Partial(id="a", namespace="n", endpoint="e", sample=sample, attempt=attempt, number=number, text=text)


def completed(*texts: str, lost: Sequence[int] = (), attempt: int = 1, pieces: Sequence[int] = (2,)) -> Completed:
    return Completed(
        id="a",
        namespace="n",
        endpoint="e",
        endpoint_version=1,
        samples=[Sample(value=text, text=text, finish_reason="stop") for text in texts],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="",
        failed_samples=[FailedSample(sample=one, code=FailureCode.OUTPUT_INCOMPLETE, message="") for one in lost]
        or None,
        partials=Streamed(attempt=attempt, pieces=[*pieces]),
    )


FAILED = failed("a", "n", "e", Refusal(FailureCode.OUTPUT_INCOMPLETE, "cut"))


def test_pieces_in_order_are_the_text_and_the_reply_adds_what_is_missing() -> None:
    text = PartialText()
    assert text.take(piece("The ", 0))
    assert text.take(piece("Earth", 1))
    assert text.rest(completed("The Earth")) == []
    assert text.rest(completed("The Earth is round")) == [piece(" is round", 2)]
    assert text.texts == {0: "The Earth is round"}


def test_repeats_and_what_follows_a_gap_are_left_out() -> None:
    text = PartialText()
    assert text.take(piece("a", 0))
    assert not text.take(piece("a", 0))
    assert not text.take(piece("c", 2))
    assert not text.take(piece("d", 3))
    assert text.rest(completed("abcd")) == [piece("bcd", 1)]


def test_a_higher_attempt_begins_anew_and_a_lower_one_counts_no_more() -> None:
    text = PartialText()
    assert text.take(piece("The mo", 0))
    assert text.take(piece("The", 0, attempt=5))
    assert not text.take(piece("on", 1))
    assert text.take(piece(" sun", 1, attempt=5))
    assert text.rest(completed("The sun.", attempt=5)) == [piece(".", 2, attempt=5)]


def test_a_reply_of_another_attempt_is_told_as_a_whole() -> None:
    text = PartialText()
    assert text.take(piece("The mo", 0, attempt=7))
    assert text.rest(completed("The sun", attempt=9)) == [piece("The sun", 0, attempt=9)]
    assert text.take(piece("The mo", 0, attempt=10))
    # By a clock that goes behind the other worker's: still above what was seen.
    assert text.rest(completed("The sun", attempt=2)) == [piece("The sun", 0, attempt=11)]


def test_samples_are_told_apart_also_where_some_have_failed() -> None:
    text = PartialText()
    assert text.take(piece("x", 0, sample=0))
    assert text.take(piece("thr", 0, sample=2))
    assert text.rest(completed("two", "three", lost=[0])) == [piece("two", 0, sample=1), piece("ee", 1, sample=2)]


def test_a_failed_reply_adds_nothing() -> None:
    text = PartialText()
    assert text.take(piece("x", 0))
    assert text.rest(FAILED) == []


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_or_repeated_the_pieces_of_the_last_attempt_are_the_text(seed: int) -> None:
    draw = random.Random(seed)
    sent = [piece(f"{attempt}-{number} ", number, attempt=attempt) for attempt in (3, 4) for number in range(6)]
    arrived = [one for one in sent for _ in range(draw.choice([0, 1, 1, 1, 2]))]
    whole = "".join(one.text for one in sent if one.attempt == 4)
    text = PartialText()
    told = [one for one in arrived if text.take(one)]
    told += text.rest(completed(whole, attempt=4))
    last = max(one.attempt for one in told)
    assert "".join(one.text for one in told if one.attempt == last) == whole


async def _streamed(pieces: Sequence[Partial], reply: Reply, *, reply_first: bool) -> list[Partial | Reply]:
    queue: asyncio.Queue[Partial] = asyncio.Queue()
    answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    if reply_first:
        answer.set_result(reply)
    for one in pieces:
        queue.put_nowait(one)
    told: list[Partial | Reply] = []
    async for part in streamed(queue, answer, timeout_s=60):
        told.append(part)
        if len(told) == len(pieces) and not answer.done():
            answer.set_result(reply)
    return told


@pytest.mark.parametrize("reply_first", [False, True])
async def test_a_stream_ends_with_the_reply_whichever_comes_first(reply_first: bool) -> None:
    reply = completed("ab.")
    told = await _streamed([piece("a", 0), piece("b", 1)], reply, reply_first=reply_first)
    assert told == [piece("a", 0), piece("b", 1), piece(".", 2), reply]
    assert await _streamed([piece("a", 0)], FAILED, reply_first=reply_first) == [piece("a", 0), FAILED]


async def test_a_stream_without_a_reply_ends_in_time() -> None:
    nobody: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError):
        async for _ in streamed(asyncio.Queue(), nobody, timeout_s=0.01):
            pass
