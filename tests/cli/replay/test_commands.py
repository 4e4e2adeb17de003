"""`guideway replay`: what is wrong with a command is said before a cluster is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from guideway.cli import app
from guideway.schemas.failures import Refusal


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mood", "--with", "guidance=a/b"], "is no address"),
        (["/shop/mood"], "nothing is new"),
        (["/shop/mood", "--with", "guidence=a/b"], "did you mean guidance"),
        (["/shop/mood", "--with", "guidance=a/b", "--with", "guidance=a/c"], "names something twice"),
        (["/shop/mood", "--with", "instruction=@/nowhere"], "cannot be read"),
    ],
)
def test_what_cannot_be_replayed(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GUIDEWAY_HOME", str(tmp_path))
    found = CliRunner().invoke(app, ["replay", *arguments])
    assert isinstance(found.exception, Refusal)
    assert says in found.exception.message


def test_a_folder_of_something_else_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GUIDEWAY_HOME", str(tmp_path))
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("dear")
    found = CliRunner().invoke(app, ["replay", "/a/b", "--with", "guidance=none", "-o", str(tmp_path / "letters")])
    assert isinstance(found.exception, Refusal)
    assert "something else than a replay" in found.exception.message


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mood", "--candidate"], "is no address"),
        (["/shop/mood"], "name what is new"),
        (["/shop/mood", "--candidate", "--with", "guidance=a/b"], "not both of them"),
        (["/shop/mood", "--with", "guidence=a/b"], "did you mean guidance"),
        (["/shop/mood", "--with", "guidance=a/b", "--promote", "if_better"], "live traffic has no right answers"),
        (["/shop/mood", "--candidate", "--share", "5"], "is no share"),
    ],
)
def test_what_cannot_be_shadowed(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GUIDEWAY_HOME", str(tmp_path))
    found = CliRunner().invoke(app, ["shadow", *arguments])
    assert isinstance(found.exception, Refusal)
    assert says in found.exception.message
