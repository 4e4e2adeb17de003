"""Generated text as typed values, and what does not have its declared form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels
from guideway.schemas.reply import Completed, Sample, Usage
from guideway.schemas.request import GuidanceRef, Part, Request
from guideway.schemas.wire import REPLY
from guideway.workers.answers import completed_reply
from guideway.workers.messages.from_engine import Finished, Generated, SampleFailure
from guideway.workers.output_parser import read_value

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


@pytest.mark.parametrize(
    "text",
    [
        "1e400",
        "-1e400",
        '{"a":[1e309]}',
        "9" * 309 + ".5",
        "9" * 5000,
        "[" * 501 + "1" + "]" * 501,
        "[" * 5000 + "]" * 5000,
        '{"a":1,"b":[{"x:":2,"x:":2}]}',
    ],
    ids=lambda text: text[:12],
)
def test_json_that_no_reader_could_hold_is_the_schemas_affair(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_value(text, Json(schema={}), [])
    assert caught.value.code is FailureCode.OUTPUT_UNREADABLE
    assert not caught.value.code.retryable
    assert "schema" in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "1e308",
        "9" * 309,
        "1e-400",
        "-0.0",
        "-0",
        "[" * 500 + "]" * 500,
        '["' + "[" * 600 + '"]',
        '{"a:":{"a:":"\\\\\\":"},"b":":","":{}}',
        "[[]," * 9 + "1" + "]" * 9,
    ],
)
def test_json_that_a_reader_can_hold_arrives(text: str) -> None:
    value = read_value(text, Json(schema={}), [])
    assert value == json.loads(text)
    assert REPLY.decode(REPLY.encode(completed_of(value))).value == value


def completed_of(value: Any) -> Completed:
    sample = Sample(value=value, text="", finish_reason="stop")
    return Completed(
        id="r",
        namespace="team",
        endpoint="task",
        endpoint_version=1,
        samples=[sample],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="f",
    )


INCOMPLETE = SampleFailure(code=FailureCode.OUTPUT_INCOMPLETE, message="9 tokens were not enough")


def generated(text: str, failure: SampleFailure | None = None) -> Generated:
    return Generated(text=text, finish_reason="length" if failure else "stop", failure=failure)


def finished(*samples: Generated) -> Finished:
    return Finished(id="0", samples=list(samples), prompt_tokens=5, output_tokens=2)


def test_a_reply_says_what_guided_the_model(make_request: Callable[..., Request]) -> None:
    request = make_request(
        parts=[
            Part(kind="instruction", source="endpoint", text="Answer."),
            Part(kind="instruction", source="public/brief@3", text="Be brief."),
            Part(kind="input", source="caller", text="x"),
        ],
        guidance=[GuidanceRef(namespace="team", name="tone", version=1)],
    )
    reply = completed_reply(request, finished(generated("ok")), "sha256:f")
    assert reply.guidance == ["team/tone@1", "public/brief@3"]
    assert (reply.value, reply.usage.prompt_tokens, reply.model_fingerprint) == ("ok", 5, "sha256:f")
    assert b"failed_samples" not in REPLY.encode(reply)


def test_what_the_engine_says_of_a_sample_is_said_to_the_caller(make_request: Callable[..., Request]) -> None:
    with pytest.raises(Refusal) as caught:
        completed_reply(make_request(output=Json(schema={})), finished(generated("{", INCOMPLETE)), "f")
    assert (caught.value.code, caught.value.message) == (INCOMPLETE.code, INCOMPLETE.message)


def test_samples_that_are_whole_are_the_reply_and_the_others_are_told(make_request: Callable[..., Request]) -> None:
    samples = finished(generated("1", INCOMPLETE), generated("2"), generated("1e400"), generated("[3]"))
    reply = completed_reply(make_request(output=Json(schema={})), samples, "f")
    assert [sample.value for sample in reply.samples] == [2, [3]]
    assert reply.value == 2
    assert reply.usage.output_tokens == 2
    assert reply.failed_samples is not None
    assert [(one.sample, one.code) for one in reply.failed_samples] == [
        (0, FailureCode.OUTPUT_INCOMPLETE),
        (2, FailureCode.OUTPUT_UNREADABLE),
    ]
    assert REPLY.decode(REPLY.encode(reply)) == reply


def test_where_no_sample_is_whole_the_reply_has_the_code_of_most(make_request: Callable[..., Request]) -> None:
    samples = finished(generated("1e400"), *[generated("1", INCOMPLETE)] * 2)
    with pytest.raises(Refusal) as caught:
        completed_reply(make_request(output=Json(schema={})), samples, "f")
    assert caught.value.code is FailureCode.OUTPUT_INCOMPLETE
    assert caught.value.message == f"none of 3 samples is whole: {INCOMPLETE.message}"
