"""What is said of a task before anything is trained."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from guideway.catalogue.entries import Catalogue, Identity
from guideway.schemas.failures import Refusal
from guideway.schemas.generation import Generation
from guideway.schemas.manifests import Model
from guideway.schemas.output import Text
from guideway.schemas.retrieval import RetrievalRule
from guideway.schemas.wire import MANIFEST
from guideway.training.runs.begin import models_of
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import Data
from guideway.training.runs.task_methods import LoraMethod, PrefixMethod

TASK = Task(
    namespace="shop",
    endpoint="mood",
    model_sizes=["tiny"],
    output=Text(),
    data=Data(train="rows.jsonl"),
    retrieval=RetrievalRule(sets=["shop/facts"], max_tokens=60),
    generation=Generation(max_tokens=60),
)


def said(task: Task, context_tokens: int) -> str:
    """The message with which it is refused for a model with so many tokens; empty: it is not."""
    model = Model(namespace="public", name="tiny", source="x", max_context_tokens=context_tokens)
    catalogue = Catalogue()
    catalogue.absorb(Identity.of(model).topic, Identity.of(model).key(1), MANIFEST.encode(model))
    try:
        models_of(task, Path(), catalogue)
    except Refusal as refusal:
        return f"{refusal.code}: {refusal.message}"
    return ""


def test_answers_and_passages_that_leave_no_room_for_a_text_are_refused() -> None:
    assert said(TASK, 60).startswith("invalid_setting: the task's generation.max_tokens is 60, and model size tiny")
    assert said(TASK, 120).startswith(
        "invalid_setting: the task's retrieval.max_tokens is 60 and generation.max_tokens 60"
    )
    bare = msgspec.structs.replace(TASK, methods=[])
    assert said(bare, 121) == ""
    assert said(msgspec.structs.replace(bare, retrieval=None), 61) == ""


def test_virtual_tokens_that_leave_no_room_for_a_text_are_refused_before_they_are_trained() -> None:
    """A soft prompt has 20, unless it says otherwise."""
    assert said(TASK, 140) == (
        "invalid_setting: the task's 20 virtual tokens of guidance, 60 of passages and an answer of 60 tokens leave "
        "none of the 140 of model size tiny for the text: lower one of them"
    )
    assert said(TASK, 141) == ""
    long = msgspec.structs.replace(TASK, methods=[PrefixMethod(virtual_tokens=21), LoraMethod()])
    assert said(long, 141).startswith("invalid_setting: the task's 21 virtual tokens")
    assert said(msgspec.structs.replace(long, methods=[LoraMethod()]), 121) == ""


def test_a_set_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"retrieval\.sets: set shop/facts is named twice"):
        msgspec.structs.replace(TASK, retrieval=RetrievalRule(sets=["shop/facts", "shop/facts@2"]))
