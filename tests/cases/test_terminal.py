"""What others wrote, on its way through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.cli.console.output import print_table
from guideway.cli.given import content, lines
from guideway.printable import printable
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Model
from guideway.training.sets.document import DocumentFields
from guideway.training.sets.documents import Reading

HERE: Final = Path(__file__).parent


def shown(capsys: pytest.CaptureFixture[str], *cells: str) -> str:
    print_table(("a", "b"), [cells])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["harmless.jsonl", "tokens.jsonl"])
def test_passages_and_ids_are_shown_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for one in Reading(DocumentFields()).documents([HERE / "07_markup" / name]):
        told = shown(capsys, one.id, one.text)
        assert one.id in told
        assert one.text in told


def test_a_source_with_a_closing_tag_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = read_manifests(HERE / "07_markup" / "close_tag.yaml")
    assert isinstance(one.manifest, Model)
    assert one.manifest.source in shown(capsys, "closing", one.manifest.source)


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[2J",
        "\x1b]8;;http://example.org\x1b\\here\x1b]8;;\x1b\\",
        "\x1b]0;title\x07",
        "\x9b31m",
        "\u202egnol",
        "\u2066a\u2069",
        "a\x08b",
        "a\x7f",
        "\r over",
        "\ufeffmark",
    ],
)
def test_nothing_that_commands_a_terminal_reaches_it(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for told in (shown(capsys, "x", text).rstrip("\n"), printable(text)):
        assert all(one.isprintable() or one == "\n" for one in told)


@pytest.mark.parametrize("text", ["[/INST]", "[link=x]y[/link]", ":smile:", "list[int]", "\\[bold]", "👩\u200d👧", "ก้"])
def test_writing_of_every_kind_stays(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in shown(capsys, "x", text)


def test_the_first_row_of_a_file_with_a_byte_order_mark_is_fields_too() -> None:
    rows = [content(line) for _, line in lines(None, HERE / "04_bom" / "c_rows.jsonl")]
    assert rows == [{"text": "Is the Earth round?"}, {"text": "Do fish fly?"}]


def test_a_line_that_begins_like_an_object_after_what_nobody_sees_is_refused() -> None:
    for unseen in ("\u00a0", "\u200b", " \ufeff"):
        with pytest.raises(Refusal, match="begins like a JSON object"):
            content(f'{unseen}{{"text": "Is the Earth round?"}}')
    assert content("\u00a0{name}, hello") == "\u00a0{name}, hello"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_a_file_may_end_as_they_like(end: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(f"Is the Earth round?{end}Do fish fly?{end}".encode())
    assert [line for _, line in lines(None, tmp_path / "a.txt")] == ["Is the Earth round?", "Do fish fly?"]


def test_lines_in_utf_16_are_refused_by_that_name() -> None:
    with pytest.raises(Refusal, match="UTF-16 is not read"):
        list(lines(None, HERE / "04_bom" / "f_utf16.jsonl"))
