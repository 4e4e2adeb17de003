"""`guideway gateway`: HTTP in, events out. `guideway keys`: who may come in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from guideway.cli.console import interrupts
from guideway.cli.console.output import AsJson, err, out, print_json, print_table, run
from guideway.cli.console.services import Restart, begin_service, until_signalled
from guideway.settings import Settings
from guideway.usecases import gateway as doors


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    keys = typer.Typer(help="Keys with which callers log in at gateways.", no_args_is_help=True)
    keys.command("create")(create)
    keys.command("list")(list_)
    keys.command("revoke")(revoke)
    app.command("gateway")(gateway)
    app.add_typer(keys, name="keys")


def gateway(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for HTTP; 0: any that is free.")] = 8080,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port for gRPC as well; 0: any that is free. Default: no gRPC.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="For TLS: PEM, with the chain.")] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's key: PEM, without a password.")] = None,
    open_: Annotated[
        str | None, typer.Option("--open", help="Namespace as which all programs of this machine call, without a key.")
    ] = None,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Of one request.")] = 2**20,
    max_file_bytes: Annotated[int, typer.Option(min=1, help="Of one file of a batch.")] = 512 * 2**20,
    max_requests: Annotated[int, typer.Option(min=1, help="Under way at a time, waiting ones included.")] = 4096,
    max_requests_of_one: Annotated[int, typer.Option(min=1, help="Of one namespace.")] = 2048,
    max_wait_s: Annotated[float, typer.Option(min=1, help="Seconds that a request may wait for its reply.")] = 300,
    grpc_connection_s: Annotated[
        float, typer.Option(min=1, help="Seconds after which a gRPC connection takes no more calls.")
    ] = 120,
    restart: Restart = True,
) -> None:
    """Run a gateway: REST and gRPC in, events on the general address of the caller's namespace out."""
    settings = begin_service(restart=restart)
    interrupts.keeps("requests that were accepted go on; any other gateway has their replies")
    limits = {
        "max_body_bytes": max_body_bytes,
        "max_file_bytes": max_file_bytes,
        "max_requests": max_requests,
        "max_requests_of_one": max_requests_of_one,
        "max_wait_s": max_wait_s,
        "connection_s": grpc_connection_s,
    }

    async def work() -> None:
        async with doors.gateway(
            settings,
            host=host,
            port=port,
            grpc_port=grpc_port,
            certificate=certificate,
            key=key,
            open_to=open_,
            limits=limits,
            say=err.print,
        ) as made:
            await until_signalled(made.run, made.stop)

    run(work())


def create(
    namespace: Annotated[str, typer.Argument(help="As which whoever has the key calls.")],
    name: Annotated[str, typer.Option(help="What people call it.")] = "",
    days: Annotated[float | None, typer.Option(min=0, help="Until it expires. Default: it does not.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, this once: it is kept nowhere."""
    key, text = run(doors.create_key(Settings.from_environ(), namespace, name=name, days=days))
    if as_json:
        print_json({"id": key.id, "namespace": key.namespace, "key": text})
        return
    err.print(f"key {key.id} of namespace {key.namespace}; it is shown this once:")
    out.print(text, soft_wrap=True)


def list_(
    namespace: Annotated[str | None, typer.Argument(help="Only its keys.")] = None, as_json: AsJson = False
) -> None:
    """The keys, without their secrets."""
    found = run(doors.list_keys(Settings.from_environ(), namespace))
    if as_json:
        for one in found:
            print_json({name: getattr(one, name) for name in one.__struct_fields__ if name != "hash"})
        return
    print_table(
        ("id", "namespace", "name", "made", "expires", "revoked"),
        [
            (one.id, one.namespace, one.name, _day(one.made_ms), _day(one.expires_ms), _day(one.revoked_ms))
            for one in found
        ],
    )


def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """End a key: gateways refuse it from now on."""
    key = run(doors.revoke_key(Settings.from_environ(), key_id))
    if as_json:
        print_json({"id": key.id, "namespace": key.namespace, "revoked_ms": key.revoked_ms})
    else:
        out.print(f"key {key.id} of namespace {key.namespace} does not count any more")


def _day(ms: int | None) -> str:
    return "" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
