"""What came of rows, in each form."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from openai.types.chat import ChatCompletion
from tests.producers.gateway.openai.made import reply

from guideway.producers.batch.files.row import OWN, AnswerForm
from guideway.producers.batch.results.answer import Answer
from guideway.producers.batch.results.writing import ResultFiles, fresh_file
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Failed, Reply

CHAT = AnswerForm("chat", "shop/write")


def failed(code: FailureCode) -> Failed:
    return Failed(id="j.1", namespace="", endpoint="", code=code, message="why", retryable=code.retryable)


def answer(said: Reply, form: AnswerForm = OWN, id_: str | None = "a") -> Answer:
    return Answer(line=3, id=id_, endpoint="/shop/write", form=form, request_id="j.1", reply=said)


def written(*answers: Answer, form: Literal["jsonl", "parquet"] = "jsonl") -> tuple[bytes, list[Any]]:
    output, errors = io.BytesIO(), io.BytesIO()
    with ResultFiles(output, errors, form, created_s=7) as files:
        for one in answers:
            files.write(one)
    return output.getvalue(), [json.loads(line) for line in errors.getvalue().splitlines()]


def test_our_form() -> None:
    output, errors = written(answer(reply("Hi")), answer(failed(FailureCode.WRONG_FIELD), id_=None))
    told = json.loads(output)
    assert {name: told[name] for name in ("id", "line", "endpoint", "value", "endpoint_version")} == {
        "id": "a", "line": 3, "endpoint": "/shop/write", "value": "Hi", "endpoint_version": 3,
    }  # fmt: skip
    assert told["usage"] == {"prompt_tokens": 7, "output_tokens": 5}
    assert errors == [
        {"id": None, "line": 3, "endpoint": "/shop/write", "code": "wrong_field", "message": "why", "retryable": False}
    ]


def test_openais_form() -> None:
    output, errors = written(
        answer(reply("Hi"), CHAT),
        answer(failed(FailureCode.TEXT_TOO_LONG), CHAT),
        answer(failed(FailureCode.CANCELLED), CHAT),
        answer(failed(FailureCode.DEADLINE_EXCEEDED), CHAT),
    )
    told = json.loads(output)
    assert (told["custom_id"], told["response"]["status_code"], told["error"]) == ("a", 200, None)
    assert ChatCompletion.model_validate(told["response"]["body"]).choices[0].message.content == "Hi"
    assert errors[0]["response"]["status_code"] == 400
    assert errors[0]["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert [(one["response"], one["error"]["code"]) for one in errors[1:]] == [
        (None, "batch_cancelled"),
        (None, "batch_expired"),
    ]


def test_parquet() -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    output, errors = written(
        answer(reply(True)), answer(failed(FailureCode.CANCELLED)), answer(reply("x")), form="parquet"
    )
    first, second = pq.read_table(io.BytesIO(output)).to_pylist()
    assert (first["line"], first["id"], first["value"], first["output_tokens"]) == (3, "a", "true", 5)
    assert json.loads(second["samples"])[0]["value"] == "x"
    assert len(errors) == 1


def test_a_table_that_is_left_by_an_error_is_no_table() -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    output = io.BytesIO()

    def interrupted() -> None:
        with ResultFiles(output, io.BytesIO(), "parquet", created_s=7) as files:
            files.write(answer(reply("x")))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    with pytest.raises(Exception, match=r"magic bytes"):
        pq.read_table(io.BytesIO(output.getvalue() + b" " * 8))


def test_a_file_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    def interrupted() -> None:
        with fresh_file(path) as out:
            out.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert not [*tmp_path.iterdir()]
    with fresh_file(path) as out:
        out.write(b"whole")
        assert not path.exists()
    assert (path.read_bytes(), len([*tmp_path.iterdir()])) == (b"whole", 1)
    with pytest.raises(Refusal, match=r"out.jsonl exists: name another file"), fresh_file(path):
        pass
    with pytest.raises(Refusal, match="there is no folder"), fresh_file(tmp_path / "none" / "out"):
        pass


def test_nothing_is_lost_that_somebody_else_has_written_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(Refusal, match="exists by now"), fresh_file(path):
        path.write_bytes(b"other")
    assert path.read_bytes() == b"other"
