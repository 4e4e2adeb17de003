"""`guideway apply | diff | schema`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from guideway.catalogue.changes import Change
from guideway.catalogue.difference import difference
from guideway.catalogue.documents.manifest_files import Source, read_manifests
from guideway.cli.console.output import AsJson, complain, err, out, print_json, print_table, run
from guideway.infra.topic_making import MAX_PARTITIONS_PER_BROKER
from guideway.printable import printable
from guideway.producers.checks.doubts import doubtful
from guideway.reference.schema import schema
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.protobuf.messages import DESCRIPTORS, FOLDER
from guideway.settings import Settings
from guideway.usecases import packaged
from guideway.usecases.apply import How, Preview, apply_manifests, preview

_FILES: Final = (
    "A manifest file, a folder of them (YAML or TOML; hidden ones are left out), or - for standard input. May be "
    "given several times."
)
Replication = Annotated[
    int | None, typer.Option(min=1, max=32_767, help="Copies of each topic; default: 3, or as many as brokers.")
]
MaxPartitions = Annotated[
    int, typer.Option("--max-partitions", min=1, help="Of guideway's topics on each broker, copies included.")
]
WAIT_S: Final = 60.0
EXIT_DIFFERENT: Final = 1
EXIT_REFUSED: Final = 2
"""Of `diff`, as of diff and kubectl: 1 says that there are differences."""


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("apply")(apply)
    app.command("diff")(diff)
    app.command("schema")(schema_)


def apply(
    file: Annotated[list[Path] | None, typer.Option("-f", "--file", help=_FILES)] = None,
    with_small: Annotated[
        bool,
        typer.Option("--with-small", help=f"Also model size small, if there is none: {packaged.WHAT_IT_IS}."),
    ] = False,
    as_json: AsJson = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what would be done; write nothing.")
    ] = False,
    create_topics: Annotated[
        bool, typer.Option("--topics/--no-topics", help="Create the topics that these manifests need.")
    ] = True,
    replication: Replication = None,
    max_partitions: MaxPartitions = MAX_PARTITIONS_PER_BROKER,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for topics that you may not create; the platform makes them.")
    ] = True,
) -> None:
    """Publish endpoints, guidance and models to the catalogue: all of them or, if one is refused, none.

    What has changed becomes a new version. Exit code 0: it is done (with --dry-run: it would be); 1: it is refused.
    """
    settings = Settings.from_environ()
    if not file and not with_small:
        raise Refusal(FailureCode.INVALID_SETTING, "nothing to apply: name a file or a folder with -f")
    sources = read_manifests(*file or [])
    if with_small:
        sources = run(packaged.with_small(settings, sources))
    how = How(
        create_topics=create_topics,
        replication=replication,
        most_per_broker=max_partitions,
        wait_s=WAIT_S if wait else 0.0,
    )
    if dry_run:
        would = run(preview(settings, sources, how, err.print))
        tell_preview(would, as_json=as_json)
    else:
        changes = run(apply_manifests(settings, sources, how, err.print))
        tell(changes, as_json=as_json)
    tell_doubts(sources, as_json=as_json)


def diff(file: Annotated[list[Path], typer.Option("-f", "--file", help=_FILES)], as_json: AsJson = False) -> None:
    """Show how the catalogue would change if these manifests were applied; write nothing.

    Exit code 0: not at all; 1: it would; 2: they are refused, or the brokers cannot be asked.
    """
    try:
        settings, sources = Settings.from_environ(), read_manifests(*file)
        would = run(preview(settings, sources, told=err.print))
    except Refusal as refusal:
        complain(refusal)
        raise typer.Exit(EXIT_REFUSED) from None
    for change, before in zip(would.changes, would.before, strict=True):
        lines = difference(change, before)
        if as_json:
            print_json(_as_dict(change) | {"diff": lines})
        else:
            _print_diff(lines)
    tell_doubts(sources, as_json=as_json)
    if any(change.action != "unchanged" for change in would.changes):
        raise typer.Exit(EXIT_DIFFERENT)


def schema_(
    proto: Annotated[
        Path | None, typer.Option("--proto", help="Write the .proto files of replies and of the gRPC door to a folder.")
    ] = None,
    descriptor_set: Annotated[
        Path | None, typer.Option("--descriptor-set", help="Write their FileDescriptorSet to a file.")
    ] = None,
) -> None:
    """Print a JSON Schema of all manifests and of the studio's tasks, for editors.

    With --proto or --descriptor-set: write what replies and the gRPC door are in Protobuf, and print no schema.
    In the first line of a file: `# yaml-language-server: $schema=./guideway.schema.json`.
    """
    if proto is None and descriptor_set is None:
        out.print(json.dumps(schema(), indent=1, ensure_ascii=False))
    try:
        if proto is not None:
            for path in sorted(FOLDER.rglob("*.proto")):
                place = proto / path.relative_to(FOLDER)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes())
                out.print(str(place))
        if descriptor_set is not None:
            descriptor_set.write_bytes(DESCRIPTORS.read_bytes())
            out.print(str(descriptor_set))
    except OSError as error:
        raise Refusal(FailureCode.INVALID_SETTING, f"{error.filename} cannot be written: {error.strerror}") from None


def tell(changes: Sequence[Change], *, as_json: bool) -> None:
    """What has become of manifests."""
    if as_json:
        for change in changes:
            print_json(_as_dict(change))
    else:
        rows = [(str(change.identity), change.version, change.action) for change in changes]
        print_table(("what", "version", "action"), rows)


def tell_preview(would: Preview, *, as_json: bool) -> None:
    """What would become of them."""
    if as_json:
        for change in would.changes:
            print_json(_as_dict(change) | {"dry_run": True})
        for topic in would.topics:
            print_json({"what": f"topic {topic}", "action": "created", "dry_run": True})
        return
    words = {"created": "would be created", "updated": "would be updated", "unchanged": "unchanged"}
    rows = [(str(change.identity), change.version, words[change.action]) for change in would.changes]
    print_table(("what", "version", "action"), rows)
    if would.topics:
        out.print(f"{len(would.topics)} topics would be created")
    out.print("nothing was written (--dry-run)")


def tell_doubts(sources: Iterable[Source], *, as_json: bool) -> None:
    """What is allowed and hardly meant."""
    for doubt in doubtful(sources):
        if as_json:
            place = {"file": doubt.file, "line": doubt.line, "field": doubt.field}
            print_json({"what": doubt.what, "doubtful": doubt.message} | place)
        else:
            err.print(f"doubtful: {doubt}")


def _as_dict(change: Change) -> dict[str, object]:
    return {"what": str(change.identity), "version": change.version, "action": change.action}


_STYLES: Final = {"+++": "bold", "---": "bold", "@@ ": "cyan"}


def _print_diff(lines: Iterable[str]) -> None:
    for line in lines:
        style = _STYLES.get(line[:3]) or {"+": "green", "-": "red"}.get(line[:1], "")
        out.print(Text(printable(line), style=style))
