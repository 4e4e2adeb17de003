"""A job keeps to the namespace of the topic that it came from."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from guideway.schemas.failures import FailureCode
from guideway.schemas.names.service_topics import is_training_cancel_topic, owner_of_training
from guideway.schemas.output import Choice
from guideway.training.jobs.messages import Job
from guideway.training.jobs.ownership import refusal_of
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import ArchivedRows, Data


def job(train: Path | str, *, namespace: str = "shop", models: str | None = None, held: str | None = None) -> Job:
    task = Task(
        namespace=namespace,
        endpoint="mood",
        model_sizes=["small"],
        models=models,
        data=Data(train=str(train), eval=held),
        output=Choice(["a", "b"]),
    )
    return Job(id="a", task=task)


def test_a_task_of_another_namespace_is_refused() -> None:
    assert refusal_of(job("/rows"), "shop", None) is None
    refusal = refusal_of(job("/rows", namespace="rival"), "shop", None)
    assert refusal is not None
    assert refusal.code is FailureCode.NOT_ALLOWED
    assert "gw.shop.training.v1 takes jobs of shop only" in refusal.message


def test_an_archive_is_read_by_its_own_namespace_only(tmp_path: Path) -> None:
    """Where a job arrives that was written by hand."""
    own = tmp_path / "shop" / "right.jsonl"
    own.parent.mkdir()
    own.write_text("{}")
    (tmp_path / "rival.jsonl").write_text("{}")

    def of(archive: str | ArchivedRows) -> Job:
        made = job("/rows").task
        return Job(id="a", task=msgspec.structs.replace(made, data=Data(archive=archive)))

    assert refusal_of(of("/shop/mood"), "shop", tmp_path) is None
    for data in (None, tmp_path):
        for archive in ("/rival/mood", ArchivedRows(endpoint="/public/mood"), "/shop-b/mood"):
            refusal = refusal_of(of(archive), "shop", data)
            assert refusal is not None
            assert refusal.code is FailureCode.NOT_ALLOWED
            assert "a task of shop may not read it" in refusal.message
    corrected = ArchivedRows(endpoint="/shop/mood", corrections=str(own))
    assert refusal_of(of(corrected), "shop", tmp_path) is None
    theirs = msgspec.structs.replace(corrected, corrections=str(tmp_path / "rival.jsonl"))
    assert refusal_of(of(theirs), "shop", tmp_path) is not None


def test_data_lie_in_the_namespaces_own_folder(tmp_path: Path) -> None:
    for owner in ("shop", "shop-b", "rival"):
        (tmp_path / owner).mkdir()
        (tmp_path / owner / "rows.jsonl").write_text("{}")
    (tmp_path / "shop" / "link.jsonl").symlink_to(tmp_path / "rival" / "rows.jsonl")
    (tmp_path / "shop" / "folder").symlink_to(tmp_path / "rival")
    own = tmp_path / "shop" / "rows.jsonl"
    assert refusal_of(job(own, held=str(own)), "shop", tmp_path) is None
    for there in (
        tmp_path / "rival" / "rows.jsonl",
        tmp_path / "shop-b" / "rows.jsonl",
        tmp_path / "shop" / ".." / "rival" / "rows.jsonl",
        tmp_path / "shop" / "link.jsonl",
        tmp_path / "shop" / "folder" / "rows.jsonl",
        "/etc/passwd",
        "rows.jsonl",
        "/dev/stdin",
        "x" * 5000,
    ):
        for one in (job(there), job(own, held=str(there))):
            refusal = refusal_of(one, "shop", tmp_path)
            assert refusal is not None, there
            assert refusal.code is FailureCode.NOT_ALLOWED


def test_models_are_the_platforms(tmp_path: Path) -> None:
    refusal = refusal_of(job(tmp_path / "shop" / "rows", models="/models.yaml"), "shop", tmp_path)
    assert refusal is not None
    assert "models here are the platform's" in refusal.message


@pytest.mark.parametrize(
    ("topic", "owner"),
    [
        ("gw.shop.training.v1", "shop"),
        ("gw.shop.training-cancel.v1", "shop"),
        ("gw.shop.training-events.v1", None),
        ("gw.shop.training.v1.dlq", None),
        ("gw.training.jobs.v1", None),
        ("gw.Shop.training.v1", None),
    ],
)
def test_the_namespace_is_the_topics(topic: str, owner: str | None) -> None:
    assert owner_of_training(topic) == owner
    assert is_training_cancel_topic(topic) == topic.endswith("cancel.v1")
