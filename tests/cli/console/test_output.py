"""What others wrote reaches the terminal as text: never as markup, never as a command to the terminal."""

from __future__ import annotations

import io
import json

import pytest
from rich.text import Text

from guideway.cli.console import output
from guideway.cli.console.output import in_red, out, print_table
from guideway.cli.traffic import print_reply
from guideway.printable import on_one_line, printable
from guideway.schemas.failures import FailureCode
from guideway.schemas.reply import Completed, Failed, Sample, Usage

MARKUP = [
    "[/INST]",
    "[bold]x[/bold]",
    "[/]",
    "[link=file:///etc]x[/link]",
    ":smile:",
    "[red]",
    "\\[x]",
    "[@click=x]y[/]",
]
COMMANDS = ["\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "\r", "\x08", "\x7f", "\u202etxt.exe", "\u2066", "\x00", "\u2028"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What `out` and `err` write, as to a terminal of 80 columns."""
    written = io.StringIO()
    for console in (out, output.err):
        monkeypatch.setattr(console, "_file", written)
        monkeypatch.setattr(console, "_force_terminal", True)
        monkeypatch.setattr(console, "_width", 80)
    return written


@pytest.mark.parametrize("text", MARKUP)
def test_markup_is_shown_as_it_is(text: str, terminal: io.StringIO) -> None:
    out.print(f"a {text} b")
    print_table(("id", "passage"), [(text, f"see {text}")], title=text)
    output.err.print(in_red("wrong_field", text))
    assert terminal.getvalue().count(text) == 5


@pytest.mark.parametrize("text", COMMANDS)
def test_commands_to_the_terminal_are_escaped(text: str, terminal: io.StringIO) -> None:
    out.print(f"a {text} b", style="bold")
    print_table(("id",), [(text,), (Text("fine", "green"),)], title=text)
    output.err.print(in_red("wrong_field", text))
    print_reply(a_reply(text), as_json=False)
    refused = Failed(id="r", namespace="n", endpoint="e", code=FailureCode.WRONG_FIELD, message=text, retryable=False)
    print_reply(refused, as_json=False)
    ours = terminal.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[31m", "")
    ours = ours.replace("\x1b[32m", "").replace("\x1b[3m", "")
    assert not [one for one in ours if one != "\n" and not one.isprintable()]


@pytest.mark.parametrize("text", [*COMMANDS, *MARKUP, "\U000e0041", "日本\u3000語"])
def test_json_commands_no_terminal_and_says_the_same(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON escapes a line end and ESC, and lets CSI in one character, DEL and bidirectional marks through."""
    output.print_json({text: [text]})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {text: [text]}
    assert shown.rstrip("\n").replace("\u3000", " ").isprintable()


@pytest.mark.parametrize(
    "text", ["日本語", "naïve", "a\u00a0b", "\u3000", "👩\u200d👩\u200d👧", "می\u200cخواهم", "a\tb\nc"]
)
def test_writing_of_every_kind_stays(text: str) -> None:
    assert printable(text) == text


def test_a_line_stays_one_line() -> None:
    assert on_one_line("a\n  message  forged\r\t\x1b") == "a\\n  message  forged\\r\\t\\u001b"


def a_reply(value: str) -> Completed:
    return Completed(
        id="r",
        namespace="n",
        endpoint="e",
        endpoint_version=1,
        samples=[Sample(value=value, text=value, finish_reason="stop")],
        usage=Usage(prompt_tokens=1, output_tokens=1),
        guidance=[],
        model_fingerprint="sha256:0",
    )
