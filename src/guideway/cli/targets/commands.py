"""`guideway targets` and `guideway targets secret create | list | retire`."""

from __future__ import annotations

from typing import Annotated

import typer

from guideway.cli.console import interrupts
from guideway.cli.console.output import AsJson, err, out, print_json, print_table
from guideway.cli.console.services import Restart, begin_service, run_service, until_signalled
from guideway.settings import Settings
from guideway.usecases import serve
from guideway.usecases.targets.webhooks import secret_files

Namespace = Annotated[str, typer.Argument(help="The webhook's namespace.")]
Name = Annotated[str, typer.Argument(help="The secret's name, as the webhook's manifest has it.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(invoke_without_command=True, callback=targets)
    secret = typer.Typer(help="The secrets that sign what is posted, on this machine.", no_args_is_help=True)
    secret.command("create")(create)
    secret.command("list")(list_)
    secret.command("retire")(retire)
    group.add_typer(secret, name="secret")
    app.add_typer(group, name="targets")


def targets(context: typer.Context, restart: Restart = True) -> None:
    """Run the service by which results leave Kafka.

    It posts them to webhooks and writes archives. Any number may run. GUIDEWAY_EGRESS lists the hosts that may be
    reached; without it nothing is posted.
    """
    if context.invoked_subcommand is not None:
        return
    settings = begin_service(restart=restart)

    async def work() -> None:
        async with serve.targets(settings) as service:
            interrupts.keeps("results that are not delivered yet stay in their topics")
            await until_signalled(service.run, service.stop)

    run_service(settings, work())


def create(namespace: Namespace, name: Name, as_json: AsJson = False) -> None:
    """Make a secret and show it, this once. Where there is one, both sign from now on, until `retire`.

    The receiver verifies with it; the catalogue has its name only.
    """
    made = secret_files(Settings.from_environ()).create(namespace, name)
    if as_json:
        print_json({"namespace": namespace, "name": name, "secret": made})
    else:
        out.print(made, highlight=False, soft_wrap=True)
        err.print("give it to the receiver; it is not shown again")


def list_(as_json: AsJson = False) -> None:
    """List the secrets by name, with how many versions sign."""
    found = secret_files(Settings.from_environ()).listed()
    if as_json:
        for namespace, name, count in found:
            print_json({"namespace": namespace, "name": name, "versions": count})
    elif not found:
        out.print("there are no secrets on this machine")
    else:
        print_table(("secret", "versions"), [(f"{namespace}/{name}", count) for namespace, name, count in found])


def retire(namespace: Namespace, name: Name, as_json: AsJson = False) -> None:
    """Forget all versions but the newest, once the receiver verifies with that."""
    gone = secret_files(Settings.from_environ()).retire(namespace, name)
    if as_json:
        print_json({"namespace": namespace, "name": name, "retired": gone})
    else:
        out.print(f"{gone} retired")
