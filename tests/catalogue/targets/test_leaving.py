"""What `guideway targets` is told of a reply."""

from __future__ import annotations

from typing import Any

import pytest

from guideway.catalogue.targets.leaving import leaving
from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas.failures import FailureCode
from guideway.schemas.kinds.targets import ArchiveRule, WebhookUse
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Failed, Reply, Sample, Usage
from guideway.schemas.wire import RESULT

RECORD = Record(topic="t", partition=0, offset=1, timestamp_ms=2, key=b"k", value=b"v")
FAILED = Failed(id="r", namespace="shop", endpoint="mood", code=FailureCode.WRONG_FIELD, message="no", retryable=False)
HOOK = WebhookUse(webhook="crm")


def completed(text: str = "glad") -> Completed:
    return Completed(
        id="r",
        namespace="shop",
        endpoint="mood",
        endpoint_version=3,
        samples=[Sample(value=text, text=text, finish_reason="stop")],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="f",
    )


def left(reply: Reply, *, text: str = "hello", **fields: Any) -> Any:
    endpoint = Endpoint(namespace="shop", name="mood", model_size="small", output=Text(), **fields)
    found = leaving(reply, endpoint, 3, RECORD, text=text)
    assert all(out.topic == "gw.shop.results.v1" and out.size_bytes <= MAX_RECORD_BYTES for out in found)
    return RESULT.decode(found[0].value) if found else None


@pytest.mark.parametrize(
    ("fields", "of_completed", "of_failed", "text"),
    [
        ({}, False, False, None),
        ({"targets": ["copy"]}, False, False, None),
        ({"targets": [HOOK]}, True, True, None),
        ({"archive": True}, True, False, "hello"),
        ({"archive": ArchiveRule(text=False)}, True, False, None),
        ({"archive": True, "targets": [HOOK]}, True, True, "hello"),
    ],
)
def test_a_result_leaves_where_a_webhook_or_an_archive_wants_it(
    fields: dict[str, Any], of_completed: bool, of_failed: bool, text: str | None
) -> None:
    result = left(completed(), **fields)
    assert (result is not None) is of_completed
    assert (left(FAILED, **fields) is not None) is of_failed
    if result is not None:
        assert (result.reply, result.endpoint_version, result.text) == (completed(), 3, text)
    if of_failed:
        assert left(FAILED, **fields).text is None


def test_what_is_too_large_goes_without_its_text_and_then_without_its_reply() -> None:
    half = "x" * (MAX_RECORD_BYTES // 3)
    both = left(completed(half), text=half, archive=True)
    assert (both.text, both.reply) == (None, completed(half))
    # The reply itself fits one record by a hair.
    bare = left(completed("x" * (MAX_RECORD_BYTES // 2 - 150)), text="x", archive=True)
    assert (bare.text, bare.reply, bare.id, bare.completed) == (None, None, "r", True)
