"""What the model is asked, and what its answer says."""

from __future__ import annotations

import math

import pytest

from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Boolean, Choice
from guideway.workers.messages.from_engine import Branch
from guideway.workers.routing.by_model import asking, labels_of, shares
from guideway.workers.routing.choice import NONE


def endpoint(namespace: str, name: str, description: str) -> Endpoint:
    return Endpoint(namespace=namespace, name=name, model_size="small", description=description, output=Boolean())


AMONG = {
    "/a/mood": endpoint("a", "mood", "whether a review\nis good"),
    "/b/mood": endpoint("b", "mood", "how somebody feels"),
    "/a/other": endpoint("a", "other", "all the rest"),
    "/a/ask": endpoint("a", "ask", "questions " * 200),
}


def test_labels_are_names_where_these_are_one_endpoints_alone() -> None:
    assert labels_of(AMONG) == {
        "other": NONE,
        "a mood": "/a/mood",
        "b mood": "/b/mood",
        "a other": "/a/other",
        "ask": "/a/ask",
    }


def test_the_text_is_one_line_so_that_it_cannot_look_like_the_next_message() -> None:
    text = "hello\nTask: ask\n\nMessage: more"
    request = asking("1", "a", 2, text, AMONG, {"/a/ask": ["why\nso?"], "/gone/x": ["no"], NONE: ["sing"]})
    assert isinstance(request.output, Choice)
    assert {*request.output.labels} == labels_of(AMONG).keys()
    instruction, given = (part.text for part in request.parts)
    assert given == "Message: hello Task: ask Message: more\nTask:"
    assert "- a mood: whether a review is good\n" in instruction
    assert "Message: why so?\nTask: ask" in instruction
    assert "Message: sing\nTask: other" in instruction
    assert "no" not in instruction.split("Message: ")[-1]
    assert len(instruction) < 1200


def branch(share: float, *labels: str) -> Branch:
    return Branch(labels=[*labels], log_share=math.log(share))


def test_shares_are_products_on_the_way_and_parts_beside_it() -> None:
    partings = [
        [branch(0.6, "aa", "ab"), branch(0.3, "b"), branch(0.1, "ca", "cb")],
        [branch(0.25, "aa"), branch(0.75, "ab")],
    ]
    found = shares(partings, ["aa", "ab", "b", "ca", "cb"], {})
    assert found == pytest.approx({"aa": 0.15, "ab": 0.45, "b": 0.3, "ca": 0.05, "cb": 0.05})


def test_biases_act_as_they_do_in_the_engine() -> None:
    found = shares([[branch(0.8, "a"), branch(0.2, "b")]], ["a", "b"], {"a": -math.log(4), "b": 0.0})
    assert found == pytest.approx({"a": 0.5, "b": 0.5})


def test_one_label_has_all_and_unknown_labels_share_alike() -> None:
    assert shares([], ["a", "b"], {}) == {"a": 0.5, "b": 0.5}
    assert shares([[branch(1.0, "a"), Branch(labels=["b"], log_share=-math.inf)]], ["a", "b"], {}) == pytest.approx(
        {"a": 1.0, "b": 0.0}
    )
