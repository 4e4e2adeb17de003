"""How the command line speaks: tables and colours for people, JSON with `--json`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from guideway import logs
from guideway.schemas.failures import FailureCode, Refusal

T = TypeVar("T")


_JOINERS: Final = frozenset("\u200c\u200d")
"""Invisible, and part of how Persian or an emoji is written."""


def printable(text: str) -> str:
    """The text with every character escaped that could move the cursor, reverse the writing or command the terminal.

    Line ends, tabs and the spaces of every script stay.
    """
    return "".join(one if one in "\n\t" else on_one_line(one) for one in text)


def on_one_line(text: str) -> str:
    """`printable`, with line ends and tabs escaped as well: the text cannot look like a further line."""
    return "".join(one if _is_harmless(one) else json.dumps(one)[1:-1] for one in text)


def _is_harmless(one: str) -> bool:
    return one.isprintable() or one in _JOINERS or unicodedata.category(one) == "Zs"


class _Console(Console):
    """Prints what others wrote, too: a `str` is shown as it is, even `[bold]` and `:smile:`; a `Text` has styles."""

    def render_str(self, text: str, *, style: str | Style = "", **options: Any) -> Text:
        options |= {"markup": False, "emoji": False, "highlight": False}
        return super().render_str(printable(text), style=style, **options)

    def on_broken_pipe(self) -> None:
        """Nobody reads any more, as behind `| head`: say nothing further, and go on with the work."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


# Into a file or a pipe, lines are as wide as a table needs, not as a terminal that is not there.
out = _Console(highlight=False, width=None if sys.stdout.isatty() else 140)
err = _Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 140)


def between(least: float, most: float) -> Callable[[float | None], float | None]:
    """For an option that is no integer: typer's own bounds let `nan` pass."""

    def checked(given: float | None) -> float | None:
        if given is not None and not least <= given <= most:
            raise typer.BadParameter(f"{given:g} is not in the range from {least:g} to {most:g}")
        return given

    return checked


SECONDS: Final = between(0.001, 1e9)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def print_json(value: object) -> None:
    """One line of JSON on standard output."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A cell that is a `Text` keeps its styles."""
    table = Table(*columns, title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in row))
    out.print(table)


def complain(refusal: Refusal) -> None:
    """A refusal for a person, or for a machine when the command was asked for JSON."""
    if "--json" in sys.argv:
        print_json({"code": refusal.code.value, "message": refusal.message, "retryable": refusal.code.retryable})
    else:
        err.print(in_red(refusal.code.value, refusal.message), soft_wrap=True)


def in_red(code: str, message: str) -> Text:
    """`CODE: MESSAGE`; the message is never read as markup."""
    return Text.assemble((code, "red"), ": ", printable(message))


@contextlib.contextmanager
def importing(extra: str) -> Iterator[None]:
    """Around imports that need an extra of guideway's. Raises: Refusal `invalid_setting` where it is not installed."""
    try:
        yield
        logs.adopt_libraries()
    except ImportError as error:
        raise Refusal(
            FailureCode.INVALID_SETTING, f"{error.name} is not installed: pip install 'guideway[{extra}]'"
        ) from None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C ends the command without a stack trace."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
