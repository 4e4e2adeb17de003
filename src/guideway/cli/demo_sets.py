"""The demo's retrieval sets: made, asked the same questions, and shown side by side with what they cite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from guideway.cli.output import out, print_json, print_table
from guideway.cli.set_making import Order, make_sets
from guideway.schemas.reply import Completed, Reply
from guideway.settings import Settings
from guideway.workers.messages import BatchReport

if TYPE_CHECKING:
    from guideway.training.sets.publish import Published


class FactSet(msgspec.Struct, forbid_unknown_fields=True):
    """A set to be made from a file of `examples/data`."""

    name: str
    documents: str


class SideBySide(msgspec.Struct, forbid_unknown_fields=True):
    """The same questions, asked of endpoints that differ in their tag only."""

    endpoints: list[str]
    questions: list[str]
    columns: list[str] = []
    """The head of each endpoint's column, where answers are a word; without it each answer has a row, with what it
    cites."""


class Told(msgspec.Struct):
    """An event and what came back."""

    endpoint: str
    text: str
    reply: Reply
    after_s: float


async def make_fact_sets(settings: Settings, sets: Sequence[FactSet], data: Path) -> list[Published]:
    """Made, or found to be there already; usable by everybody."""
    from guideway.training.sets.build import Splitting
    from guideway.training.sets.document import Columns

    orders = []
    for one in sets:
        namespace, _, name = one.name.partition("/")
        orders.append(
            Order(
                namespace=namespace,
                name=name,
                documents=[data / one.documents],
                columns=Columns(id="term"),
                splitting=Splitting(),
                shared_with=["*"],
            )
        )
    return await make_sets(settings, orders)


def report_sets(
    asked: Sequence[tuple[SideBySide, Sequence[Told]]], batches: Iterable[BatchReport], *, as_json: bool
) -> None:
    """Answers side by side, and the recorded micro-batch that held most of them."""
    told = [one for _, answers in asked for one in answers]
    ids = {one.reply.id for one in told}
    held = most_sets(batches, ids)
    if as_json:
        for one in told:
            print_json({"event": "side_by_side", "endpoint": one.endpoint, "question": one.text, "reply": one.reply})
        print_json({"event": "sets_micro_batch", "batch": held})
        return
    for side_by_side, answers in asked:
        out.print()
        if side_by_side.columns:
            _print_crossed(side_by_side, answers)
        else:
            _print_cited(answers)
    if held is not None:
        sets = sorted({entry for row in held.rows for entry in row.guidance if entry.startswith("set ")})
        ours = sum(row.request_id in ids for row in held.rows)
        out.print(f"\n{ours} of these {len(told)} rows ran in one micro-batch, step {held.step}: {', '.join(sets)}")


def _print_crossed(side_by_side: SideBySide, told: Sequence[Told]) -> None:
    """told: every question to every endpoint, question by question."""
    answers = iter(told)
    rows = [
        (question, *(_answer(next(answers).reply) for _ in side_by_side.endpoints))
        for question in side_by_side.questions
    ]
    print_table(("question", *side_by_side.columns), rows, title="By the facts alone, whatever is true")


def _print_cited(told: Sequence[Told]) -> None:
    previous = ""
    rows = []
    for one in told:
        rows.append(("" if one.text == previous else one.text, one.endpoint, _answer(one.reply), _cited(one.reply)))
        previous = one.text
    print_table(("question", "endpoint", "answer", "cites"), rows, title="The same questions, other facts")


def most_sets(batches: Iterable[BatchReport], ids: set[str]) -> BatchReport | None:
    """The micro-batch that held most of these requests."""
    return max(batches, key=lambda batch: sum(row.request_id in ids for row in batch.rows), default=None)


def _answer(reply: Reply) -> str:
    text = reply.samples[0].text if isinstance(reply, Completed) else f"{reply.code.value}: {reply.message}"
    flat = " ".join(text.split())
    return flat if len(flat) <= 150 else flat[:149] + "…"


def _cited(reply: Reply) -> str:
    cited = (reply.citations or []) if isinstance(reply, Completed) else []
    return "\n".join(f"{one.set}@{one.version} {one.id} ({one.score:.2f})" for one in cited) or "nothing"
