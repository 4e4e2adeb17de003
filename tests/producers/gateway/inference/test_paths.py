"""Paths of the Open Inference Protocol."""

from __future__ import annotations

import pytest

from guideway.producers.gateway.inference.rest import Named, read_path
from guideway.producers.gateway.status import DoorRefusal
from guideway.schemas.failures import Refusal


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("shop/mood", Named("shop/mood", "", "")),
        ("shop.mood", Named("shop.mood", "", "")),
        ("shop/mood/infer", Named("shop/mood", "", "infer")),
        ("shop.mood/versions/3/ready", Named("shop.mood", "3", "ready")),
        ("shop/versions/versions/3", Named("shop/versions", "3", "")),
        ("shop/ready", Named("shop/ready", "", "")),
        ("shop.infer/infer", Named("shop.infer", "", "infer")),
    ],
)
def test_a_path_names_a_model(path: str, named: Named) -> None:
    assert read_path(path) == named


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("shop", Refusal),
        ("", Refusal),
        ("Shop/mood/infer", Refusal),
        ("shop.mood.x/infer", Refusal),
        ("shop/mood/generate", DoorRefusal),
        ("shop/mood/versions", DoorRefusal),
        ("shop/mood/versions/3/infer/x", DoorRefusal),
        ("shop/mood/", DoorRefusal),
    ],
)
def test_any_other_path_is_refused(path: str, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        read_path(path)
