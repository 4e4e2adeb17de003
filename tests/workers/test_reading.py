"""Generated text as typed values, and what does not have its declared form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.schemas.request import GuidanceRef, Part, Request
from guideway.workers.messages import Finished, Generated
from guideway.workers.reading import read_value
from guideway.workers.worker import completed_reply

LABELS = WordLabels(labels=["A", "B"])


@pytest.mark.parametrize(
    ("text", "rule", "words", "value"),
    [
        ("so it is", Text(), [], "so it is"),
        ("good", Choice(labels=["good", "bad"]), [], "good"),
        ("yes", Boolean(spelling="yes/no"), [], True),
        ("0", Boolean(spelling="1/0"), [], False),
        ("false", Boolean(), [], False),
        ("-12.50", Number(), [], -12.5),
        ("7", Number(), [], 7),
        ('{"a":[1,null]}', Json(schema={}), [], {"a": [1, None]}),
        ("2026", Regex(pattern="[0-9]{4}"), [], "2026"),
        ("Is/A it/B", LABELS, ["Is", "it"], [["Is", "A"], ["it", "B"]]),
        ("a/b/A c/B", LABELS, ["a/b", "c"], [["a/b", "A"], ["c", "B"]]),
    ],
)
def test_values(text: str, rule: OutputRule, words: list[str], value: Any) -> None:
    read = read_value(text, rule, words)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "rule", "words"),
    [
        ("ugly", Choice(labels=["good", "bad"]), []),
        ("yes", Boolean(), []),
        ("seven", Number(), []),
        ("{", Json(schema={}), []),
        ("Is/C", LABELS, ["Is"]),
        ("Is/A", LABELS, ["Is", "it"]),
        ("Is/A it/B", LABELS, ["Is"]),
        ("it/A", LABELS, ["Is"]),
    ],
)
def test_a_broken_promise_is_noticed(text: str, rule: OutputRule, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_value(text, rule, words)


def finished(text: str, *, complete: bool = True) -> Finished:
    generated = Generated(text=text, finish_reason="stop" if complete else "length", complete=complete)
    return Finished(id="0", samples=[generated], prompt_tokens=5, output_tokens=2)


def test_a_reply_says_what_guided_the_model(make_request: Callable[..., Request]) -> None:
    request = make_request(
        parts=[
            Part(kind="instruction", source="endpoint", text="Answer."),
            Part(kind="instruction", source="public/brief@3", text="Be brief."),
            Part(kind="input", source="caller", text="x"),
        ],
        guidance=[GuidanceRef(namespace="team", name="tone", version=1)],
    )
    reply = completed_reply(request, finished("ok"), "sha256:f")
    assert reply.guidance == ["team/tone@1", "public/brief@3"]
    assert (reply.value, reply.usage.prompt_tokens, reply.model_fingerprint) == ("ok", 5, "sha256:f")


def test_an_incomplete_form_is_a_failure_that_says_what_to_raise(make_request: Callable[..., Request]) -> None:
    with pytest.raises(Refusal, match=r"generation\.max_tokens") as caught:
        completed_reply(make_request(output=Json(schema={})), finished("{", complete=False), "f")
    assert caught.value.code is FailureCode.OUTPUT_INCOMPLETE


def test_a_number_that_was_cut_off_is_no_number(make_request: Callable[..., Request]) -> None:
    generated = Generated(text="1234", finish_reason="length", complete=True)
    cut = Finished(id="0", samples=[generated], prompt_tokens=5, output_tokens=4)
    with pytest.raises(Refusal) as caught:
        completed_reply(make_request(output=Number()), cut, "f")
    assert caught.value.code is FailureCode.OUTPUT_INCOMPLETE
