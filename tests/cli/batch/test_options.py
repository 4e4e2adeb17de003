"""The options by which commands take a batch file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from guideway.cli.batch.options import FileOptions, taking_a_file
from guideway.producers.batch.files.form import FileForm
from guideway.schemas.failures import Refusal

ALL = [
    *("rows.txt", "--endpoint", "/shop/mood", "--map", "text=body", "--map", "stars=n", "--id-column", "nr"),
    *("--format", "csv", "--delimiter", ";", "--encoding", "cp1252", "--namespace", "desk", "--deadline", "2h"),
    *("--order", "as-they-come", "--dedupe"),
]  # fmt: skip


def given(*arguments: str) -> tuple[FileOptions, dict[str, Any]]:
    """What a command of one option of its own is called with."""
    app, found = typer.Typer(), list[tuple[FileOptions, dict[str, Any]]]()

    @app.command()
    @taking_a_file
    def take(file: FileOptions, own: Annotated[int, typer.Option()] = 1) -> None:
        found.append((file, {"own": own}))

    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return found[0]


def test_a_command_has_the_options_of_a_file_and_its_own() -> None:
    options, own = given(*ALL, "--own", "7")
    assert own == {"own": 7}
    asked = options.asked(output="parquet", out=Path("out.parquet"))
    assert asked.form == FileForm(
        name="rows.txt",
        format="csv",
        endpoint="/shop/mood",
        columns={"text": "body", "stars": "n"},
        id_column="nr",
        delimiter=";",
        encoding="cp1252",
    )
    assert (asked.namespace, asked.deadline_s, asked.order, asked.dedupe) == ("desk", 7200, "as-they-come", True)
    assert (asked.output, asked.out) == ("parquet", str(Path("out.parquet").absolute()))


def test_a_file_alone_is_enough() -> None:
    options, own = given("rows.jsonl")
    asked = options.asked(output="jsonl")
    assert (own, asked.form.name, asked.form.endpoint, asked.deadline_s) == ({"own": 1}, "rows.jsonl", None, 86_400)
    assert (asked.order, asked.dedupe, asked.out) == ("file", False, "")


@pytest.mark.parametrize(("option", "value"), [("--deadline", "soon"), ("--order", "any"), ("--map", "text")])
def test_an_option_that_cannot_be_read_is_named(option: str, value: str) -> None:
    options, _ = given("rows.jsonl", option, value)
    with pytest.raises(Refusal, match=value):
        options.asked(output="jsonl")
