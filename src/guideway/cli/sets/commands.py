"""`guideway sets create | add | list | show | alias | delete`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.entries import Catalogue, Identity
from guideway.cli.catalogue.delete import EvenIfUsed
from guideway.cli.console import interrupts
from guideway.cli.console.output import LINE_EVERY_S, AsJson, clock, err, out, print_json, print_table, run
from guideway.cli.sets import questions
from guideway.cli.sets.questions import VersionArgument
from guideway.schemas.kinds.retrieval_set import RetrievalSet
from guideway.schemas.retrieval import SetRef
from guideway.settings import Settings
from guideway.usecases.delete import delete_set
from guideway.usecases.lookup import catalogue_of, found_set, split_name
from guideway.usecases.sets.make_sets import Order, make_sets, switch_set

if TYPE_CHECKING:
    from guideway.training.sets.build import Splitting
    from guideway.training.sets.document import DocumentFields
    from guideway.training.sets.publish import Published

SetArgument = Annotated[str, typer.Argument(metavar="NAMESPACE/NAME")]
Documents = Annotated[
    list[Path],
    typer.Argument(
        help="Files or folders: .txt, .md, .rst, .jsonl, .json, .csv, .tsv, .html, .pdf.", show_default=False
    ),
]
TextField = Annotated[str, typer.Option(help="Rows: the field with the text.")]
IdField = Annotated[str, typer.Option(help="Rows: the field with the id; without it, FILE:ROW.")]
MaxChars = Annotated[int, typer.Option(help="Characters of a passage, at most.")]
OverlapChars = Annotated[int, typer.Option(help="Of the passage before, repeated at a passage's beginning, at most.")]
Share = Annotated[
    list[str] | None, typer.Option(help="Namespace that may use it too, or * for all; default: as the version before.")
]
Encoding = Annotated[str, typer.Option(help="Of text that does not declare its own, for example cp1252.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Pass over rows and files that cannot be read; list them.")]
Stage = Annotated[bool, typer.Option("--stage", help="Do not switch to it yet: `sets alias` does.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Retrieval sets: the facts that endpoints answer from.", no_args_is_help=True)
    group.command("create")(create)
    group.command("add")(add)
    group.command("list")(list_)
    group.command("show")(show)
    group.command("alias")(alias)
    group.command("delete")(delete)
    questions.add_to(group)
    app.add_typer(group, name="sets")


def create(
    name: SetArgument,
    documents: Documents,
    text_field: TextField = "text",
    id_field: IdField = "id",
    max_chars: MaxChars = 800,
    overlap_chars: OverlapChars = 120,
    encoding: Encoding = "utf-8",
    skip_bad: SkipBad = False,
    share: Share = None,
    stage: Stage = False,
    as_json: AsJson = False,
) -> None:
    """Make a set from documents, or the next version of one. Interrupted, the same command goes on where it was.

    guideway sets create team/handbook handbook/ --share other-team
    """
    from guideway.training.sets.build import Splitting
    from guideway.training.sets.document import DocumentFields

    columns = DocumentFields(text=text_field, id=id_field)
    splitting = Splitting(max_chars=max_chars, overlap_chars=overlap_chars)
    order = _order(name, documents, columns, splitting, encoding=encoding, skip_bad=skip_bad, stage=stage)
    _make(msgspec.structs.replace(order, shared_with=share), as_json=as_json)


def add(
    name: SetArgument,
    documents: Documents,
    text_field: TextField = "text",
    id_field: IdField = "id",
    max_chars: MaxChars = 800,
    overlap_chars: OverlapChars = 120,
    encoding: Encoding = "utf-8",
    skip_bad: SkipBad = False,
    stage: Stage = False,
    as_json: AsJson = False,
) -> None:
    """Make the next version of a set: what is there and these documents. One with an id that is there replaces it."""
    from guideway.training.sets.build import Splitting
    from guideway.training.sets.document import DocumentFields

    columns = DocumentFields(text=text_field, id=id_field)
    splitting = Splitting(max_chars=max_chars, overlap_chars=overlap_chars)
    order = _order(name, documents, columns, splitting, encoding=encoding, skip_bad=skip_bad, stage=stage)
    _make(msgspec.structs.replace(order, adds=True), as_json=as_json)


def list_(as_json: AsJson = False) -> None:
    """List all sets."""

    async def work() -> list[dict[str, Any]]:
        catalogue = await catalogue_of(Settings.from_environ())
        return [_described(catalogue, identity) for identity in catalogue.identities("set")]

    found = run(work())
    if as_json:
        for one in found:
            print_json(one)
        return
    rows = [
        (
            one["set"],
            one["current"],
            ", ".join(map(str, one["versions"])),
            one["passages"],
            " ".join(one["shared_with"]),
        )
        for one in found
    ]
    print_table(("set", "current", "versions", "passages", "shared with"), rows)


def show(name: VersionArgument, as_json: AsJson = False) -> None:
    """Show one set: its versions, how it was made, and its first passages."""

    async def work() -> tuple[dict[str, Any], SetRef, RetrievalSet]:
        catalogue = await catalogue_of(Settings.from_environ())
        ref, manifest = found_set(catalogue, name)
        return _described(catalogue, Identity("set", ref.namespace, ref.name)), ref, manifest

    from guideway.workers.retrieval import set_folder

    described, ref, manifest = run(work())
    settings = Settings.from_environ()
    content = set_folder.parsed(
        ArtefactStore(settings.store, ref.namespace).read(manifest.artefact, settings.artefact_cache)
    )
    told = {
        **described,
        "version": ref.version,
        "artefact": manifest.artefact,
        **msgspec.to_builtins(content.info),
        "metadata": sorted({key for passage in content.passages for key in passage.metadata}),
        "first": msgspec.to_builtins(content.passages[:3]),
    }
    if as_json:
        print_json(told)
        return
    first = told.pop("first")
    print_table(("", ""), [(key, _cell(value)) for key, value in told.items()])
    out.print(f"\nThe first {len(first)} of {len(content.passages)} passages:")
    for passage in first:
        out.print(f"\n{passage['id']}: {passage['text'][:300]}")


def _cell(value: Any) -> object:
    if isinstance(value, dict):
        return value["source"]
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def alias(
    name: SetArgument,
    version: Annotated[int, typer.Argument(help="What the name alone stands for from now on.")],
    as_json: AsJson = False,
) -> None:
    """Switch a set's name to a version, at once: forward to one that was staged, or back."""
    before = run(switch_set(Settings.from_environ(), name, version))
    if as_json:
        print_json({"set": name, "current": version, "before": before})
    else:
        out.print(f"{name} stands for version {version}, before for {before}")


