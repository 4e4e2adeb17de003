"""A reply as a Protobuf message has everything that it has as JSON, or says that it has not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from google.protobuf import json_format

from guideway.schemas.failures import FailureCode
from guideway.schemas.partial import Streamed
from guideway.schemas.protobuf.messages import message
from guideway.schemas.protobuf.replies import reply_message, reply_of
from guideway.schemas.reply import Alternative, Completed, Failed, FailedSample, Sample, TokenLogprob, Usage
from guideway.schemas.retrieval import Citation

FAILED = Failed(
    id="7", namespace="shop", endpoint="mood", code=FailureCode.TEXT_TOO_LONG, message="shorten it", retryable=False
)


def completed(value: Any = "good", **more: Any) -> Completed:
    return Completed(
        id="7",
        namespace="shop",
        endpoint="mood",
        endpoint_version=3,
        samples=[Sample(value=value, text="it is good", finish_reason="stop")],
        usage=Usage(prompt_tokens=28, output_tokens=2**40),
        guidance=["shop/brief@1", "shop/tone@2*0.5"],
        model_fingerprint="sha256:00",
        **more,
    )


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def test_a_reply_is_whole() -> None:
    reply = completed(
        calibration="fitted",
        citations=[Citation(id="p1", set="shop/facts", version=2, score=0.75)],
        failed_samples=[FailedSample(sample=1, code=FailureCode.OUTPUT_INCOMPLETE, message="shorten it")],
        partials=Streamed(attempt=2**50, pieces=[3, 2**20]),
    )
    # As a reader sees it: from bytes.
    read = message("guideway.v1.Reply").FromString(reply_message(reply).SerializeToString())
    plain = json_format.MessageToDict(read, preserving_proto_field_name=True)
    expected = msgspec.to_builtins(reply)
    for name in ("schema", "id", "namespace", "endpoint"):
        expected.pop(name)
    expected["samples"][0] |= {"value_json": '"good"', "finish_reason": "FINISH_REASON_STOP"}
    expected["usage"] = {"prompt_tokens": "28", "output_tokens": str(2**40)}
    expected["partials"]["attempt"] = str(2**50)
    expected["citations"] = {"passages": expected["citations"]}
    assert plain == {"id": "7", "namespace": "shop", "endpoint": "mood", "completed": expected}


def test_a_reply_is_read_back_as_it_was() -> None:
    whole = completed(
        {"a": [1, 2**60, None, 0.1]},
        calibration="fitted",
        citations=[Citation(id="p1", set="shop/facts", version=2, score=0.75)],
        failed_samples=[FailedSample(sample=1, code=FailureCode.OUTPUT_INCOMPLETE, message="shorten it")],
    )
    for reply in (completed(), completed(None), completed(citations=[]), whole, FAILED):
        assert reply_of(reply_message(reply).SerializeToString()) == reply


def test_what_it_tells_of_probabilities_is_whole() -> None:
    top = [Alternative(text="it", logprob=-0.5), Alternative(text="It", logprob=-1.5)]
    sample = Sample(
        value=None,
        text="good",
        finish_reason="stop",
        probabilities={"good": 0.6, "bad": 0.4},
        doubtful=True,
        logprobs=[TokenLogprob(text="good", logprob=-0.25, top=top)],
    )
    reply = msgspec.structs.replace(completed(), samples=[sample])
    assert reply_of(reply_message(reply).SerializeToString()) == reply
    read = message("guideway.v1.Reply").FromString(reply_message(reply).SerializeToString())
    [plain] = json_format.MessageToDict(read, preserving_proto_field_name=True)["completed"]["samples"]
    assert plain == {
        **msgspec.to_builtins(sample),
        "value_json": "null",
        "finish_reason": "FINISH_REASON_STOP",
        "probabilities": [{"label": "good", "probability": 0.6}, {"label": "bad", "probability": 0.4}],
    }


def test_a_failure_is_whole() -> None:
    read = message("guideway.v1.Reply").FromString(reply_message(FAILED).SerializeToString())
    assert read.WhichOneof("outcome") == "failed"
    assert (read.failed.code, read.failed.message) == ("text_too_long", "shorten it")
    assert (read.id, read.namespace, read.endpoint) == ("7", "shop", "mood")


def test_no_citation_is_not_no_search() -> None:
    assert not reply_message(completed()).completed.HasField("citations")
    assert reply_message(completed(citations=[])).completed.HasField("citations")


@pytest.mark.parametrize(
    "value",
    [True, False, None, 0, -1, 2**53, -(2**53), 0.1, "", "é\0", [], {}, [[], {"": [None]}], nested(30)],
)
def test_a_value_keeps_its_type(value: Any) -> None:
    [sample] = reply_message(completed(value)).completed.samples
    read = message("guideway.v1.Sample").FromString(sample.SerializeToString())
    assert read.HasField("value")
    assert msgspec.json.decode(read.value_json) == value
    seen = json_format.MessageToDict(read.value)
    assert seen == value
    assert isinstance(seen, bool) == isinstance(value, bool)


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, [1, {"a": 10**30}], nested(31), [nested(30)]])
def test_what_a_double_cannot_hold_is_in_json_only(value: Any) -> None:
    [sample] = reply_message(completed(value)).completed.samples
    assert not sample.HasField("value")
    assert msgspec.json.decode(sample.value_json) == value


def test_the_deepest_value_can_be_read_inside_an_answer() -> None:
    answer = message("guideway.v1.RunStreamResponse")(reply=reply_message(completed(nested(30))))
    read = message("guideway.v1.RunStreamResponse").FromString(answer.SerializeToString())
    assert read.reply.completed.samples[0].HasField("value")
