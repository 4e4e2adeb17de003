"""The header `accept` says in which form a reply is wanted."""

from __future__ import annotations

import pytest

from guideway.producers.events.accepting import wanted_message
from guideway.schemas.failures import FailureCode, Refusal


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", None),
        ("application/json", None),
        ("*/*", None),
        ("text/html, application/*;q=0.5", None),
        ("application/protobuf", ""),
        ('"application/x-protobuf"', ""),
        (r'"application/protobuf; proto=\"a.B\""', "a.B"),
        ("Application/Vnd.Google.Protobuf", ""),
        ("application/protobuf; messageType=guideway.v1.Reply", "guideway.v1.Reply"),
        ('application/protobuf; messageType="shop.v1.Mood"', "shop.v1.Mood"),
        ("application/protobuf;proto=shop.v1.Mood;q=0.9, application/json;q=0.8", "shop.v1.Mood"),
        ("application/protobuf;q=0.5, application/json", None),
        ("application/json, application/protobuf", None),
        ("application/protobuf;q=0, */*", None),
        ("application/problem+json", None),
    ],
)
def test_the_best_form_counts(accept: str, wanted: str | None) -> None:
    assert wanted_message(accept) == wanted


@pytest.mark.parametrize("accept", ["text/html", "application/avro", "application/protobuf;q=0", ",,", "\0", "x" * 500])
def test_a_form_that_no_reply_has_is_refused(accept: str) -> None:
    with pytest.raises(Refusal, match="a reply is JSON or Protobuf") as caught:
        wanted_message(accept)
    assert caught.value.code == FailureCode.INVALID_HEADER
    assert len(caught.value.message) < 300


def test_a_list_of_forms_without_end_is_not_read() -> None:
    with pytest.raises(Refusal, match="has 1020 characters, at most 1000 are read"):
        wanted_message("application/json" + "," * 1004)
