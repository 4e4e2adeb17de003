"""The command line. Each command is thin: what it does lives in the rooms."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from guideway import __version__, config, logs
from guideway.cli import running, traffic
from guideway.cli.archive import commands as archive
from guideway.cli.batch import commands as batch
from guideway.cli.catalogue import apply as applying
from guideway.cli.catalogue import asyncapi as contract
from guideway.cli.catalogue import delete as deletion
from guideway.cli.catalogue import get as catalogue
from guideway.cli.catalogue import move as moving
from guideway.cli.console import interrupts
from guideway.cli.console.help import make_readable
from guideway.cli.console.output import complain, end_unheard, open_streams
from guideway.cli.dlq import commands as dlq
from guideway.cli.gateway import commands as gateway
from guideway.cli.namespaces import commands as namespaces
from guideway.cli.replay import commands as replay
from guideway.cli.replay import shadow, shadows
from guideway.cli.sets import commands as sets
from guideway.cli.studio import run as studio
from guideway.cli.targets import commands as targets
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import home
from guideway.usecases.unforeseen import unforeseen


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
moving.add_to(app)
contract.add_to(app)
sets.add_to(app)
traffic.add_to(app)
batch.add_to(app)
dlq.add_to(app)
namespaces.add_to(app)
running.add_to(app)
gateway.add_to(app)
targets.add_to(app)
archive.add_to(app)
replay.add_to(app)
shadow.add_to(app)
shadows.add_to(app)
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
    except Exception as error:
        # Python keeps bytes that are no UTF-8 in an argument as lone surrogates.
        if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
            _end(Refusal(FailureCode.INVALID_SETTING, "an argument or a name is not UTF-8: write it in UTF-8"), 1)
        _end(*unforeseen(error, home()))


def _end(refusal: Refusal, code: int) -> NoReturn:
    complain(refusal)
    sys.exit(code)
