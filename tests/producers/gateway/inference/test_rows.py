"""Tensors of the Open Inference Protocol as rows of events, and replies as tensors."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guideway.producers.gateway.inference.grpc_form import infer_response, requested
from guideway.producers.gateway.inference.rest_form import read_request, write_response
from guideway.producers.gateway.inference.rows import (
    MAX_ROWS,
    RowFailed,
    options_of,
    outputs_of,
    rows_of,
    wanted,
)
from guideway.producers.gateway.inference.tensors import Answered, Requested, Tensor, from_raw, to_raw
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field
from guideway.schemas.protobuf.messages import message
from guideway.schemas.reply import Completed, FailedSample, Sample, Usage

FIELDS = {
    "text": Field(),
    "count": Field(type="integer", required=False),
    "share": Field(type="number", required=False),
    "urgent": Field(type="boolean", required=False),
    "tags": Field(type="array", required=False),
}
WHOLE = [
    Tensor("text", "BYTES", (2,), ["é".encode(), b"b"]),
    Tensor("count", "INT64", (2,), [2**60, -1]),
    Tensor("share", "FP64", (2,), [0.5, 1.0]),
    Tensor("urgent", "BOOL", (2,), [True, False]),
    Tensor("tags", "BYTES", (2,), [b"[1]", b"[]"]),
]
ROWS = [
    {"text": "é", "count": 2**60, "share": 0.5, "urgent": True, "tags": [1]},
    {"text": "b", "count": -1, "share": 1.0, "urgent": False, "tags": []},
]


def asked(*inputs: Tensor, **more: Any) -> Requested:
    return Requested(
        model="a/b", version="", id="", parameters=more.get("parameters", {}), inputs=[*inputs], outputs=[]
    )


def as_grpc(tensors: list[Tensor], *, raw: bool) -> Any:
    made = message("inference.ModelInferRequest")(model_name="a/b", id="7")
    contents = {"BYTES": "bytes_contents", "INT64": "int64_contents", "FP64": "fp64_contents", "BOOL": "bool_contents"}
    for one in tensors:
        written = made.inputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
        if raw:
            made.raw_input_contents.append(to_raw(one))
        else:
            getattr(written.contents, contents[one.datatype]).extend(one.values)
    return made


def as_rest(tensors: list[Tensor], *, raw: bool) -> tuple[bytes, str | None]:
    inputs: list[dict[str, Any]] = []
    rest = b""
    for one in tensors:
        form: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
        if raw:
            form["parameters"] = {"binary_data_size": len(to_raw(one))}
            rest += to_raw(one)
        else:
            form["data"] = [value.decode() if isinstance(value, bytes) else value for value in one.values]
        inputs.append(form)
    head = msgspec.json.encode({"id": "7", "inputs": inputs})
    return head + rest, str(len(head)) if raw else None


@pytest.mark.parametrize("raw", [False, True])
def test_one_request_in_each_form_is_the_same_rows(raw: bool) -> None:
    over_grpc = requested(as_grpc(WHOLE, raw=raw))
    body, length = as_rest(WHOLE, raw=raw)
    over_http = read_request(body, length, model="a/b", version="").requested
    for one in (over_grpc, over_http):
        assert rows_of(one, FIELDS) == ROWS
        assert one.id == "7"


def test_an_input_that_is_not_sent_is_an_absent_field() -> None:
    assert rows_of(asked(WHOLE[0]), FIELDS) == [{"text": "é"}, {"text": "b"}]


def test_data_may_be_nested_as_the_shape_is() -> None:
    body = b'{"inputs": [{"name": "share", "datatype": "FP64", "shape": [2], "data": [[1], [2.5]]}]}'
    assert rows_of(read_request(body, None, model="a/b", version="").requested, FIELDS) == [
        {"share": 1},
        {"share": 2.5},
    ]


@pytest.mark.parametrize(
    ("inputs", "code", "said"),
    [
        ([], "undecodable_event", "has no input: send text, count"),
        ([Tensor("txt", "BYTES", (1,), [b"a"])], "unknown_field", "unknown input 'txt': remove it"),
        ([WHOLE[0], WHOLE[0]], "wrong_field", "input 'text' is there twice"),
        ([Tensor("text", "FP32", (1,), [1.0])], "wrong_field", "FP32', and a field of type string is BYTES"),
        ([Tensor("count", "FP64", (1,), [1.0])], "wrong_field", "FP64', and a field of type integer is INT64"),
        ([Tensor("text", "BYTES", (1, 1), [b"a"])], "wrong_field", "has the shape [1, 1], and [rows] is read"),
        ([Tensor("text", "BYTES", (), [b"a"])], "wrong_field", "has the shape [], and [rows] is read"),
        ([Tensor("text", "BYTES", (2,), [b"a"])], "wrong_field", "has 1 elements, and its shape means 2"),
        ([Tensor("text", "BYTES", (0,), [])], "wrong_field", "has 0 rows, and 1 to 128 are taken"),
        ([Tensor("text", "BYTES", (-1,), [])], "wrong_field", "has -1 rows"),
        ([Tensor("text", "BYTES", (10_000,), [b"a"] * 10_000)], "wrong_field", "has 10000 rows, and 1 to 128"),
        ([WHOLE[0], Tensor("count", "INT64", (1,), [1])], "wrong_field", "has 1 rows, and 'text' has 2"),
        ([Tensor("text", "BYTES", (1,), [b"\xff"])], "wrong_field", "an element that is not UTF-8"),
        ([Tensor("share", "FP64", (1,), [float("nan")])], "wrong_field", "is nan, which is no number"),
        ([Tensor("tags", "BYTES", (1,), [b"a, b"])], "wrong_field", "is of type array, so JSON is read"),
        ([Tensor("urgent", "BOOL", (1,), [1])], "wrong_field", "an element that is no BOOL"),
        ([Tensor("count", "INT64", (1,), [10**30])], "wrong_field", "no INT64, for it has more than 64 bits"),
        ([Tensor("count", "INT64", (1,), [-(2**63) - 1])], "wrong_field", "no INT64"),
        ([Tensor("share", "FP64", (1,), [10**400])], "wrong_field", "is inf, which is no number"),
    ],
)
def test_what_is_no_row_is_refused(inputs: list[Tensor], code: str, said: str) -> None:
    assert MAX_ROWS == 128
    with pytest.raises(Refusal) as refused:
        rows_of(asked(*inputs), FIELDS)
    assert refused.value.code == code
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("datatype", "count", "raw", "said"),
    [
        ("INT64", 2, b"\0" * 15, "has 15 raw bytes, and its shape and datatype mean 16"),
        ("BOOL", 1, b"\2", "neither 0 nor 1"),
        ("FP16", 1, b"\0\0", "has datatype 'FP16'"),
        ("BYTES", 1, b"\2\0\0\0a", "end within an element"),
        ("BYTES", 1, b"\1\0", "end within an element"),
        ("BYTES", 2, b"\1\0\0\0a", "has 1 of the 2 elements"),
        ("BYTES", 1, b"\1\0\0\0a" * 2, "has more than the 1 elements"),
        ("BYTES", 0, b"\1\0\0\0a", "has more than the 0 elements"),
    ],
)
def test_raw_bytes_that_are_no_tensor_are_refused(datatype: str, count: int, raw: bytes, said: str) -> None:
    with pytest.raises(Refusal) as refused:
        from_raw("x", datatype, count, raw)
    assert said in refused.value.message


def test_contents_that_do_not_agree_are_refused() -> None:
    for change, said in (
        (lambda made: made.raw_input_contents.append(b""), "5 inputs and 1 raw contents"),
        (lambda made: made.inputs[0].contents.bool_contents.append(True), "bool_contents, bytes_contents"),
        (lambda made: made.inputs[0].parameters["shared_memory_region"].SetInParent(), "shared_memory_region"),
        (lambda made: setattr(made.inputs[0], "datatype", "UINT8"), "datatype 'UINT8'"),
        (lambda made: made.parameters["priority"].SetInParent(), "'priority' has no value"),
    ):
        made = as_grpc(WHOLE, raw=False)
        change(made)
        with pytest.raises(Refusal) as refused:
            requested(made)
        assert said in refused.value.message


@pytest.mark.parametrize(
    ("body", "length", "said"),
    [
        (b"{", None, "the value is not JSON"),
        (b'{"inputs": [], "id": "1", "id": "2"}', None, "names a member twice"),
        (b"[]", None, "no inference request"),
        (b'{"inputs": [], "input": 1}', None, "no inference request"),
        (b'{"inputs": []}x', "14", "1 bytes more"),
        (b'{"inputs": []}', "15", "how many of the 14 bytes"),
        (b'{"inputs": []}', "-1", "how many of the 14 bytes"),
        (
            b'{"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}}]}',
            None,
            "0 bytes are left",
        ),
        (b'{"inputs": [{"name": "x", "shape": [4000000000000], "datatype": "INT64"}]}', None, "too large"),
        (b'{"inputs": [], "parameters": {"binary_data_output": "yes"}}', None, "is true or false"),
        (b'{"inputs": [], "outputs": [{"name": "x", "parameters": {"binary_data": 1}}]}', None, "is true or false"),
        (b'{"inputs": [], "outputs": [{"name": "text", "parameters": {"classification": 2}}]}', None, "classification"),
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes, length: str | None, said: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_request(body, length, model="a/b", version="")
    assert said in refused.value.message


def reply(*values: Any, failed: bool = False) -> Completed:
    return Completed(
        id="1",
        namespace="a",
        endpoint="b",
        endpoint_version=2,
        samples=[Sample(value=value, text=f"<{value}>", finish_reason="stop") for value in values],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="sha256:",
        failed_samples=[FailedSample(sample=1, code=FailureCode.OUTPUT_INCOMPLETE, message="shorten it")]
        if failed
        else None,
    )


def test_a_row_has_its_outputs() -> None:
    value, text, whole = outputs_of([reply(True), reply({"a": 1})], ["value", "text", "reply"], 1)
    assert value == Tensor("value", "BYTES", (2,), [b"true", b'{"a":1}'])
    assert text == Tensor("text", "BYTES", (2,), [b"<True>", b"<{'a': 1}>"])
    assert [msgspec.json.decode(one)["endpoint_version"] for one in whole.values] == [2, 2]


def test_several_samples_are_a_second_dimension() -> None:
    value, whole = outputs_of([reply(1, 2), reply(3, 4)], ["value", "reply"], 2)
    assert (value.shape, value.values) == ((2, 2), [b"1", b"2", b"3", b"4"])
    assert whole.shape == (2,)


def test_a_row_without_all_samples_is_named() -> None:
    replies = [reply(1, 2), reply(3, failed=True)]
    with pytest.raises(RowFailed) as failed:
        outputs_of(replies, ["text"], 2)
    assert failed.value.code == FailureCode.OUTPUT_INCOMPLETE
    assert failed.value.message.startswith("row 1 of 2: sample 1: shorten it")
    assert outputs_of(replies, ["reply"], 2)[0].shape == (2,)


def test_an_answer_in_each_form_is_the_same() -> None:
    outputs = outputs_of([reply("é")], ["value", "text"], 1)
    answered = Answered("a/b", "2", "7", outputs)
    typed, raw = infer_response(answered, raw=False), infer_response(answered, raw=True)
    assert [one.contents.bytes_contents[0].decode() for one in typed.outputs] == ['"é"', "<é>"]
    assert [one[4:].decode() for one in raw.raw_output_contents] == ['"é"', "<é>"]
    read = read_request(b'{"inputs": [], "outputs": [{"name": "value"}]}', None, model="a/b", version="")
    body, length = write_response(answered, read)
    assert length is None
    assert [one["data"] for one in msgspec.json.decode(body)["outputs"]] == [['"é"'], ["<é>"]]
    read = read_request(b'{"inputs": [], "parameters": {"binary_data_output": true}}', None, model="a/b", version="")
    body, length = write_response(answered, read)
    assert length is not None
    assert body[length:] == b"".join(map(to_raw, outputs))


def test_parameters_mean_what_headers_mean() -> None:
    options = options_of(
        {"guidance": "a/b, c/d@1", "timeout": 2_000_000, "temperature": 0.5, "samples": 2, "stop": "."}
    )
    assert options.guidance == ("a/b", "c/d@1")
    assert options.timeout_s == 2
    assert options.samples == 2
    assert options.headers == (("generation", b'{"temperature":0.5,"samples":2,"stop":["."]}'),)
    assert options_of({"timeout": 10**400}).timeout_s == options_of({"timeout": 2**63}).timeout_s == 10**9


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"priority": 1}, "parameter 'priority' means nothing here"),
        ({"timeout": 0}, "microseconds"),
        ({"timeout": True}, "microseconds"),
        ({"guidance": 1}, "'guidance' is text"),
        ({"guidance": "a/b, tone"}, "parameter 'guidance' has 'tone', which is no name"),
        ({"temperature": "warm"}, "cannot be used"),
    ],
)
def test_a_parameter_is_heeded_or_refused(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal) as refused:
        options_of(parameters)
    assert said in refused.value.message


def test_an_unknown_output_is_refused() -> None:
    assert wanted(asked()) == ["value", "text", "reply"]
    with pytest.raises(Refusal, match="unknown output 'logits'"):
        wanted(Requested(model="", version="", id="", parameters={}, inputs=[], outputs=["logits"]))
    # Each would be written once more, however large it is.
    with pytest.raises(Refusal, match="output 'reply' is asked for twice"):
        wanted(Requested(model="", version="", id="", parameters={}, inputs=[], outputs=["text", "reply", "reply"]))
