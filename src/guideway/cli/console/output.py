"""How the command line speaks: tables and colours for people, JSON with `--json`."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import select
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import IO, Annotated, Any, Final, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.style import Style
from rich.text import Text
from rich.theme import Theme

from guideway.catalogue.documents.faults import Faulty
from guideway.cli.console import interrupts
from guideway.cli.console.tables import aligned, blocks, fitted
from guideway.printable import on_one_line, printable
from guideway.schemas.failures import Refusal

T = TypeVar("T")


EXIT_UNHEARD: Final = 141
"""As a shell tells of a program that SIGPIPE has ended."""


class _Console(Console):
    """Prints what others wrote, too: a `str` is shown as it is, even `[bold]` and `:smile:`; a `Text` has styles."""

    def render_str(self, text: str, *, style: str | Style = "", **options: Any) -> Text:
        options |= {"markup": False, "emoji": False, "highlight": False}
        return super().render_str(printable(text), style=style, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Lines are left to the terminal to wrap: what it wraps can be copied whole. In a pipe, tabs stay tabs."""
        lines = all(isinstance(one, str | Text) for one in objects)
        if not lines or self.is_terminal:
            super().print(*objects, **({"soft_wrap": True} if lines else {}) | options)
        elif not self.quiet:
            try:
                line = " ".join(one.plain if isinstance(one, Text) else printable(one) for one in objects)
                self.file.write(f"{line}\n")
                self.file.flush()
            except BrokenPipeError:
                self.on_broken_pipe()

    def piece(self, text: str) -> None:
        """Print this at once, and no end of a line after it."""
        if not self.quiet:
            try:
                self.file.write(printable(text))
                self.file.flush()
            except BrokenPipeError:
                self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Nobody reads any more, as behind `| head`: say nothing further, and go on with the work."""
        self.quiet = True
        _to_nobody(self.file)


# rich has these in green and cyan, which a light background swallows.
_THEME: Final = Theme({f"progress.{part}": "" for part in ("download", "elapsed", "percentage", "remaining")})
out = _Console(highlight=False, theme=_THEME)
err = _Console(stderr=True, highlight=False, theme=_THEME)


def open_streams() -> None:
    """Have characters that the terminal's encoding lacks shown as escapes, and what is closed stand for nothing."""
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115 - as long as the process
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def end_unheard() -> NoReturn:
    """End as a program does whose output nobody reads any more: without a word."""
    _to_nobody(sys.stdout)
    raise SystemExit(EXIT_UNHEARD)


async def while_heard(work: Coroutine[Any, Any, None]) -> None:
    """Do the work until it ends or nobody reads standard output any more, which may be long before its next line."""
    watched = select.poll()
    with contextlib.suppress(OSError, ValueError):
        watched.register(sys.stdout.fileno(), 0)
    working = asyncio.ensure_future(work)
    try:
        while not working.done():
            await asyncio.wait([working], timeout=0.25)
            if out.quiet or any(what & select.POLLERR for _, what in watched.poll(0)):
                return
        working.result()
    finally:
        if not working.done():
            working.cancel()
            await asyncio.wait([working])


def _to_nobody(file: IO[str]) -> None:
    # What is still buffered would be tried again at the end, and complained about.
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def between(least: float, most: float) -> Callable[[float | None], float | None]:
    """For an option that is no integer: typer's own bounds let `nan` pass."""

    def checked(given: float | None) -> float | None:
        if given is not None and not least <= given <= most:
            raise typer.BadParameter(f"{given:g} is not in the range from {least:g} to {most:g}")
        return given

    return checked


LINE_EVERY_S: Final = 30
"""Where there is no terminal, that often a line says how far long work is."""


def clock(seconds: float) -> str:
    """`3:05 min`"""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


SECONDS: Final = between(0.001, 1e9)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def print_json(value: object) -> None:
    """One line of JSON on standard output."""
    try:
        sys.stdout.write(on_one_line(msgspec.json.encode(value, enc_hook=str).decode()) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        out.on_broken_pipe()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A cell that is a `Text` keeps its styles.

    In a terminal as wide as it is, or cell by cell where ids would be cut; into a pipe or a file each row on one line.
    """
    cells = [[one if isinstance(one, Text) else Text(printable(str(one))) for one in row] for row in rows]
    if title is not None:
        out.print(Text(on_one_line(title), "bold"))
    if out.is_terminal and (table := fitted(columns, cells, out.width)) is not None:
        out.print(table)
        return
    plain = [[on_one_line(cell.plain) for cell in row] for row in cells]
    for line in blocks(columns, plain) if out.is_terminal else aligned([columns, *plain]):
        out.print(line)


def complain(refusal: Refusal) -> None:
    """A refusal for a person, or for a machine when the command was asked for JSON."""
    if "--json" in sys.argv:
        said = {"code": refusal.code.value, "message": refusal.message, "retryable": refusal.code.retryable}
        print_json(said | ({"faults": refusal.faults} if isinstance(refusal, Faulty) else {}))
    else:
        err.print(in_red(refusal.code.value, refusal.message))


def in_red(code: str, message: str) -> Text:
    """`CODE: MESSAGE`; the message is never read as markup."""
    return Text.assemble((code, "red"), ": ", printable(message))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C ends the command without a stack trace."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        interrupts.heard()
        raise typer.Exit(interrupts.EXIT_INTERRUPTED) from None
