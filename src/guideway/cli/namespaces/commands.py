"""`guideway namespaces create`, and `guideway services create`."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from guideway.cli.catalogue.apply import Replication
from guideway.cli.console.output import AsJson, between, err, out, print_json, run
from guideway.cli.namespaces import showing
from guideway.cli.namespaces.audit import audit
from guideway.cli.namespaces.printing import COPIES, Print, StrimziCluster, cluster_to_ask, show, written
from guideway.infra.rights.setup import USUAL, Quota, Setup
from guideway.infra.rights.spaces import Services
from guideway.settings import Settings
from guideway.usecases.rights.create import (
    Made,
    Wanted,
    create_namespace,
    create_services,
    namespace_setup,
    services_setup,
)

Principals = Annotated[
    list[str] | None,
    typer.Option(
        "--principal", help="`User:NAME` that applies, publishes, trains and calls. May be given several times."
    ),
]
Callers = Annotated[
    list[str] | None,
    typer.Option(
        "--caller", help="`User:NAME` that only publishes events and reads replies. May be given several times."
    ),
]
Addresses = Annotated[
    list[str] | None,
    typer.Option("--reply-address", help="NAME of a further topic gw.NAMESPACE.NAME.out.v1 that replies may go to."),
]
_RATE = between(1, 1e15)
_MiB = 2**20


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    namespaces = typer.Typer(help="Namespaces on a cluster: their topics, rights and quotas.", no_args_is_help=True)
    namespaces.command("create")(create)
    showing.add_to(namespaces)
    app.add_typer(namespaces, name="namespaces")
    services = typer.Typer(help="The rights of our services on a cluster.", no_args_is_help=True)
    services.command("create")(create_ours)
    services.command("delete")(showing.delete_service)
    app.add_typer(services, name="services")
    app.command("audit")(audit)


def create(
    namespace: Annotated[str, typer.Argument(help="The namespace: a team, a tenant.")],
    principal: Principals = None,
    caller: Callers = None,
    reply_address: Addresses = None,
    produced_mib: Annotated[
        float | None,
        typer.Option("--produced-mib", callback=_RATE, help="Quota: MiB a second that each of them may write; 10."),
    ] = None,
    consumed_mib: Annotated[
        float | None,
        typer.Option("--consumed-mib", callback=_RATE, help="Quota: MiB a second that each of them may read; 20."),
    ] = None,
    request_percentage: Annotated[
        float | None,
        typer.Option(callback=_RATE, help="Quota: percent of a broker's request thread; 50."),
    ] = None,
    quotas: Annotated[bool, typer.Option("--quotas/--no-quotas", help="Set Kafka quotas of these principals.")] = True,
    print_: Print = None,
    strimzi_cluster: StrimziCluster = "my-cluster",
    replication: Replication = None,
    as_json: AsJson = False,
) -> None:
    """Make what a namespace needs: its topics, the rights of its principals and of our services, Kafka quotas.

    Run it again after new endpoints or for another principal: what is there stays. An administrator runs it.
    """
    wanted = Wanted(
        namespace,
        tuple(principal or ()),
        tuple(caller or ()),
        tuple(reply_address or ()),
        _quota(quotas, produced_mib, consumed_mib, request_percentage),
    )
    settings = Settings.from_environ()
    if print_ is not None:
        space, setup, _ = run(namespace_setup(cluster_to_ask(settings), wanted))
        if print_ == "strimzi":
            # A user is one resource. That of a service has rights on all namespaces.
            people = {*space.team, *space.callers}
            setup = msgspec.structs.replace(setup, rights=tuple(one for one in setup.rights if one.principal in people))
            err.print(
                "the users of our services: `guideway services create --print strimzi`, after this one is applied"
            )
        show(written(setup, print_, copies=replication or COPIES, cluster=strimzi_cluster))
        return
    made = run(create_namespace(settings.answering_cluster(), wanted, replication=replication))
    tell(made, as_json=as_json)


def create_ours(
    endpoints: Annotated[list[str] | None, typer.Option(help="Principal of the endpoint service.")] = None,
    worker: Annotated[list[str] | None, typer.Option(help="Principal of workers.")] = None,
    trainer: Annotated[list[str] | None, typer.Option(help="Principal of trainers.")] = None,
    targets: Annotated[list[str] | None, typer.Option(help="Principal of `guideway targets`.")] = None,
    steward: Annotated[list[str] | None, typer.Option(help="Principal of the steward.")] = None,
    gateway: Annotated[list[str] | None, typer.Option(help="Principal of gateways.")] = None,
    batcher: Annotated[list[str] | None, typer.Option(help="Principal of batchers.")] = None,
    print_: Print = None,
    strimzi_cluster: StrimziCluster = "my-cluster",
    replication: Replication = None,
    as_json: AsJson = False,
) -> None:
    """Make the platform's topics, and give our services the rights that they need, on all namespaces.

    Principals that are not named: those that the cluster has for the service, else User:gw-endpoints, User:gw-worker,
    User:gw-trainer, User:gw-targets, User:gw-steward, User:gw-gateway, User:gw-batcher. An
    administrator runs it, first of all.
    """
    settings = Settings.from_environ()
    services = None
    if endpoints or worker or trainer or targets or steward or gateway or batcher:
        usual = Services()
        services = Services(
            tuple(endpoints or usual.endpoints),
            tuple(worker or usual.worker),
            tuple(trainer or usual.trainer),
            tuple(targets or usual.targets),
            tuple(steward or usual.steward),
            tuple(gateway or usual.gateway),
            tuple(batcher or usual.batcher),
        )
    if print_ is not None:
        setup: Setup = run(services_setup(cluster_to_ask(settings), services))
        show(written(setup, print_, copies=replication or COPIES, cluster=strimzi_cluster))
        return
    made = run(create_services(settings.answering_cluster(), services, replication=replication))
    tell(made, as_json=as_json)


def _quota(wanted: bool, produced: float | None, consumed: float | None, percentage: float | None) -> Quota | None:
    if not wanted:
        return Quota(None, None, None, None)
    if produced is None and consumed is None and percentage is None:
        return None
    return Quota(
        USUAL.produced_bytes_per_s if produced is None else produced * _MiB,
        USUAL.consumed_bytes_per_s if consumed is None else consumed * _MiB,
        USUAL.request_percentage if percentage is None else percentage,
    )


def tell(made: Made, *, as_json: bool) -> None:
    """What was done."""
    if as_json:
        print_json(made)
        return
    for topic in made.topics:
        out.print(f"created topic {topic}")
    for right in made.rights:
        out.print(f"granted {right}")
    for principal, quota in made.quotas.items():
        limits = ", ".join(
            f"{key} {value:,.15g}" for key, value in quota.in_kafkas_words().items() if value is not None
        )
        out.print(f"quotas of {principal}: {limits or 'none of its own'}")
    if not (made.topics or made.rights or made.quotas):
        out.print("all is there already")
    for why in made.refused.values():
        err.print(why)
    if not made.holds_rights:
        err.print("this cluster holds no rights: whoever reaches it may do everything, in every namespace")
    elif made.space is not None and not made.space.team:
        err.print("nobody may apply endpoints here yet: run it again with --principal User:NAME")
