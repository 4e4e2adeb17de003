"""What the demo shows: first how good the answers are, then the answers, then what one micro-batch held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from rich.text import Text

from guideway.cli.console.output import out, print_json, print_table
from guideway.cli.demo.sets import SideBySide
from guideway.cli.traffic import show_value
from guideway.printable import on_one_line, printable
from guideway.schemas.reply import Completed, Reply
from guideway.workers.messages.from_engine import BatchReport


class Told(msgspec.Struct):
    """An event and what came back."""

    endpoint: str
    text: str
    reply: Reply
    after_s: float


class Score(msgspec.Struct):
    """The share of labelled rows that are answered rightly, with guidance and by the same frozen model without."""

    name: str
    rows: int
    guided: float
    bare: float


class Speed(msgspec.Struct):
    """Of the labelled rows, queue included."""

    requests: int
    seconds: float
    requests_per_s: float
    prompt_tokens_per_s: int
    output_tokens_per_s: int


class Report(msgspec.Struct):
    """All that the demo has to say."""

    scores: list[Score]
    speed: Speed
    shown: list[Told]
    asked: list[tuple[SideBySide, list[Told]]]
    """The same questions to endpoints that differ in their set of facts only; answers question by question."""
    batches: list[BatchReport]

    @property
    def from_facts(self) -> list[Told]:
        return [one for _, answers in self.asked for one in answers]


def tell_json(report: Report) -> None:
    """One object a line; the answers to the questions were printed as they came."""
    for one in report.from_facts:
        print_json({"event": "side_by_side", "endpoint": one.endpoint, "question": one.text, "reply": one.reply})
    print_json({"event": "sets_micro_batch", "batch": most_sets(report.batches, _ids(report.from_facts))})
    print_json({"event": "micro_batch", "batch": most_mixed(report.batches)})
    for score in report.scores:
        print_json({"event": "accuracy", **msgspec.to_builtins(score)})
    print_json({"event": "speed", **msgspec.to_builtins(report.speed)})


def tell(report: Report) -> None:
    """For a person, at 80 columns or more."""
    batch = most_mixed(report.batches)
    namespaces = {one.endpoint.split("/")[1] for one in (*report.shown, *report.from_facts)}
    endpoints = {one.endpoint for one in (*report.shown, *report.from_facts)}
    out.print()
    _heading("guideway demo")
    out.print(
        f"{len(endpoints)} endpoints of {len(namespaces)} teams share one frozen model, SmolLM2-135M, from a queue.\n"
        "What differs from endpoint to endpoint is guidance: prompts, adapters, facts.\n"
    )
    _heading("1. How many answers are right, on rows that no training saw")
    print_table(
        ("task", "rows", "bare model", "guided"),
        [(one.name, one.rows, f"{one.bare:.0%}", f"{one.guided:.0%}") for one in report.scores],
    )
    speed = report.speed
    out.print(
        f"{speed.requests} requests in {speed.seconds} s, queue included: {speed.requests_per_s} requests/s,\n"
        f"{speed.prompt_tokens_per_s} prompt and {speed.output_tokens_per_s} output tokens/s.\n"
    )
    _heading("2. The same text, other guidance: other answers, in other forms")
    print_table(
        ("endpoint", "text", "answer"),
        [(one.endpoint, _short(one.text, 60), _answer(one.reply)) for one in report.shown],
    )
    out.print()
    _heading("3. The same question, other facts")
    for side_by_side, told in report.asked:
        _tell_crossed(side_by_side, told) if side_by_side.columns else _tell_cited(told)
    _tell_sets(report)
    if batch is not None:
        out.print()
        held = Counter((row.namespace, row.endpoint, ", ".join(row.guidance) or "nothing") for row in batch.rows)
        _heading(f"4. One micro-batch: step {batch.step}, {len(batch.rows)} rows, one frozen model")
        print_table(
            ("rows", "team", "endpoint", "guidance at work on the row"),
            [(count, *what) for what, count in sorted(held.items())],
        )


def most_mixed(batches: Iterable[BatchReport]) -> BatchReport | None:
    """The micro-batch of most namespaces, then of most different guidance, then of most rows."""
    return max(
        batches,
        key=lambda batch: (
            len({row.namespace for row in batch.rows}),
            len({entry for row in batch.rows for entry in row.guidance}),
            len(batch.rows),
        ),
        default=None,
    )


def most_sets(batches: Iterable[BatchReport], ids: set[str]) -> BatchReport | None:
    """The micro-batch that held most of these requests."""
    return max(batches, key=lambda batch: sum(row.request_id in ids for row in batch.rows), default=None)


def _heading(text: str) -> None:
    out.print(Text(text, "bold"))


def _tell_crossed(side_by_side: SideBySide, told: Sequence[Told]) -> None:
    """Answers that are a word: a row for each question, a column for each set of facts."""
    out.print("By the facts alone, whatever is true:")
    print_table(
        ("  question", *side_by_side.columns),
        [
            (f"  {question}", *(_short(_text(one.reply), 20) for one in answers))
            for question, answers in _by_question(told)
        ],
    )
    out.print()


def _tell_cited(told: Sequence[Told]) -> None:
    for question, answers in _by_question(told):
        out.print(question)
        print_table(
            ("  endpoint", "answer", "cites"),
            [(f"  {one.endpoint}", _short(_text(one.reply), 150), _cited(one.reply)) for one in answers],
        )


def _tell_sets(report: Report) -> None:
    ids = _ids(report.from_facts)
    held = most_sets(report.batches, ids)
    if held is not None:
        sets = {entry for row in held.rows for entry in row.guidance if entry.startswith("set ")}
        ours = sum(row.request_id in ids for row in held.rows)
        out.print(f"{ours} of these {len(ids)} ran in one micro-batch, of {len(sets)} sets (step {held.step}).")


def _ids(told: Sequence[Told]) -> set[str]:
    return {one.reply.id for one in told}


def _by_question(told: Sequence[Told]) -> list[tuple[str, list[Told]]]:
    return [(text, [one for one in told if one.text == text]) for text in dict.fromkeys(one.text for one in told)]


def _answer(reply: Reply) -> Text:
    if not isinstance(reply, Completed):
        return Text(on_one_line(_text(reply)), "red")
    sample = reply.samples[0]
    shown = show_value(sample.value)
    spelled = f"  (written {sample.text})" if isinstance(sample.value, bool) and sample.text != shown else ""
    return Text(printable(_short(shown, 160) + spelled))


def _text(reply: Reply) -> str:
    return reply.samples[0].text if isinstance(reply, Completed) else f"{reply.code.value}: {reply.message}"


def _cited(reply: Reply) -> str:
    cited = (reply.citations or []) if isinstance(reply, Completed) else []
    return ", ".join(f"{one.id} ({one.score:.2f})" for one in cited) or "nothing"


def _short(text: str, limit: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
