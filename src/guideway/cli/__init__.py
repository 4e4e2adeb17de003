"""The command line. Each command is thin: what it does lives in the rooms."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Final, NoReturn

import typer

from guideway import __version__, config, logs
from guideway.cli import running, traffic
from guideway.cli.catalogue import apply as applying
from guideway.cli.catalogue import delete as deletion
from guideway.cli.catalogue import get as catalogue
from guideway.cli.console import interrupts
from guideway.cli.console.help import make_readable
from guideway.cli.console.output import complain, end_unheard, open_streams
from guideway.cli.dlq import commands as dlq
from guideway.cli.sets import commands as sets
from guideway.cli.studio import run as studio
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import home
from guideway.usecases.unforeseen import bug, refusal_of

EXIT_BUG: Final = 70
"""Apart from 1, so that whoever restarts us can tell a crash from a refusal (`EX_SOFTWARE` of sysexits.h)."""
EXIT_MACHINE: Final = 74
"""A full disk and the like: it may be over when we are started again (`EX_IOERR`)."""


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"guideway {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="guideway",
    help="One frozen language model for many tasks at once, fed from Kafka.\n\n"
    "Start with `guideway demo`. Then: `broker up`, `apply -f DIR`, `endpoints`, `worker`, `send`, `tail`. "
    "Settings, in the environment or in guideway.toml: docs/settings.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print local variables: prompts and secrets
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
applying.add_to(app)
catalogue.add_to(app)
deletion.add_to(app)
sets.add_to(app)
traffic.add_to(app)
dlq.add_to(app)
running.add_to(app)
studio.add_to(app)
make_readable(app)


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """What every command has."""


def main() -> None:
    """Run a command; a refusal becomes one line on standard error and exit code 1.

    So does what the machine does not give (exit code 74) and a bug of ours (70): no stack trace reaches anybody.
    """
    open_streams()
    try:
        config.load(os.environ)
        logs.quiet_clients()
        logs.configure(logging.ERROR)
        interrupts.watch()
        app()
    except BrokenPipeError:
        end_unheard()
    except SystemExit as end:
        if interrupts.asked() and end.code == interrupts.EXIT_INTERRUPTED:
            interrupts.say_what_is_kept()
        raise
    except KeyboardInterrupt:
        interrupts.say_what_is_kept()
        sys.exit(interrupts.EXIT_INTERRUPTED)
    except Refusal as refusal:
        _end(refusal, 1)
    except OSError as error:
        refused = refusal_of(error)
        _end(refused or bug(error, home()), EXIT_BUG if refused is None else EXIT_MACHINE)
    except UnicodeEncodeError as error:
        # Python keeps bytes that are no UTF-8 in an argument as lone surrogates.
        strange = "surrogates" in error.reason
        refused = Refusal(FailureCode.INVALID_SETTING, "an argument or a name is not UTF-8: write it in UTF-8")
        _end(refused if strange else bug(error, home()), 1 if strange else EXIT_BUG)
    except Exception as error:
        _end(bug(error, home()), EXIT_BUG)


def _end(refusal: Refusal, code: int) -> NoReturn:
    complain(refusal)
    sys.exit(code)
