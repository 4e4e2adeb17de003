"""Help texts: whole, at 80 columns, and without a character that a pipe or a light background spoils."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
import typer
from typer.testing import CliRunner

from guideway.cli import app


def commands(group: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for one in group.registered_commands:
        assert one.name is not None
        yield (*path, one.name)
    for sub in group.registered_groups:
        assert sub.name is not None
        assert sub.typer_instance is not None
        yield from commands(sub.typer_instance, (*path, sub.name))


@pytest.mark.parametrize("path", list(commands(app)), ids=" ".join)
def test_a_help_text_is_whole_at_80_columns(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*path, "-h"], env={"COLUMNS": "80"}).output
    assert max(len(line) for line in shown.splitlines() if not line.startswith("      guideway ")) <= 80
    assert not [line for line in shown.splitlines() if line.endswith("...") and not line.startswith(("Usage", "  "))]
    assert "\x1b" not in click.unstyle(shown)
    assert not set("╭│╰…") & set(shown)


def test_no_sentence_of_the_list_is_cut() -> None:
    shown = CliRunner().invoke(app, ["-h"], env={"COLUMNS": "80"}).output.partition("Commands:")[2]
    assert "..." not in shown
    assert "in the order of the events." in " ".join(shown.split())


def test_examples_stand_on_lines_of_their_own() -> None:
    shown = CliRunner().invoke(app, ["send", "-h"], env={"COLUMNS": "80"}).output
    assert (
        '      guideway send /public/fact-yes-no "Is the Earth round?"\n      guideway send /reviews/sentiment' in shown
    )
