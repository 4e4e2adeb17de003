"""Help texts: plain, so that they are as well read in a pipe and on any background as in a dark terminal."""

from __future__ import annotations

import inspect
from typing import Final

import typer

from guideway.cli.console.once import Command

_AS_IT_IS: Final = "\b\n"
"""Keeps the lines of the paragraph that it begins."""


def make_readable(app: typer.Typer) -> None:
    """Have nothing in the commands' texts cut or run together, and no value of an option dropped.

    Examples, which are indented or begin with `guideway`, are shown line by line.
    """
    for command in app.registered_commands:
        command.cls = Command
        text = command.help or inspect.getdoc(command.callback) or ""
        command.help = "\n\n".join(map(_kept, text.split("\n\n")))
        # Given, it is wrapped in the list of commands; made by click, it is cut.
        first = " ".join(text.split("\n\n", 1)[0].split()).split(". ")[0]
        command.short_help = first.rstrip(".") + "."
    for group in app.registered_groups:
        if group.typer_instance is not None:
            make_readable(group.typer_instance)


def _kept(paragraph: str) -> str:
    is_example = paragraph.lstrip("\n").startswith((" ", "guideway "))
    lines = [f"    {line.strip()}" for line in paragraph.strip("\n").split("\n")]
    return _AS_IT_IS + "\n".join(lines) if is_example else paragraph
