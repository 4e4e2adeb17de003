"""`guideway studio versions | diff | rollback | promote`: what an endpoint was, is, and is to be."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from guideway.catalogue.entries import Catalogue, Identity
from guideway.cli.catalogue.apply import tell
from guideway.cli.catalogue.get import found_in
from guideway.cli.console.output import AsJson, out, print_json, print_table, run
from guideway.cli.studio.publishing import Anyway, apply_all, catalogue_if_there
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Manifest
from guideway.settings import Settings
from guideway.training.publishing import decision, promotion
from guideway.training.publishing.decision import CANDIDATE

Address = Annotated[str, typer.Argument(help="/NAMESPACE/ENDPOINT")]


def add_to(group: typer.Typer) -> None:
    """Add these commands."""
    group.command("versions")(versions)
    group.command("diff")(diff)
    group.command("rollback")(rollback)
    group.command("promote")(promote)


def versions(address: Address, as_json: AsJson = False) -> None:
    """List an endpoint's versions, with what guides each and how that did."""
    identity = _identity(address)
    rows = []
    catalogue = _catalogue()
    for version in _versions(catalogue, identity):
        endpoint = catalogue.get(identity, version)
        if isinstance(endpoint, Endpoint):
            lineage = _score(endpoint, catalogue)
            rows.append((version, endpoint.model_size, ", ".join(endpoint.guidance) or "none", lineage))
    if as_json:
        for version, size, guidance, lineage in rows:
            print_json({"version": version, "model_size": size, "guidance": guidance, "lineage": lineage})
        return
    print_table(
        ("version", "size", "guidance", "score", "over bare", "run"),
        [
            (
                version,
                size,
                guidance,
                f"{lineage.metric} {decision.interval(lineage.score)}" if lineage else "",
                decision.interval(lineage.over_bare) if lineage and lineage.over_bare else "",
                lineage.run if lineage else "",
            )
            for version, size, guidance, lineage in rows
        ],
    )


def diff(
    address: Address,
    old: Annotated[int, typer.Argument(help="A version.")],
    new: Annotated[int, typer.Argument(help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """Show what two versions of an endpoint have different."""
    identity, catalogue = _identity(address), _catalogue()
    before, after = (msgspec.to_builtins(_version(catalogue, identity, number)) for number in (old, new))
    keys = [key for key in sorted(before | after) if before.get(key) != after.get(key)]
    changed = {key: (before.get(key), after.get(key)) for key in keys}
    if as_json:
        print_json({key: {"old": values[0], "new": values[1]} for key, values in changed.items()})
        return
    if not changed:
        out.print(f"versions {old} and {new} are the same")
    for key, (was, now) in changed.items():
        out.print(f"{key}\n  - {_shown(was)}\n  + {_shown(now)}")


def rollback(
    address: Address,
    to: Annotated[int | None, typer.Option(help="Which version; default: the one before the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let an endpoint do what it did in an earlier version, as its newest one."""
    identity = _identity(address)

    def manifests(catalogue: Catalogue) -> list[Manifest]:
        numbers = _versions(catalogue, identity)
        if to is None and len(numbers) < 2:
            raise Refusal(FailureCode.INVALID_SETTING, f"{address} has one version only, and none before it")
        return [_version(catalogue, identity, numbers[-2] if to is None else to)]

    tell(run(apply_all(Settings.from_environ().answering_brokers(), manifests)), as_json=as_json)


def promote(address: Address, anyway: Anyway = False, as_json: AsJson = False) -> None:
    """Move an endpoint's candidate to its place, if it is better than the endpoint by more than the interval."""
    identity = _identity(address)

    def manifests(catalogue: Catalogue) -> list[Manifest]:
        _, candidate = catalogue.endpoint(identity.namespace, identity.name + CANDIDATE)
        current = decision.present_endpoint(catalogue, identity.namespace, identity.name)
        return [promotion.promoted(candidate, current, catalogue, anyway=anyway)]

    tell(run(apply_all(Settings.from_environ().answering_brokers(), manifests)), as_json=as_json)


def _identity(address: str) -> Identity:
    namespace, slash, name = address.strip("/").partition("/")
    if not slash:
        raise Refusal(FailureCode.INVALID_SETTING, f"{address!r} is no endpoint: write /NAMESPACE/ENDPOINT")
    return Identity("endpoint", namespace, name)


def _catalogue() -> Catalogue:
    catalogue = catalogue_if_there(Settings.from_environ(), needed=True)
    assert catalogue is not None
    return catalogue


def _versions(catalogue: Catalogue, identity: Identity) -> list[int]:
    found_in(catalogue, identity)
    return catalogue.versions(identity)


def _version(catalogue: Catalogue, identity: Identity, version: int) -> Endpoint:
    numbers = _versions(catalogue, identity)
    found = catalogue.get(identity, version)
    if not isinstance(found, Endpoint):
        known = ", ".join(map(str, numbers))
        raise Refusal(FailureCode.INVALID_SETTING, f"{identity} has no version {version}, only {known}")
    return found


def _score(endpoint: Endpoint, catalogue: Catalogue) -> Any:
    try:
        return promotion.score_of(endpoint, catalogue)
    except Refusal:
        return None  # its guidance was removed since


def _shown(value: object) -> str:
    return "nothing" if value in (None, "", [], {}) else msgspec.json.encode(value).decode()
