"""Rows and schedulers for tests of what is decided: no model and no tensor."""

from __future__ import annotations

from typing import Any, Literal

from guideway.schemas.generation import Generation
from guideway.schemas.output import Text
from guideway.schemas.request import Request
from guideway.workers.engine.scheduling.row import Row, SharedPrefix
from guideway.workers.engine.scheduling.scheduler import Scheduler
from guideway.workers.messages.to_engine import Admit


def row(
    name: str,
    *,
    tokens: int = 10,
    deadline_ms: int | None = None,
    max_tokens: int = 64,
    lane: Literal["interactive", "batch"] = "interactive",
    weight: float = 1.0,
    most_rows: int | None = None,
    caller: str | None = None,
) -> Row:
    """A row whose namespace is the first letter of its name."""
    request = Request(
        id=name,
        namespace=name[0],
        endpoint="e",
        endpoint_version=1,
        parts=[],
        guidance=[],
        output=Text(),
        words=[],
        generation=Generation(max_tokens=max_tokens),
        reply_to=[],
        deadline_ms=deadline_ms,
        caller=caller,
    )
    sampler: Any = None
    return Row(
        admit=Admit(id=name, request=request, artefacts=[], lane=lane, weight=weight, most_rows=most_rows),
        sample=0,
        prompt_ids=range(tokens - 1),
        virtual_tokens=1,
        sampler=sampler,
    )


def with_prefixes(row: Row, **prefixes: int) -> Row:
    row.shared_prefixes = [SharedPrefix(name.encode(), tokens) for name, tokens in prefixes.items()]
    return row


def rows(names: str, **settings: Any) -> list[Row]:
    return [row(name, **settings) for name in names.split()]


def scheduler(*, max_rows: int = 4, max_step_tokens: int = 1000, **settings: Any) -> Scheduler:
    return Scheduler(max_rows=max_rows, max_step_tokens=max_step_tokens, **settings)


def admitted(scheduler: Scheduler, now: float = 0.0) -> str:
    return " ".join(row.id for row in scheduler.schedule(now).admitted)
