"""`guideway broker up|down|status`, `endpoints`, `worker`, `doctor` and `demo`: what runs, and whether it can."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from guideway import logs
from guideway.cli.catalogue.apply import Replication
from guideway.cli.console import interrupts
from guideway.cli.console.output import AsJson, between, err, out, print_json, print_table, run
from guideway.cli.console.services import Restart, begin_service, run_service, until_signalled
from guideway.cli.demo import demo as demonstration
from guideway.infra import local_broker
from guideway.infra.doctor import Check
from guideway.infra.probe import require_broker
from guideway.producers.intake.shares import QUEUE
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.topics import LANES
from guideway.settings import Settings
from guideway.usecases import packaged, serve
from guideway.usecases.apply import apply_manifests
from guideway.usecases.doctor import examine
from guideway.usecases.rights.diagnosis import ROLES


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    broker = typer.Typer(help="A broker of this machine's own, where no cluster is named.", no_args_is_help=True)
    broker.command("up")(broker_up)
    broker.command("down")(broker_down)
    broker.command("status")(broker_status)
    app.add_typer(broker, name="broker")
    app.command("endpoints")(endpoints)
    app.command("worker")(worker)
    app.command("steward")(steward)
    app.command("doctor")(doctor)
    app.command("demo")(demo)


def broker_up(as_json: AsJson = False) -> None:
    """Start a broker and say which: Apache Kafka where KAFKA_HOME is set, else noida-db (neither durable nor secured).

    Where its catalogue has no model yet, model size small is applied, a model to try things out with. With
    KAFKA_BOOTSTRAP_SERVERS that cluster is used, and nothing is started or applied.
    """
    settings = Settings.from_environ()
    running = local_broker.up(settings.broker_folder, progress=_say)
    require_broker(running.cluster)
    if running.kind != "external" and (small := run(packaged.offered(settings))):
        run(apply_manifests(settings, small))
        _say(f"model size small: {packaged.WHAT_IT_IS}")
    if as_json:
        print_json(running)
    else:
        out.print(f"{running.kind} at {running.bootstrap}")


def broker_down(
    wipe: Annotated[bool, typer.Option(help="Delete its data as well.")] = False, as_json: AsJson = False
) -> None:
    """End the broker that `broker up` started."""
    ended = local_broker.down(Settings.from_environ().broker_folder, wipe=wipe)
    if as_json:
        print_json({"ended": ended})
    else:
        out.print("ended" if ended else "no broker of ours was running")


def broker_status(as_json: AsJson = False) -> None:
    """Say which broker commands would use now. Exit code 1 if there is none, or none that answers."""
    settings = Settings.from_environ()
    running = local_broker.status(settings.broker_folder)
    if settings.named is not None:
        running = local_broker.RunningBroker("external", settings.cluster(), settings.broker_folder)
    if running is None:
        raise Refusal(FailureCode.BROKER_UNREACHABLE, "no broker: run `guideway broker up`")
    require_broker(running.cluster)
    if as_json:
        print_json(running)
    else:
        out.print(f"{running.kind} at {running.bootstrap}")


def endpoints(
    restart: Restart = True,
    flush_ms: Annotated[
        float,
        typer.Option(
            callback=between(0, 10_000), help="Milliseconds at least in which results gather for one transaction."
        ),
    ] = 20,
    queue: Annotated[
        int,
        typer.Option(min=1, help="Requests of a lane that may wait for or be in each worker; twice its rows at least."),
    ] = QUEUE,
) -> None:
    """Run the endpoint service: events on endpoint topics become requests for the models. Any number may run."""
    settings = begin_service(restart=restart)

    async def work() -> None:
        async with serve.endpoint_service(settings, flush_s=flush_ms / 1000, queue=queue) as service:
            interrupts.keeps("events that are not passed on yet stay in their topics")
            await until_signalled(service.run, service.pipeline.stop)

    run_service(settings, work())


def worker(
    size: Annotated[str, typer.Option(help="Model size to serve.")] = "small",
    lanes: Annotated[str, typer.Option(help="Lanes to serve, with commas.")] = ",".join(LANES),
    rows: Annotated[int, typer.Option(min=1, max=4096, help="Rows in one micro-batch.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, max=4096, help="Torch threads; 0: torch's choice.")] = 0,
    record_batches: Annotated[
        Path | None, typer.Option(help="Append what each micro-batch held to this file (no texts).")
    ] = None,
    restart: Restart = True,
) -> None:
    """Run a worker: requests of one model size become typed replies. Any number may run, on any machines."""
    settings = begin_service(restart=restart)
    made = serve.worker(
        settings,
        size=size,
        lanes=[lane.strip() for lane in lanes.split(",")],
        rows=rows,
        device=device,
        threads=threads,
        record_batches=record_batches,
    )
    interrupts.keeps("requests that have no reply yet stay in their topic, for the next worker")

    async def work() -> None:
        await until_signalled(made.run, made.stop)

    run_service(settings, work())


def steward(replication: Replication = None, restart: Restart = True) -> None:
    """Run the steward of a cluster that holds rights: topics and rights for what teams apply, and the audit trail.

    It needs an administrator's rights (`guideway services create`). Where everybody may do everything it is not needed.
    """
    settings = begin_service(restart=restart)
    interrupts.keeps("what is applied meanwhile gets its topics and rights from the next steward")

    async def work() -> None:
        async with serve.steward(settings, replication=replication) as made:
            await until_signalled(made.run, made.stop)

    run_service(settings, work())


def doctor(
    namespace: Annotated[str | None, typer.Argument(help="Of whose team or caller the rights are looked for.")] = None,
    as_: Annotated[
        str | None, typer.Option("--as", help=f"What logs in: {', '.join(ROLES)}. Default: what it probably is.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is missing on this machine and how to mend it. Exit code 1 if anything is.

    On a cluster with users it says as whom it logs in, which rights are missing, and the commands that grant them.
    """
    found = run(examine(Settings.from_environ(), role=as_, namespace=namespace))
    if as_json:
        for check in found:
            print_json(check)
    else:
        _print_checks(found)
    if not all(one.ok for one in found):
        raise typer.Exit(1)


def _print_checks(found: Sequence[Check]) -> None:
    print_table(
        ("", "what", "found"),
        [(Text("✓", "green") if one.ok else Text("✗", "red"), one.name, one.found) for one in found],
    )
    wrong = [one for one in found if not one.ok]
    out.print()
    for one in wrong:
        out.print(f"{one.name}: {one.mend}")
    if not wrong:
        out.print("All is well.")


def demo(
    as_json: AsJson = False,
    keep: Annotated[bool, typer.Option(help="Leave broker, endpoint service and worker running.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before writing to a cluster of yours.")] = False,
) -> None:
    """Watch the whole idea work: three teams, many guidances, one frozen model, one micro-batch."""
    logs.configure()
    settings = Settings.from_environ()
    demonstration.agree(settings, yes=yes)
    # Whoever ends it otherwise means the same: what it has started is not to be left behind.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    raise typer.Exit(run(demonstration.run_demo(settings, as_json=as_json, keep=keep)))


def _say(line: str) -> None:
    err.print(line)
