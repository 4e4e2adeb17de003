"""What becomes of a value that is less probable than its endpoint's `min_confidence`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.output import Below, Boolean, Choice, DoubtfulTarget, OutputRule, Text
from guideway.schemas.reply import Alternative, Completed, TokenLogprob
from guideway.schemas.request import Part, ReplyAddress, Request
from guideway.workers.answers import addresses_of, completed_reply
from guideway.workers.messages.from_engine import Finished, Generated, TextToken

PEOPLE = DoubtfulTarget("people")


def rule(below: Below = None) -> Choice:
    return Choice(["good", "bad"], probabilities=True, min_confidence=0.8, below=below)


def request(output: OutputRule, caller: str | None = None) -> Request:
    return Request(
        id="r",
        namespace="shop",
        endpoint="mood",
        endpoint_version=1,
        parts=[Part(kind="input", source="caller", text="hello")],
        guidance=[],
        output=output,
        words=[],
        generation=Generation(),
        reply_to=[ReplyAddress(topic=f"gw.{caller or 'shop'}.mine.out.v1")],
        deadline_ms=None,
        caller=caller,
    )


def reply(output: OutputRule, *texts: tuple[str, dict[str, float] | None], **more: Any) -> Completed:
    samples = [Generated(text=text, finish_reason="stop", probabilities=told, **more) for text, told in texts]
    finished = Finished(id="r", samples=samples, prompt_tokens=1, output_tokens=1)
    return completed_reply(request(output), finished, "sha256:0")


SURE = ("good", {"good": 0.8, "bad": 0.2})
UNSURE = ("good", {"good": 0.7999, "bad": 0.2001})


def test_from_min_confidence_on_a_value_is_told() -> None:
    [sample] = reply(rule(), SURE).samples
    assert (sample.value, sample.probabilities, sample.doubtful) == ("good", SURE[1], False)


def test_below_it_the_value_is_null_and_the_rest_is_told() -> None:
    [sample] = reply(rule(), UNSURE).samples
    assert (sample.value, sample.text, sample.probabilities, sample.doubtful) == (None, "good", UNSURE[1], True)


def test_or_it_fails() -> None:
    with pytest.raises(
        Refusal, match=r"^not_confident: 'good' has a probability of 0.7999, and .+ from 0.8 on: "
    ) as caught:
        reply(rule("failed"), UNSURE)
    assert caught.value.code is FailureCode.NOT_CONFIDENT
    assert not caught.value.code.retryable


def test_or_it_is_told_to_a_target_as_well() -> None:
    told = reply(rule(PEOPLE), UNSURE)
    [sample] = told.samples
    assert (sample.value, sample.doubtful) == ("good", True)
    assert [one.topic for one in addresses_of(request(rule(PEOPLE)), told)] == [
        "gw.shop.mine.out.v1",
        "gw.shop.people.out.v1",
    ]
    # What others send is not for the owner's people.
    assert len(addresses_of(request(rule(PEOPLE), caller="guest"), told)) == 1
    assert len(addresses_of(request(rule(PEOPLE)), reply(rule(PEOPLE), SURE))) == 1


def test_each_sample_is_judged_by_its_own_label() -> None:
    told = reply(rule("failed"), SURE, ("bad", SURE[1]))
    assert [one.text for one in told.samples] == ["good"]
    assert told.failed_samples is not None
    assert [(one.sample, one.code) for one in told.failed_samples] == [(1, FailureCode.NOT_CONFIDENT)]
    told = reply(rule(PEOPLE), SURE, ("bad", SURE[1]))
    assert [one.doubtful for one in told.samples] == [False, True]
    assert len(addresses_of(request(rule(PEOPLE)), told)) == 2


def test_a_boolean_is_judged_as_it_is_spelled() -> None:
    boolean = Boolean("yes/no", probabilities=True, min_confidence=0.9)
    [sample] = reply(boolean, ("no", {"no": 0.95, "yes": 0.05})).samples
    assert (sample.value, sample.doubtful) == (False, False)


def test_tokens_are_told_with_the_likeliest_in_their_place() -> None:
    token = TextToken(text="good", logprob=-0.5, top=[("bad", -0.25)])
    [sample] = reply(Text(logprobs=1), ("good", None), tokens=[token]).samples
    assert sample.logprobs == [TokenLogprob(text="good", logprob=-0.5, top=[Alternative(text="bad", logprob=-0.25)])]
    assert sample.probabilities is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"min_confidence": 0.5}, "add `probabilities: true`"),
        ({"probabilities": True, "below": "failed"}, "add `min_confidence`"),
        ({"probabilities": True, "min_confidence": 1}, "< 1"),
        ({"probabilities": True, "min_confidence": 0}, "> 0"),
        ({"probabilities": True, "labels": [str(i) for i in range(257)]}, "at most 256 labels, and there are 257"),
        ({"probabilities": True, "min_confidence": 0.5, "below": {"target": "A"}}, "below"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert({"type": "choice", "labels": ["a", "b"], **fields}, Choice)
