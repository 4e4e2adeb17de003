"""What is asked in a replay, and what the two endpoints answer: the lines of its files. Pure."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from guideway.schemas.output import OutputRule, telling_nothing
from guideway.schemas.reply import Completed, Reply

Side = Literal["now", "new"]
SIDES: Final[tuple[Side, ...]] = ("now", "new")
DOUBTFUL: Final = "doubtful"
"""Stands in place of a failure code where the value is null, because it is doubtful."""


class Asked(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One input: a line of `rows.jsonl`."""

    number: int
    """From 1 on, in the order in which they are asked."""
    id: str
    """Its request's id, or its line in a file."""
    content: str | dict[str, Any]
    """The event: plain text, or fields by name."""
    guidance: list[str] = []
    """What the event brought."""
    generation: dict[str, Any] = {}
    """What the event set."""
    answer: str | None = None
    """The right answer, as the present output rule spells it; None: it is not known."""

    @property
    def text(self) -> str:
        """The input for a person: the only field, or all as JSON."""
        if isinstance(self.content, dict) and [type(one) for one in self.content.values()] == [str]:
            return str(next(iter(self.content.values())))
        return self.content if isinstance(self.content, str) else msgspec.json.encode(self.content).decode()


class Given(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What one of the two endpoints gave: a line of `answers.jsonl`."""

    number: int
    """Of the input."""
    side: Side
    value: Any = None
    """The value of the first sample."""
    text: str = ""
    """What it was read from."""
    probabilities: dict[str, float] = {}
    failure: str = ""
    """The failure code, or `doubtful`; empty where there is a value."""
    message: str = ""
    """What there is to say of the failure."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    latency_ms: float = 0
    """From the event to its reply, with all that was in flight beside it."""


def given_of(reply: Reply, number: int, side: Side, latency_ms: float) -> Given:
    """A reply as a line."""
    if not isinstance(reply, Completed):
        return Given(number=number, side=side, failure=reply.code.value, message=reply.message, latency_ms=latency_ms)
    first = reply.samples[0]
    is_doubtful = first.doubtful and first.value is None
    return Given(
        number=number,
        side=side,
        value=first.value,
        text=first.text,
        probabilities=first.probabilities or {},
        failure=DOUBTFUL if is_doubtful else "",
        prompt_tokens=reply.usage.prompt_tokens,
        output_tokens=reply.usage.output_tokens,
        latency_ms=latency_ms,
    )


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay compares."""

    address: str
    """`/NAMESPACE/ENDPOINT`"""
    version: int
    """The endpoint's, as it is now."""
    now: OutputRule
    new: OutputRule
    changes: dict[str, str]
    """What is new, for people: `guidance` → `shop/mood@3`."""
    source: str
    """Where the rows come from, for people."""
    left_out: dict[str, int] = {}
    """Why rows of the source were not asked → how many."""

    @property
    def incomparable(self) -> str:
        """Why results of both cannot be compared; empty: they can be."""
        kinds = [type(telling_nothing(one)) for one in (self.now, self.new)]
        if kinds[0] is kinds[1]:
            return ""
        now, new = (one.__struct_config__.tag for one in kinds)
        return f"results of type {now} cannot be compared with results of type {new}"
