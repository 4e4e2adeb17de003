"""`guideway apply | get | describe` and `guideway topics apply`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from guideway.catalogue.artefacts import ArtefactStore
from guideway.catalogue.documents import as_yaml
from guideway.catalogue.entries import KINDS, Catalogue, Change, Identity, Kind, Unreadable, plan
from guideway.catalogue.files import read, upload
from guideway.catalogue.topic import CatalogueReader, publish_planned
from guideway.cli import packaged
from guideway.cli.output import AsJson, err, out, print_json, print_table, run
from guideway.infra import topics
from guideway.producers.check import check, doubts
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint, Guidance, Manifest, Model, RetrievalSet, SetAlias
from guideway.schemas.nearest import did_you_mean
from guideway.settings import Settings
from guideway.workers.engine.model_kind import check_source

Replication = Annotated[
    int | None, typer.Option(min=1, max=32_767, help="Copies of each topic; default: 3, or as many as brokers.")
]
MaxPartitions = Annotated[
    int, typer.Option("--max-partitions", min=1, help="Of guideway's topics on each broker, copies included.")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("apply")(apply)
    app.command("get")(get)
    app.command("describe")(describe)
    group = typer.Typer(help="The topics of the catalogue, of endpoints and of model sizes.", no_args_is_help=True)
    group.command("apply")(topics_apply)
    app.add_typer(group, name="topics")


def apply(
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="A manifest file, or a folder of them (YAML or TOML).")
    ] = None,
    with_small: Annotated[
        bool,
        typer.Option("--with-small", help=f"Also model size small, if there is none: {packaged.WHAT_IT_IS}."),
    ] = False,
    as_json: AsJson = False,
    create_topics: Annotated[
        bool, typer.Option("--topics/--no-topics", help="Create the topics that these manifests need.")
    ] = True,
    replication: Replication = None,
    max_partitions: MaxPartitions = topics.MAX_PARTITIONS_PER_BROKER,
) -> None:
    """Publish endpoints, guidance and models to the catalogue. What has changed becomes a new version."""
    settings = Settings.from_environ()
    if file is None and not with_small:
        raise Refusal(FailureCode.INVALID_SETTING, "nothing to apply: name a file or a folder with -f")
    found = read(file) if file is not None else []
    if with_small:
        found = run(packaged.with_small(settings, found))
    changes = run(
        apply_manifests(
            settings, found, create_topics=create_topics, replication=replication, most_per_broker=max_partitions
        )
    )
    tell(changes, as_json=as_json)
    for doubt in doubts(manifest for _, manifest in found):
        err.print(f"doubtful: {doubt}")


def tell(changes: Sequence[Change], *, as_json: bool) -> None:
    """What has become of manifests."""
    if as_json:
        for change in changes:
            print_json({"what": str(change.identity), "version": change.version, "action": change.action})
    else:
        rows = [(str(change.identity), change.version, change.action) for change in changes]
        print_table(("what", "version", "action"), rows)


async def apply_manifests(
    settings: Settings,
    found: list[tuple[Path, Manifest]],
    *,
    create_topics: bool = True,
    replication: int | None = None,
    most_per_broker: int = topics.MAX_PARTITIONS_PER_BROKER,
) -> Sequence[Change]:
    """Check, upload artefacts, create topics, publish; in this order, so that nothing half-applied is visible."""
    for _, manifest in found:
        if isinstance(manifest, Model):
            check_source(manifest.source)
    bootstrap = settings.answering_brokers()
    if create_topics:
        # The catalogue's own topic first: it is read below.
        await topics.apply(bootstrap, topics.wanted([]), replication=replication)

    async def planned(catalogue: Catalogue) -> list[Change]:
        check([manifest for _, manifest in found], catalogue)
        store = ArtefactStore(settings.store)
        manifests = [upload(path, manifest, store) for path, manifest in found]
        if create_topics:
            await topics.apply(
                bootstrap, topics.wanted(manifests), replication=replication, most_per_broker=most_per_broker
            )
        return plan(catalogue, manifests)

    changes, _ = await publish_planned(bootstrap, planned)
    return changes


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
        async with CatalogueReader(bootstrap) as reader:
            manifests = [manifest for _, manifest in reader.catalogue]
        manifests += [manifest for _, manifest in read(file)] if file else []
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
    kind: Annotated[str, typer.Argument(help="endpoints, guidance, sets, models, aliases, or all")] = "all",
    as_json: AsJson = False,
) -> None:
    """List what is in the catalogue."""
    wanted = _kind(kind) if kind != "all" else None

    async def work() -> tuple[list[tuple[int, Manifest]], list[Unreadable], int]:
        async with CatalogueReader(Settings.from_environ().answering_brokers()) as reader:
            catalogue = reader.catalogue
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
    rows = [(Identity.of(one).kind, f"{one.namespace}/{one.name}", version, _summary(one)) for version, one in entries]
    rows += [
        (of.kind, f"{of.namespace}/{of.name}", version, f"cannot be read: {why}")
        for of, version, why in map(msgspec.structs.astuple, unread)
    ]
    print_table(("kind", "name", "version", "what"), rows)
    if strangers:
        err.print(f"{strangers} records of the catalogue's topic have a key that is none of ours")


def describe(
    kind: Annotated[str, typer.Argument(help="endpoint, guidance, set, model or alias")],
    name: Annotated[str, typer.Argument(help="NAMESPACE/NAME, or a model size")],
    as_json: AsJson = False,
) -> None:
    """Show one manifest whole, with its versions."""
    identity = identity_of(kind, name)

    async def work() -> tuple[list[int], tuple[int, Manifest]]:
        async with CatalogueReader(Settings.from_environ().answering_brokers()) as reader:
            return reader.catalogue.versions(identity), found_in(reader.catalogue, identity)

    versions, (version, manifest) = run(work())
    document = _as_dict(version, manifest)
    if as_json:
        print_json(document | {"versions": versions})
        return
    out.print(f"{identity} version {version} (all: {', '.join(map(str, versions))})", style="bold")
    out.print(as_yaml(document["manifest"]))


def _kind(text: str) -> Kind:
    for kind in KINDS:
        if text in (kind, f"{kind}s", f"{kind}es"):
            return kind
    near = did_you_mean(text, KINDS)
    raise Refusal(FailureCode.INVALID_SETTING, f"{text!r} is no kind: {near}write {', '.join(KINDS)}")


def identity_of(kind: str, name: str) -> Identity:
    """What is meant by a kind and `NAMESPACE/NAME`, or a model size. Raises Refusal(invalid_setting)."""
    known = _kind(kind)
    namespace, slash, rest = name.strip("/").partition("/")
    return Identity(known, namespace, rest) if slash else Identity(known, "public", namespace)


def found_in(catalogue: Catalogue, identity: Identity) -> tuple[int, Manifest]:
    """The newest version. Raises Refusal(unknown_endpoint | guidance_unknown | unknown_model_size)."""
    latest = catalogue.latest(identity)
    if latest is None:
        code = FailureCode.UNKNOWN_ENDPOINT if identity.kind == "endpoint" else FailureCode.GUIDANCE_UNKNOWN
        code = FailureCode.UNKNOWN_MODEL_SIZE if identity.kind == "model" else code
        known = [f"{one.namespace}/{one.name}" for one in catalogue.identities(identity.kind)]
        near = did_you_mean(f"{identity.namespace}/{identity.name}", known)
        raise Refusal(code, f"the catalogue has no {identity}: {near}`guideway get {identity.kind}` lists what it has")
    return latest


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
