"""`guideway get | describe` and `guideway topics apply`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from guideway.catalogue.difference import written
from guideway.catalogue.documents.manifest_files import read_manifests
from guideway.catalogue.entries import KINDS, Catalogue, Identity
from guideway.catalogue.limits import said
from guideway.catalogue.topic import CatalogueFollower
from guideway.cli.catalogue.apply import MaxPartitions, Replication
from guideway.cli.console.output import AsJson, err, out, print_json, print_table, run
from guideway.infra import topics
from guideway.infra.topic_making import MAX_PARTITIONS_PER_BROKER, MadeTopics, make_topics
from guideway.printable import printable
from guideway.schemas.kinds.calibrated import Calibrated
from guideway.schemas.kinds.namespace import Namespace
from guideway.schemas.kinds.retrieval_set import RetrievalSet, SetAlias
from guideway.schemas.kinds.router import Router
from guideway.schemas.kinds.targets import Target, Webhook
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model
from guideway.schemas.names.service_topics import FORMER_CATALOGUE_TOPIC
from guideway.settings import Settings
from guideway.usecases.lookup import catalogue_of, found_in, identity_of, kind_of
from guideway.usecases.move import has_former
from guideway.usecases.shadows.view import shadow_of

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
    max_partitions: MaxPartitions = MAX_PARTITIONS_PER_BROKER,
) -> None:
    """Create the topics that the catalogue (and FILE) needs and that are not there yet, those of batches included."""

    async def work() -> MadeTopics:
        cluster = Settings.from_environ().answering_cluster()
        await make_topics(cluster, topics.catalogues([]), replication=replication)
        async with CatalogueFollower(cluster) as reader:
            manifests = [manifest for _, manifest in reader.catalogue]
        manifests += [source.manifest for source in read_manifests(file)] if file else []
        make = partial(make_topics, cluster, replication=replication, most_per_broker=max_partitions)
        # Those of batches last: where there is no room for them, events still have theirs.
        needed, more = await make(topics.wanted(manifests)), await make(topics.batches_of(manifests))
        return MadeTopics(
            created=needed.created + more.created,
            existing=needed.existing + more.existing,
            narrower=needed.narrower + more.narrower,
            replication=needed.replication,
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
    kind: Annotated[str, typer.Argument(help=f"{', '.join(KINDS)} or all")] = "all",
    as_json: AsJson = False,
    as_yaml: AsYaml = False,
) -> None:
    """List what is in the catalogue; with --yaml as manifests, which `apply` takes again."""
    wanted = kind_of(kind) if kind != "all" else None

    async def work() -> tuple[Catalogue, bool]:
        settings = Settings.from_environ()
        return await catalogue_of(settings), await has_former(settings)

    catalogue, former = run(work())
    if former:
        err.print(
            f"{FORMER_CATALOGUE_TOPIC}, of an earlier guideway, is there, and nothing in it counts: "
            "`guideway catalogue move` moves it"
        )
    entries = [(version, one) for version, one in catalogue if wanted in (None, Identity.of(one).kind)]
    unread = [one for one in catalogue.unread() if wanted in (None, one.identity.kind)]
    foreign = catalogue.foreign.records()
    if as_json:
        for version, manifest in entries:
            print_json(_as_dict(version, manifest))
        for one in unread:
            print_json({"version": one.version, "unreadable": one.why, "what": str(one.identity)})
        for record in foreign:
            print_json({"foreign": record.why, "topic": record.topic, "key": record.key})
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
    if foreign:
        err.print(f"{len(foreign)} records count for nothing, because they do not agree with their topic:")
        for record in foreign[:20]:
            err.print(f"  {record.topic}, key {printable(record.key)}: {record.why}")
    if catalogue.strangers:
        err.print(f"{catalogue.strangers} records of the catalogue's topic have a key that is none of ours")
    for topic, count in catalogue.left_out().items():
        err.print(f"{count} records of {topic} are not taken in, because it holds too much: delete unused versions")


def describe(
    kind: Annotated[
        str,
        typer.Argument(help=", ".join(KINDS)),
    ],
    name: Annotated[str, typer.Argument(help="NAMESPACE/NAME, a model size, or a namespace")],
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
    out.print(f"# {identity}, version {version} (all: {', '.join(map(str, versions))})")
    if isinstance(manifest, Endpoint) and manifest.shadow is not None:
        # A comment, for the rest is what `apply` takes again.
        shadow = run(shadow_of(Settings.from_environ(), manifest.address, with_figures=False))
        out.print(f"# shadow: {' '.join(shadow.told.split())}")
    out.print(_lines(manifest))


def _lines(manifest: Manifest) -> str:
    return written(manifest).removesuffix("\n")


def _as_dict(version: int, manifest: Manifest) -> dict[str, Any]:
    return {"version": version, "manifest": msgspec.to_builtins(manifest)}


def _summary(manifest: Manifest) -> str:
    match manifest:
        case Endpoint():
            guided = f" guided by {', '.join(manifest.guidance)}" if manifest.guidance else ""
            what = f"{manifest.model_size}/{manifest.lane} → {manifest.output.__struct_config__.tag}{guided}"
        case Guidance():
            what = f"{manifest.form} for {(manifest.model_fingerprint or 'any model')[:19]}"
        case Model():
            what = f"{manifest.source} {manifest.dtype}"
        case RetrievalSet():
            what = f"{manifest.passages} passages, embedded by {manifest.embedding.source}"
        case SetAlias():
            what = f"stands for version {manifest.version}"
        case Calibrated():
            what = f"of version {manifest.endpoint_version}, {manifest.method}, from {manifest.texts} texts"
        case Namespace():
            what = said(manifest)
        case Router():
            among = ", ".join(manifest.endpoints) or "all that have a description"
            what = f"{' then '.join(manifest.methods)} among {among}"
        case Webhook():
            what = f"{manifest.results} results to {manifest.url}, signed with {manifest.secret}"
        case Target():
            what = f"accepts results of {', '.join(manifest.accepts_from)}"
    return what
