"""What the demo asks and compares, as `examples/demo/plan.yaml` says it."""

from __future__ import annotations

import msgspec

from guideway.cli.demo.sets import FactSet, SideBySide


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """One event to show."""

    endpoint: str
    text: str


class AgainstBare(msgspec.Struct, forbid_unknown_fields=True):
    """Labelled rows that go through two endpoints: one guided, one that has the same frozen model and its text only."""

    name: str
    data: str
    guided: str
    bare: str


class DemoPlan(msgspec.Struct, forbid_unknown_fields=True):
    """`examples/demo/plan.yaml`."""

    questions: list[Question]
    comparisons: list[AgainstBare]
    sets: list[FactSet]
    side_by_side: list[SideBySide]
