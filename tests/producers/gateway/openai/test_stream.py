"""Replies in OpenAI's form piece by piece: what clients put together is the text, or an error."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from openai.types import Completion as OpenAiCompletion
from openai.types.chat import ChatCompletionChunk
from tests.producers.gateway.openai.made import PROMPT, asked, reply

from guideway.producers.gateway.openai.parameters import Chat
from guideway.producers.gateway.openai.stream import DONE, Stream
from guideway.schemas.failures import Refusal
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Completed


def piece(text: str, number: int, *, sample: int = 0, attempt: int = 0) -> Partial:
    return Partial(
        id="r-1", namespace="shop", endpoint="write", sample=sample, attempt=attempt, number=number, text=text
    )


def chunks(sent: Iterable[bytes]) -> list[dict[str, Any]]:
    found = []
    for one in sent:
        assert one.startswith(b"data: ")
        assert one.endswith(b"\n\n")
        assert one.count(b"\n") == 2
        if one != DONE:
            found.append(json.loads(one[6:]))
    return found


def streamed(one: Chat, came: Iterable[Partial], whole: Completed) -> list[dict[str, Any]]:
    stream = Stream("r-1", one, created_s=1)
    sent = [chunk for partial in came for chunk in stream.piece(partial)]
    sent += stream.end(whole)
    assert sent[-1] == DONE
    assert sent.count(DONE) == 1
    return chunks(sent)


def texts(found: list[dict[str, Any]]) -> dict[int, str]:
    """As clients put them together."""
    whole: dict[int, str] = {}
    for chunk in found:
        ChatCompletionChunk.model_validate(chunk)
        for choice in chunk["choices"]:
            whole[choice["index"]] = whole.get(choice["index"], "") + choice["delta"].get("content", "")
    return whole


def test_pieces_become_deltas_between_the_role_and_the_end() -> None:
    found = streamed(asked(), [piece("Hi", 0), piece(" you", 1)], reply("Hi you!"))
    assert [(one["choices"][0]["delta"], one["choices"][0]["finish_reason"]) for one in found] == [
        ({"role": "assistant", "content": "", "refusal": None}, None),
        ({"content": "Hi"}, None),
        ({"content": " you"}, None),
        ({"content": "!"}, None),
        ({}, "stop"),
    ]
    assert found[-1]["guideway"]["endpoint_version"] == 3
    assert {one["id"] for one in found} == {"chatcmpl-r-1"}
    assert all("usage" not in one for one in found)


def test_the_usage_comes_last_where_it_is_asked_for() -> None:
    found = streamed(asked(stream_options={"include_usage": True}), [], reply("Hi"))
    assert all(one["usage"] is None for one in found[:-1])
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["total_tokens"] == 12


def test_a_value_without_pieces_is_one_delta() -> None:
    found = streamed(asked(), [], reply(True))
    assert [one["choices"][0]["delta"].get("content") for one in found] == ["", "true", None]


def test_samples_are_told_apart() -> None:
    came = [piece("Hi", 0), piece("Ho", 0, sample=1), piece("!", 1)]
    found = streamed(asked(n=2), came, reply("Hi!", "Ho"))
    assert texts(found) == {0: "Hi!", 1: "Ho"}
    assert [one["choices"][0]["index"] for one in found if one["choices"][0]["finish_reason"]] == [0, 1]
    assert sum("guideway" in one for one in found) == 1
    lost = streamed(asked(n=2), came[1:2], reply("Ho", lost=(0,)))
    assert [one["choices"][0]["index"] for one in lost if one["choices"][0]["finish_reason"]] == [1]
    assert lost[-1]["guideway"]["failed_samples"][0]["sample"] == 0


@pytest.mark.parametrize(
    "came",
    [
        [piece("Hi", 0), piece("H", 0, attempt=1), piece("i y", 1, attempt=1), piece("ou", 2, attempt=1)],
        [piece("Hi", 0), piece("H", 0, attempt=1), piece(" y", 1)],
        [piece("Hi", 0), piece("ou", 2)],
        [piece("", 0), piece("Hi", 1)],
        [piece("Hi you", 0), piece("Hi", 0, attempt=4)],
    ],
    ids=["begun anew", "late from the first", "one is missing", "an empty one", "the end only"],
)
def test_nothing_is_said_twice_or_left_out(came: list[Partial]) -> None:
    assert texts(streamed(asked(), came, reply("Hi you"))) == {0: "Hi you"}


def test_a_text_that_came_out_otherwise_is_an_error_and_no_mixture() -> None:
    stream = Stream("r-1", asked(), created_s=1)
    sent = [*stream.piece(piece("Hi", 0)), *stream.piece(piece("Ho", 0, attempt=1))]
    assert texts(chunks(sent)) == {0: "Hi"}
    with pytest.raises(Refusal, match="send the request again"):
        sent += stream.end(reply("Ho"))
    assert DONE not in sent


def test_a_text_completion_streams_texts() -> None:
    stream = Stream("r-1", PROMPT, created_s=1)
    found = chunks([*stream.piece(piece("Hi", 0)), *stream.end(reply("Hi you"))])
    for one in found:
        OpenAiCompletion.model_validate(one | {"choices": [c | {"finish_reason": "stop"} for c in one["choices"]]})
    assert [one["choices"][0]["text"] for one in found] == ["Hi", " you", ""]


def test_a_sample_that_fails_after_some_of_it_was_sent_ends_the_stream_with_an_error() -> None:
    stream = Stream("r-1", asked(n=2), created_s=1)
    sent = [chunk for one in (piece("Ye", 0), piece("No", 0, sample=1)) for chunk in stream.piece(one)]
    with pytest.raises(Refusal, match="sample 1: why"):
        # The other one is told whole before.
        sent.extend(stream.end(reply("Yes", lost=(1,))))
    assert DONE not in sent
    assert texts(chunks(sent)) == {0: "Yes", 1: "No"}
