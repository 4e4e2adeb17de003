"""`guideway shadows list | show`: what is printed of a shadow."""

from __future__ import annotations

import json

import pytest
from tests.training.publishing.test_decision import catalogue
from typer.testing import CliRunner

from guideway.catalogue.entries import Catalogue
from guideway.cli import app
from guideway.cli.catalogue import get
from guideway.cli.replay import shadows
from guideway.schemas.kinds.shadow import Shadow
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.schemas.services.shadow import ShadowFigures
from guideway.usecases.shadows.view import View

RUNNING = View(
    address="/shop/mood",
    stage="running",
    rows=140,
    of=200,
    changes={"candidate": "/shop/mood-candidate@3"},
    promote="if_better",
    version=1,
    figures=ShadowFigures(
        rows=140,
        changed=3,
        metric="accuracy",
        agreement=[0.979, 0.939, 0.993],
        answered_now=[1, 0.973, 1],
        answered_new=[1, 0.973, 1],
        answered_over=[0, -0.027, 0.027],
    ),
)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def one(*_: object) -> View:
        return RUNNING

    async def all_(_settings: object, namespace: str | None) -> list[View]:
        return [] if namespace == "empty" else [RUNNING, View(address="/shop/b", stage="waits", why="so")]

    monkeypatch.setattr(shadows, "shadow_of", one)
    monkeypatch.setattr(shadows, "shadows_of", all_)


def said(*arguments: str) -> str:
    found = CliRunner().invoke(app, ["shadows", *arguments])
    assert found.exit_code == 0, found.output
    return found.stdout


def test_one_is_shown_with_its_figures() -> None:
    lines = [" ".join(line.split()) for line in said("show", "/shop/mood").splitlines()]
    assert lines == [
        "/shop/mood: 140 of 200 rows; missing to a decision: 60",
        "new: candidate /shop/mood-candidate@3; promote: if_better",
        "figure now new difference",
        "agreement (accuracy) 0.979 [0.939, 0.993]",
        "answered 1.000 [0.973, 1.000] 1.000 [0.973, 1.000] +0.000 [-0.027, +0.027]",
        "rows that differ 3 of 140",
    ]
    assert json.loads(said("show", "/shop/mood", "--json"))["figures"]["agreement"] == [0.979, 0.939, 0.993]


def test_all_are_listed() -> None:
    listed = said("list", "shop")
    assert "140 of 200 rows; missing to a decision: 60" in listed
    assert "waits: so" in listed
    assert len(said("list", "--json").splitlines()) == 2
    assert said("list", "empty") == "no endpoint declares a `shadow`\n"


def test_a_description_says_how_far_it_is_without_comparing_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    mood = Endpoint(namespace="shop", name="mood", model_size="small", output=Text(), shadow=Shadow())

    async def catalogue_of(_settings: object) -> Catalogue:
        return catalogue(mood)

    async def shadow_of(_settings: object, address: str, *, with_figures: bool) -> View:
        assert (address, with_figures) == ("/shop/mood", False)
        return RUNNING

    monkeypatch.setattr(get, "catalogue_of", catalogue_of)
    monkeypatch.setattr(get, "shadow_of", shadow_of)
    found = CliRunner().invoke(app, ["describe", "endpoint", "shop/mood"])
    assert "# shadow: 140 of 200 rows; missing to a decision: 60\n" in found.stdout
