"""`guideway dlq list | show | replay`: dead letters looked at, and put back where they came from."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from guideway.cli.console.output import AsJson, err, out, print_json, print_table, run
from guideway.cli.dlq.view import print_letter, view, when
from guideway.delivery.replay.decision import RecordPosition, Selection, Why
from guideway.delivery.replay.replayer import Report
from guideway.printable import on_one_line
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings
from guideway.usecases import dead_letters

Topic = Annotated[str, typer.Argument(help="The topic whose dead letters are meant, its .dlq, or /NAMESPACE/ENDPOINT.")]
Code = Annotated[str | None, typer.Option(help="Only those with this failure code.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Dead letters: records that could be neither used nor answered.", no_args_is_help=True)
    group.command("list")(list_topics)
    group.command("show")(show)
    group.command("replay")(replay)
    app.add_typer(group, name="dlq")


def list_topics(as_json: AsJson = False) -> None:
    """List the topics that hold dead letters: how many, since when, and why."""

    with _progress("reading", as_json=as_json) as watch:
        found = run(dead_letters.tallies(Settings.from_environ(), watch))
    if as_json:
        for tally in found:
            print_json(tally)
    elif not found:
        out.print("there are no dead letters")
    else:
        rows = [
            (one.topic, one.records, one.replayed, when(one.oldest_ms), when(one.newest_ms), _counts(one.codes))
            for one in found
        ]
        print_table(("topic", "records", "replayed", "oldest", "newest", "codes"), rows)


def show(
    topic: Topic,
    code: Code = None,
    limit: Annotated[int, typer.Option("-n", "--limit", help="At most so many, the newest; 0: all.", min=0)] = 20,
    value: Annotated[bool, typer.Option("--value", help="Also the value: a caller's text, private.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show dead letters: where each came from, why it is here, its key and headers.

    guideway dlq show /public/fact-yes-no --code internal_error
    """
    selection = Selection(code=_code(code))

    found, count = run(dead_letters.letters(Settings.from_environ(), topic, selection, limit=limit))
    for record, replayed in found:
        seen = view(record, replayed=replayed, with_value=value)
        if as_json:
            print_json(seen)
        else:
            print_letter(seen)
    if not as_json and not count:
        out.print("there are no such dead letters")
    if count > len(found):
        err.print(f"the last {len(found)} of {count}: --limit 0 shows all")


def replay(
    topic: Topic,
    code: Code = None,
    offset: Annotated[list[str] | None, typer.Option(help="Only the one at PARTITION:OFFSET; repeatable.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also those that were replayed already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put dead letters back on the topic they came from: as they were, and each once.

    Interrupted, it can be run again: what was put back is noted in the same transaction. Events of an endpoint that is
    gone stay where they are: it says how many, and exits with 1 where nothing else was put back.

        guideway dlq replay /public/fact-yes-no --dry-run
        guideway dlq replay gw.infer.small.interactive.v1 --code engine_failed --yes
    """
    places = frozenset(map(_place, offset or ()))
    selection = Selection(code=_code(code), places=places, again=again)
    asking = not yes and not dry_run and sys.stdin.isatty()
    wanted = run(dead_letters.prepare_replay(Settings.from_environ(), topic, selection))
    report = Report()
    if dry_run or asking:
        with _progress("reading", as_json=as_json) as watch:
            report = run(dead_letters.preview_replay(wanted, watch))
    if asking and report.replayed:
        count = len(report.replayed)
        if not typer.confirm(f"Put {count} dead letter{'s' * (count > 1)} back on {wanted.origin}?", err=True):
            raise typer.Exit(1)
    if not dry_run and (report.replayed or not asking):
        with _progress("replaying", as_json=as_json) as watch:
            report = run(dead_letters.put_back(wanted, watch))
    _print_report(report, wanted.origin, dry_run=dry_run, as_json=as_json)
    if Why.NO_ENDPOINT in report.skipped and not report.replayed:
        raise typer.Exit(1)


def _print_report(report: Report, origin: str, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        skipped = [
            {"why": why.value, "records": len(places), "places": [_written(one) for one in places]}
            for why, places in report.skipped.items()
        ]
        print_json({"topic": origin, "dry_run": dry_run, "replayed": len(report.replayed), "skipped": skipped})
        return
    done = "would be replayed" if dry_run else "replayed"
    rows: list[tuple[object, ...]] = [(done, len(report.replayed), f"to {origin}", _some(report.replayed))]
    rows += [("skipped", len(places), why.sentence, _some(places)) for why, places in report.skipped.items()]
    print_table(("", "records", "", "partition:offset"), rows)


def _some(places: list[RecordPosition]) -> str:
    """Runs of places, as many as fit a line."""
    runs = [
        list(group) for _, group in groupby(enumerate(sorted(places)), key=lambda one: (one[1][0], one[1][1] - one[0]))
    ]
    texts = [_written(one[0][1]) + (f"–{one[-1][1][1]}" if len(one) > 1 else "") for one in runs]
    return ", ".join(texts[:5]) + (", …" if len(texts) > 5 else "")


def _written(place: RecordPosition) -> str:
    return f"{place[0]}:{place[1]}"


def _counts(codes: Counter[str]) -> str:
    return ", ".join(f"{on_one_line(code) or 'none'} {count}" for code, count in codes.most_common())


def _place(text: str) -> RecordPosition:
    partition, _, offset = text.partition(":")
    # Kafka's numbers have no more digits.
    if not (partition.isdecimal() and offset.isdecimal() and max(len(partition), len(offset)) < 20):
        raise Refusal(FailureCode.INVALID_SETTING, f"{text[:60]!r} is no place: write PARTITION:OFFSET, such as 0:17")
    return int(partition), int(offset)


def _code(text: str | None) -> FailureCode | None:
    if text is None:
        return None
    try:
        return FailureCode(text)
    except ValueError:
        known = ", ".join(FailureCode)
        raise Refusal(FailureCode.INVALID_SETTING, f"{text!r} is no failure code: it is one of {known}") from None


@contextmanager
def _progress(doing: str, *, as_json: bool) -> Iterator[dead_letters.Watch]:
    """A bar over all offsets, where somebody watches."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as progress:

        def watch(offsets: int) -> Callable[[int], None]:
            task = progress.add_task(doing, total=offsets)
            return lambda more: progress.advance(task, more)

        yield watch
