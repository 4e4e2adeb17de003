"""Names that are read back, and what is one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guideway.schemas import retrieval
from guideway.schemas.kinds import manifest
from guideway.schemas.names.topics import LANES, Lane, caller_of_topic, lane_for, lane_of_topic, request_topic


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("size", ["small", "batch", "interactive"])
def test_a_request_topic_tells_its_lane(size: str, lane: Lane) -> None:
    assert lane_of_topic(request_topic(size, lane)) == lane


@pytest.mark.parametrize("topic", ["gw.infer.small.batch.v2", "gw.a.batch.in.v1", "batch", ""])
def test_any_other_topic_counts_as_interactive(topic: str) -> None:
    assert lane_of_topic(topic) == "interactive"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (manifest.Name, "reviews"),
        (manifest.Grantee, "*"),
        (manifest.Digest, "sha256:" + 64 * "0"),
        (retrieval.GuidanceUse, "reviews/mood@3*0.5"),
        (retrieval.GuidanceName, "reviews/mood@3"),
        (retrieval.SetUse, "library/plain@1*2"),
        (retrieval.MetadataName, "year"),
    ],
)
def test_a_name_ends_where_its_line_ends(kind: Any, value: str) -> None:
    assert msgspec.convert(value, kind) == value
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(value + "\n", kind)


def test_what_comes_by_the_address_for_work_that_may_wait_goes_to_the_batch_lane() -> None:
    assert caller_of_topic("gw.shop.batch-call.v1") == "shop"
    assert lane_for("gw.shop.batch-call.v1", "interactive") == "batch"
    assert lane_for("gw.shop.call.v1", "interactive") == "interactive"
    assert lane_for("gw.shop.batch-call.in.v1", "interactive") == "interactive"
    assert lane_for("gw.shop.call.v1", "batch") == "batch"
