"""`guideway dlq list | show | replay`: dead letters looked at, and put back where they came from."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from guideway.cli.console.output import AsJson, err, out, print_json, print_table, run
from guideway.cli.dlq.view import print_letter, view, when
from guideway.delivery.replay.dead_letter_reader import DeadLetterReader, Spans
from guideway.delivery.replay.decision import RecordPosition, Replayed, Selection, code_of
from guideway.delivery.replay.replayer import Report, plan
from guideway.delivery.replay.replayer import replay as put_back
from guideway.infra.cluster import administrator
from guideway.infra.topics import partitions_by_topic
from guideway.printable import on_one_line
from guideway.producers.client.client import split_address
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Record
from guideway.settings import Settings

Topic = Annotated[str, typer.Argument(help="The topic whose dead letters are meant, its .dlq, or /NAMESPACE/ENDPOINT.")]
Code = Annotated[str | None, typer.Option(help="Only those with this failure code.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Dead letters: records that could be neither used nor answered.", no_args_is_help=True)
    group.command("list")(list_topics)
    group.command("show")(show)
    group.command("replay")(replay)
    app.add_typer(group, name="dlq")


class Tally(msgspec.Struct):
    """What a dead-letter topic holds. Times are Unix milliseconds."""

    topic: str
    records: int = 0
    replayed: int = 0
    oldest_ms: int = 0
    newest_ms: int = 0
    codes: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, record: Record, *, replayed: bool) -> None:
        self.oldest_ms = min(self.oldest_ms, record.timestamp_ms) if self.records else record.timestamp_ms
        self.newest_ms = max(self.newest_ms, record.timestamp_ms)
        self.records += 1
        self.replayed += replayed
        self.codes[code_of(record)] += 1


def list_topics(as_json: AsJson = False) -> None:
    """List the topics that hold dead letters: how many, since when, and why."""

    async def work() -> list[Tally]:
        bootstrap = Settings.from_environ().answering_brokers()
        there = await _dead_letter_topics(bootstrap)
        async with DeadLetterReader.connected(bootstrap) as reader:
            # A topic's records are counted: transaction markers make its offsets lie.
            tallies = {topic: Tally(topic) for topic in sorted(there)}
            spans = await reader.spans(there)
            with _progress("reading", spans, as_json=as_json) as walked:
                for tp, span in spans.items():
                    replayed = await reader.replayed(tp) if len(span) else Replayed()
                    async for record in reader.read({tp: span}):
                        tallies[tp.topic].add(record, replayed=record.offset in replayed)
                    walked(len(span))
        return [tally for tally in tallies.values() if tally.records]

    found = run(work())
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

    guideway dlq show /public/round --code internal_error
    """
    selection = Selection(code=_code(code))

    async def work() -> tuple[list[tuple[Record, bool]], int]:
        bootstrap = Settings.from_environ().answering_brokers()
        there = await _dead_letter_topics(bootstrap)
        dead = _resolve(topic, there)
        kept: deque[tuple[Record, bool]] = deque(maxlen=limit or None)
        count = 0
        async with DeadLetterReader.connected(bootstrap) as reader:
            spans = await reader.spans({dead: there[dead]})
            for tp, span in spans.items():
                replayed = await reader.replayed(tp) if len(span) else Replayed()
                async for record in reader.read({tp: span}):
                    if selection.wants(record):
                        count += 1
                        kept.append((record, record.offset in replayed))
        return list(kept), count

    found, count = run(work())
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

    Interrupted, it can be run again: what was put back is noted in the same transaction.

        guideway dlq replay /public/round --dry-run
        guideway dlq replay gw.infer.small.interactive.v1 --code engine_failed --yes
    """
    places = frozenset(map(_place, offset or ()))
    selection = Selection(code=_code(code), places=places, again=again)
    bootstrap = Settings.from_environ().answering_brokers()
    asking = not yes and not dry_run and sys.stdin.isatty()

    async def prepare() -> tuple[str, int, Spans, Report]:
        there = await _topics(bootstrap)
        dead = _resolve(topic, _dead(there))
        origin = names.topic_of_dead_letters(dead)
        if origin not in there:
            raise Refusal(FailureCode.INVALID_SETTING, f"topic {origin} does not exist any more: create it first")
        async with DeadLetterReader.connected(bootstrap) as reader:
            # The end is fixed here: what dies again while this runs must not be put back without end.
            spans = await reader.spans({dead: there[dead]})
            with _progress("reading", spans, as_json=as_json) as walked:
                planned = await plan(reader, spans, selection, walked) if dry_run or asking else Report()
        return origin, there[origin], spans, planned

    async def work(origin: str, partitions: int, spans: Spans) -> Report:
        async with DeadLetterReader.connected(bootstrap) as reader:
            with _progress("replaying", spans, as_json=as_json) as walked:
                return await put_back(
                    bootstrap, reader, spans, selection, origin=origin, origin_partitions=partitions, walked=walked
                )

    origin, partitions, spans, report = run(prepare())
    if asking and report.replayed:
        count = len(report.replayed)
        if not typer.confirm(f"Put {count} dead letter{'s' * (count > 1)} back on {origin}?", err=True):
            raise typer.Exit(1)
    if not dry_run and (report.replayed or not asking):
        report = run(work(origin, partitions, spans))
    _print_report(report, origin, dry_run=dry_run, as_json=as_json)


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


def _resolve(topic: str, there: Mapping[str, int]) -> str:
    """The dead-letter topic that is meant. Raises Refusal where there is none."""
    named = names.event_topic(*split_address(topic)) if topic.startswith("/") else topic
    for candidate in (named, names.dead_letter_topic(named)):
        if candidate in there:
            return candidate
    known = ", ".join(sorted(there)) or "none: run `guideway topics apply`"
    raise Refusal(FailureCode.INVALID_SETTING, f"{topic!r} has no dead-letter topic; there are {known}")


async def _topics(bootstrap: str) -> dict[str, int]:
    """All topics of the cluster, with how many partitions each has."""
    async with administrator(bootstrap) as admin:
        return {topic: len(partitions) for topic, partitions in (await partitions_by_topic(admin)).items()}


def _dead(there: Mapping[str, int]) -> dict[str, int]:
    return {topic: count for topic, count in there.items() if names.topic_of_dead_letters(topic) is not None}


async def _dead_letter_topics(bootstrap: str) -> dict[str, int]:
    return _dead(await _topics(bootstrap))


@contextmanager
def _progress(doing: str, spans: Spans, *, as_json: bool) -> Iterator[Callable[[int], None]]:
    """A bar over all offsets, where somebody watches; it is told how many more were walked."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as progress:
        task = progress.add_task(doing, total=sum(map(len, spans.values())))
        yield lambda more: progress.advance(task, more)