def delete(name: VersionArgument, anyway: EvenIfUsed = False, as_json: AsJson = False) -> None:
    """Remove a set, or one version of it that its name does not stand for. Requests that name it are refused then."""
    ref, removed = run(delete_set(Settings.from_environ(), name, anyway=anyway))
    plain = f"{ref.namespace}/{ref.name}"
    if as_json:
        print_json({"set": plain, "removed_versions": removed.versions})
    else:
        out.print(f"deleted {plain}, version {', '.join(map(str, removed.versions))}", markup=False)


# What the commands share ---------------------------------------------------------------------------------------------


def _order(
    name: str,
    documents: list[Path],
    columns: DocumentFields,
    splitting: Splitting,
    *,
    encoding: str,
    skip_bad: bool,
    stage: bool,
) -> Order:
    namespace, plain = split_name(name)
    return Order(
        namespace=namespace,
        name=plain,
        documents=documents,
        columns=columns,
        splitting=splitting,
        encoding=encoding,
        skip_bad=skip_bad,
        stage=stage,
    )


def _make(order: Order, *, as_json: bool) -> None:
    interrupts.keeps("what is embedded is kept, and nothing is published; the same command goes on with it")
    with _bar(as_json) as progress:
        (published,) = run(make_sets(Settings.from_environ(), [order], progress, interrupts.asked))
    _tell(published, as_json=as_json)


@contextlib.contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Where there is no terminal, a line now and then instead."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as bar:
        task = bar.add_task("passages embedded", total=None)
        began: tuple[float, int] | None = None
        said_at = time.monotonic()

        def tell(done: int, of: int) -> None:
            nonlocal began, said_at
            now = time.monotonic()
            if began is None:
                # What was there before says nothing about the speed.
                began = now, done
                bar.reset(task, total=of, completed=done)
            bar.update(task, completed=done, total=of)
            if bar.disable and not quiet and now - said_at >= LINE_EVERY_S:
                said_at = now
                left_s = (of - done) * (now - began[0]) / max(1, done - began[1])
                err.print(f"{done} of {of} passages embedded, {clock(left_s)} left")

        yield tell


def _tell(published: Published, *, as_json: bool) -> None:
    from guideway.workers.retrieval.index import LOCAL_LIMIT

    if as_json:
        print_json(published)
        return
    current = "" if published.current == published.version else f"; the name stands for version {published.current}"
    passages = f"{published.passages} passage{'s' * (published.passages != 1)}"
    out.print(f"{published.action}: {published.set}, version {published.version}, {passages}{current}")
    if published.left_out:
        err.print(f"left out: {', '.join(published.left_out)}")
    if published.skipped:
        err.print(f"{len(published.skipped)} skipped:")
    for one in published.skipped:
        err.print(f"  {one}")
    if published.passages > LOCAL_LIMIT and Settings.from_environ().qdrant_url is None:
        err.print(f"more than {LOCAL_LIMIT} passages want a Qdrant server: set GUIDEWAY_QDRANT_URL")


def _described(catalogue: Catalogue, identity: Identity) -> dict[str, Any]:
    current = catalogue.current_version(identity.namespace, identity.name)
    manifest = catalogue.get(identity, current)
    return {
        "set": f"{identity.namespace}/{identity.name}",
        "current": current,
        "versions": catalogue.versions(identity),
        "passages": manifest.passages if isinstance(manifest, RetrievalSet) else 0,
        "shared_with": manifest.shared_with if isinstance(manifest, RetrievalSet) else [],
    }
