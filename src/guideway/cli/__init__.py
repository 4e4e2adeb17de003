"""The command line. Each command is thin: what it does lives in the rooms."""

from __future__ import annotations

import sys
import traceback
from typing import Final

import typer

from guideway.cli import catalogue, dlq, running, sets, studio, traffic
from guideway.cli.output import complain
from guideway.logs import quiet_clients
from guideway.schemas.failures import Refusal

EXIT_BUG: Final = 70
"""Apart from 1, so that whoever restarts us can tell a crash from a refusal (`EX_SOFTWARE` of sysexits.h)."""

app = typer.Typer(
    name="guideway",
    help="One frozen language model for many tasks at once, fed from Kafka.\n\n"
    "Start with `guideway demo`. Then: `broker up`, `apply -f DIR`, `endpoints`, `worker`, `send`, `tail`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print local variables: prompts and secrets
    rich_markup_mode="rich",
)
catalogue.add_to(app)
sets.add_to(app)
traffic.add_to(app)
dlq.add_to(app)
running.add_to(app)
studio.add_to(app)


def main() -> None:
    """Run a command; a refusal becomes one line on standard error and exit code 1, a bug of ours exit code 70."""
    quiet_clients()
    try:
        app()
    except Refusal as refusal:
        complain(refusal)
        sys.exit(1)
    except Exception:
        # Where it happened, without local variables: they hold prompts.
        traceback.print_exc()
        sys.exit(EXIT_BUG)
