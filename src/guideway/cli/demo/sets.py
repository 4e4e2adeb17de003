"""The demo's retrieval sets, and the questions that are asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from guideway.cli.console import interrupts
from guideway.settings import Settings
from guideway.usecases.sets.make_sets import Order, make_sets

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


async def make_fact_sets(settings: Settings, sets: Sequence[FactSet], data: Path) -> list[Published]:
    """Made, or found to be there already; usable by everybody."""
    from guideway.training.sets.build import Splitting
    from guideway.training.sets.document import DocumentFields

    orders = []
    for one in sets:
        namespace, _, name = one.name.partition("/")
        orders.append(
            Order(
                namespace=namespace,
                name=name,
                documents=[data / one.documents],
                columns=DocumentFields(id="term"),
                splitting=Splitting(),
                shared_with=["*"],
            )
        )
    return await make_sets(settings, orders, should_end=interrupts.asked)
