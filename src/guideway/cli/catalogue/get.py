"""`guideway get | describe` and `guideway topics apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from guideway.catalogue.difference import written
from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.catalogue.entries import Identity, UnreadableVersion
from guideway.catalogue.topic import CatalogueFollower
from guideway.cli.catalogue.apply import MaxPartitions, Replication
from guideway.cli.console.output import AsJson, err, out, print_json, print_table, run
from guideway.infra import topics
from guideway.schemas.manifests import Calibrated, Endpoint, Guidance, Manifest, Model, RetrievalSet, SetAlias
from guideway.settings import Settings
from guideway.usecases.lookup import catalogue_of, found_in, identity_of, kind_of

AsYaml = Annotated[bool, typer.Option("--yaml", help="Print manifests.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("get")(get)
    app.command("describe")(describe)
    group = typer.Typer(help="The topics of the catalogue, of endpoints and of model sizes.", no_args_is_help=True)
    group.command("apply")(topics_apply)
    app.add_typer(group, name="topics")


def topics_apply(
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Also for the manifests here.")] = None,
    as_json: AsJson = False,
    replication: Replication = None,
    max_partitions: MaxPartitions = topics.MAX_PARTITIONS_PER_BROKER,
) -> None:
    """Create the topics that the catalogue (and FILE) needs and that are not there yet."""

    async def work() -> topics.Applied:
        bootstrap = Settings.from_environ().answering_brokers()
        await topics.apply(bootstrap, topics.wanted([]), replication=replication)
        async with CatalogueFollower(bootstrap) as reader:
            manifests = [manifest for _, manifest in reader.catalogue]
        manifests += [source.manifest for source in read_manifests(file)] if file else []
        return await topics.apply(
            bootstrap, topics.wanted(manifests), replication=replication, most_per_broker=max_partitions
        )

    applied = run(work())
    if as_json:
        print_json(applied)
        return
    for name in applied.created:
        out.print(f"created {name}")
    out.print(f"{len(applied.created)} created, {len(applied.existing)} there already")
    for name in applied.narrower:
        out.print(f"{name} has fewer partitions than its manifest says: widen it with Kafka's own tool")


def get(
    kind: Annotated[
        str, typer.Argument(help="endpoints, guidance, sets, models, aliases, calibrations or all")
    ] = "all",
    as_json: AsJson = False,
    as_yaml: AsYaml = False,
) -> None:
    """List what is in the catalogue; with --yaml as manifests, which `apply` takes again."""
    wanted = kind_of(kind) if kind != "all" else None

    async def work() -> tuple[list[tuple[int, Manifest]], list[UnreadableVersion], int]:
        catalogue = await catalogue_of(Settings.from_environ())
        entries = [(version, one) for version, one in catalogue if wanted in (None, Identity.of(one).kind)]
        unread = [one for one in catalogue.unread() if wanted in (None, one.identity.kind)]
        return entries, unread, catalogue.strangers

    entries, unread, strangers = run(work())
    if as_json:
        for version, manifest in entries:
            print_json(_as_dict(version, manifest))
        for one in unread:
            print_json({"version": one.version, "unreadable": one.why, "what": str(one.identity)})
        return
    if as_yaml:
        for version, manifest in entries:
            out.print(f"---\n# {Identity.of(manifest)}, version {version}\n{_lines(manifest)}")
        for one in unread:
            out.print(f"# {one.identity}, version {one.version}, cannot be read: {' '.join(one.why.split())}")
        return
    rows = [(Identity.of(one).kind, f"{one.namespace}/{one.name}", version, _summary(one)) for version, one in entries]
    rows += [
        (of.kind, f"{of.namespace}/{of.name}", version, f"cannot be read: {why}")
        for of, version, why in map(msgspec.structs.astuple, unread)
    ]
    print_table(("kind", "name", "version", "what"), rows)
    if strangers:
        err.print(f"{strangers} records of the catalogue's topic have a key that is none of ours")


def describe(
    kind: Annotated[str, typer.Argument(help="endpoint, guidance, set, model, alias or calibration")],
    name: Annotated[str, typer.Argument(help="NAMESPACE/NAME, or a model size")],
    as_json: AsJson = False,
) -> None:
    """Show one manifest whole, with its versions, as `apply` takes it again."""
    identity = identity_of(kind, name)

    async def work() -> tuple[list[int], tuple[int, Manifest]]:
        catalogue = await catalogue_of(Settings.from_environ())
        return catalogue.versions(identity), found_in(catalogue, identity)

    versions, (version, manifest) = run(work())
    if as_json:
        print_json(_as_dict(version, manifest) | {"versions": versions})
        return
    out.print(f"# {identity}, version {version} (all: {', '.join(map(str, versions))})\n{_lines(manifest)}")


def _lines(manifest: Manifest) -> str:
    return written(manifest).removesuffix("\n")


def _as_dict(version: int, manifest: Manifest) -> dict[str, Any]:
    return {"version": version, "manifest": msgspec.to_builtins(manifest)}


def _summary(manifest: Manifest) -> str:
    match manifest:
        case Endpoint():
            guided = f" guided by {', '.join(manifest.guidance)}" if manifest.guidance else ""
            return f"{manifest.model_size}/{manifest.lane} → {manifest.output.__struct_config__.tag}{guided}"
        case Guidance():
            return f"{manifest.form} for {(manifest.model_fingerprint or 'any model')[:19]}"
        case Model():
            return f"{manifest.source} {manifest.dtype}"
        case RetrievalSet():
            return f"{manifest.passages} passages, embedded by {manifest.embedding.source}"
        case SetAlias():
            return f"stands for version {manifest.version}"
        case Calibrated():
            return f"of version {manifest.endpoint_version}, {manifest.method}, from {manifest.texts} texts"
