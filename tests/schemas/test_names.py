"""Names that are read back."""

from __future__ import annotations

import pytest

from guideway.schemas import names


@pytest.mark.parametrize("lane", names.LANES)
@pytest.mark.parametrize("size", ["small", "batch", "interactive"])
def test_a_request_topic_tells_its_lane(size: str, lane: names.Lane) -> None:
    assert names.lane_of_topic(names.request_topic(size, lane)) == lane


@pytest.mark.parametrize("topic", ["gw.infer.small.batch.v2", "gw.a.batch.in.v1", "batch", ""])
def test_any_other_topic_counts_as_interactive(topic: str) -> None:
    assert names.lane_of_topic(topic) == "interactive"
