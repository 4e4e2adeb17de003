"""Names that are read back, and what is one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from guideway.schemas import manifests, names, retrieval


@pytest.mark.parametrize("lane", names.LANES)
@pytest.mark.parametrize("size", ["small", "batch", "interactive"])
def test_a_request_topic_tells_its_lane(size: str, lane: names.Lane) -> None:
    assert names.lane_of_topic(names.request_topic(size, lane)) == lane


@pytest.mark.parametrize("topic", ["gw.infer.small.batch.v2", "gw.a.batch.in.v1", "batch", ""])
def test_any_other_topic_counts_as_interactive(topic: str) -> None:
    assert names.lane_of_topic(topic) == "interactive"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (manifests.Name, "reviews"),
        (manifests.Grantee, "*"),
        (manifests.Digest, "sha256:" + 64 * "0"),
        (manifests.GuidanceUse, "reviews/mood@3*0.5"),
        (retrieval.GuidanceName, "reviews/mood@3"),
        (retrieval.SetUse, "library/plain@1*2"),
        (retrieval.MetadataName, "year"),
    ],
)
def test_a_name_ends_where_its_line_ends(kind: Any, value: str) -> None:
    assert msgspec.convert(value, kind) == value
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(value + "\n", kind)
