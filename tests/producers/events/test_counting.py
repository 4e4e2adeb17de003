"""JSON of which each byte costs a hundred."""

from __future__ import annotations

import time

import pytest

from guideway.producers.events.contents import content, from_json
from guideway.producers.events.counting import has_too_many
from guideway.producers.events.protobuf.weighing import MOST_VALUES
from guideway.schemas.failures import FailureCode, Refusal

SIZE = 8 * 2**20


@pytest.mark.parametrize("one", [b"{},", b"[],", b"1,", b'"a",', b'{"":0},', b'{"a":[]},'])
def test_so_many_values_are_read_and_no_more(one: bytes) -> None:
    each = 1 + one.count(b":")
    most = MOST_VALUES // each
    assert isinstance(from_json(b"[" + one * (most - 2) + b"1]"), list)
    began = time.thread_time()
    with pytest.raises(Refusal, match="the JSON has more than 100000 values: send less in one event") as refused:
        from_json(b"[" + one * (SIZE // len(one)) + b"1]")
    assert refused.value.code is FailureCode.UNDECODABLE_EVENT
    assert time.thread_time() - began < 1


def test_what_stands_in_a_text_is_no_value() -> None:
    for text in (b"a, b ", b"[{", b'\\",\\"', b"\\\\, "):
        value = b'{"text": "' + text * 200_000 + b'"}'
        assert not has_too_many(value)
        assert len(from_json(value)["text"]) > 200_000


def test_what_has_no_content_type_and_begins_like_json_is_not_decoded_to_be_looked_at() -> None:
    with pytest.raises(Refusal, match="begins like JSON, and has more than 100000 values: send less"):
        content(b"[" + b"1," * 200_000 + b"1]", "")
    assert content(b"[" + b"1," * 200_000 + b"1]", "text/plain").startswith("[1,1,")  # type: ignore[union-attr]
