"""What of a run is published beside its guidance."""

from __future__ import annotations

from pathlib import Path

import pytest

from guideway.catalogue.changes import catalogue_records, plan_changes
from guideway.catalogue.entries import Catalogue
from guideway.schemas.manifests import Model
from guideway.schemas.output import Choice
from guideway.settings import Settings
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import Data
from guideway.usecases.studio import publish

MODELS = """\
kind: model/v1
namespace: public
name: small
source: /models/small
---
kind: model/v1
namespace: public
name: large
source: /models/large
"""


@pytest.mark.parametrize(
    ("there", "new"), [([], ["small", "large"]), (["small"], ["large"]), (["small", "large"], []), (None, None)]
)
async def test_models_that_are_there_need_no_right_on_public(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[str] | None, new: list[str] | None
) -> None:
    """A team has no right to write the platform's catalogue, and names models that are there for the run alone."""
    (tmp_path / "models.yaml").write_text(MODELS)
    task = Task(
        namespace="shop",
        endpoint="mood",
        model_sizes=["small", "large"],
        models=None if there is None else "models.yaml",
        data=Data(train="rows.jsonl"),
        output=Choice(["a", "b"]),
    )
    catalogue = Catalogue()
    known = [Model(namespace="public", name=name, source="/models/theirs") for name in there or ()]
    for record in catalogue_records(plan_changes(catalogue, known)):
        catalogue.absorb(*record)

    async def catalogue_if_there(_: Settings) -> Catalogue:
        return catalogue

    monkeypatch.setattr(publish, "catalogue_if_there", catalogue_if_there)
    settings = Settings.from_environ({"GUIDEWAY_HOME": str(tmp_path)})
    assert [one.name for one in await publish._new_models(settings, task, tmp_path)] == (new or [])
