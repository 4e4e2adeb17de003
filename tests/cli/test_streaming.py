"""What `send --stream` prints."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from tests.producers.client.test_partial_text import FAILED, completed, piece

from guideway.cli.streaming import left, shown
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Completed, Reply


def ready() -> None:
    """Nobody waits for the first piece here."""


async def stream(parts: Sequence[Partial | Reply]) -> AsyncIterator[Partial | Reply]:
    for one in parts:
        yield one


async def test_the_first_sample_is_printed_as_it_comes_and_what_is_left_are_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts: list[Partial | Reply] = [piece("The ", 0), piece("x", 0, sample=1), piece("Earth\x1b[2J", 1)]
    reply = await shown(stream([*parts, completed("The Earth", "x")]), as_json=False, on_first=ready)
    assert capsys.readouterr().out == "The Earth\\u001b[2J\n"
    rest = left(reply)
    assert isinstance(rest, Completed)
    assert [one.text for one in rest.samples] == ["x"]
    assert left(FAILED) is FAILED


async def test_a_text_that_max_tokens_cut_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    whole = completed("The Ea")
    cut = msgspec.structs.replace(whole, samples=[msgspec.structs.replace(whole.samples[0], finish_reason="length")])
    await shown(stream([piece("The Ea", 0), cut]), as_json=False, on_first=ready)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("The Ea\n", "the text is cut at generation.max_tokens\n")


def test_a_doubtful_value_is_printed_beside_the_label_that_was_written() -> None:
    whole = completed("good")
    doubtful = msgspec.structs.replace(whole.samples[0], value=None, doubtful=True)
    reply = msgspec.structs.replace(whole, samples=[doubtful])
    assert left(reply) is reply


async def test_a_text_that_is_begun_again_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    parts: list[Partial | Reply] = [piece("The mo", 0), piece("The sun", 0, attempt=2), FAILED]
    assert await shown(stream(parts), as_json=False, on_first=ready) is FAILED
    told = capsys.readouterr()
    assert told.out == "The mo\nThe sun\n"
    assert "begun again" in told.err


async def test_the_first_piece_is_told_and_what_breaks_the_text_off_begins_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def broken() -> AsyncIterator[Partial | Reply]:
        yield piece("The mo", 0)
        raise TimeoutError

    begun: list[str] = []
    with pytest.raises(TimeoutError):
        await shown(broken(), as_json=False, on_first=lambda: begun.append(capsys.readouterr().out))
    assert begun == [""]
    assert capsys.readouterr().out == "The mo\n"


async def test_as_json_each_piece_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    await shown(stream([piece("a", 0), piece("b", 0, sample=1), completed("a", "b")]), as_json=True, on_first=ready)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["sample"], one["text"]) for one in lines] == [(0, "a"), (1, "b")]
