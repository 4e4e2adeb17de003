"""How many tokens of which prompts a step takes in. Pure; no tensors here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from guideway.workers.engine.scheduling.row import Row

_LEAST_TOKENS: Final = 64
"""A piece of fewer tokens is not worth a place beside another long prompt in the same step."""
BESIDE_OTHERS: Final = 4
"""While rows of others decode, prompts get one in so many of a step's tokens, for each token of a prompt lets them
wait. This holds on a CPU; a GPU takes hardly longer for some hundred tokens more."""
RECENT_STEPS: Final = 64
"""A namespace is expected back for so many steps after its last row."""


@dataclass(frozen=True)
class Chunk:
    """Pieces of several rows, taken in side by side and padded to `tokens`; a row that misses fewer takes fewer."""

    rows: list[Row]
    tokens: int
    """Of each row, at most."""


@dataclass(frozen=True)
class StepPlan:
    """What one step runs. Seated rows that are in neither part pause."""

    decoding: list[Row]
    """Each of these takes in its last token and gets the next one."""
    chunks: list[Chunk]
    """A row whose prompt is complete after its piece gets its next token as well."""


def budget_beside(
    decoding: Sequence[Row], entering: Sequence[Row], step_tokens: int, *, beside_others: int, expected: bool = False
) -> int:
    """Tokens of prompts, at least one, that a step of `step_tokens` takes in beside `decoding`.

    Rows that decode wait for the prompts that their step takes in. Where the rows are of several namespaces or of both
    lanes, prompts get one in `beside_others` of a step's tokens. A request that comes waits for the step that runs:
    where one is `expected` beside the backlog of others, prompts get half of that. Such steps cost throughput: with
    them alone SmolLM2 on two cores answers 40 short requests a second, and 66 with whole steps.
    """
    parties = {(row.lane, row.namespace) for row in (*decoding, *entering)}
    parts = beside_others if decoding and len(parties) > 1 else 1
    if expected:
        parts = beside_others * max(1, beside_others // 2)
    most = step_tokens // parts
    return max(1, min(most, step_tokens - len(decoding)))


class Visitors:
    """Owner of which namespaces had rows of late: those that ask one question after the other are expected back."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], int] = {}
        """(lane, namespace) → the last step in which it had a row."""

    def expected(self, running: Iterable[Row], waiting: Container[tuple[str, str]], step: int) -> bool:
        """Whether a (lane, namespace) without `waiting` rows has a row in `running`, or had one of late.

        To be asked at each step, since it notes who runs at this `step`.
        """
        self._seen |= dict.fromkeys(((row.lane, row.namespace) for row in running), step)
        self._seen = {party: last for party, last in self._seen.items() if step - last <= RECENT_STEPS}
        return any(party not in waiting for party in self._seen)


def in_turn(entering: Sequence[Row], step: int) -> list[Row]:
    """`entering`, which has the oldest row first, with the namespaces in turn; each `step` begins with another one."""
    seen: Counter[str] = Counter()
    rank: dict[Row, int] = {}
    for row in entering:
        rank[row] = seen[row.namespace]
        seen[row.namespace] += 1
    names = list(seen)
    first = step % max(1, len(names))
    place = {name: (i - first) % len(names) for i, name in enumerate(names)}
    return sorted(entering, key=lambda row: (rank[row], place[row.namespace]))


def share_out(entering: Sequence[Row], budget: int) -> list[Chunk]:
    """The pieces of prompts that a step takes in of `entering`, which is in turn: `budget` > 0 tokens, padding counted.

    A row is short if it misses no more than its equal share: its namespace's part of the budget, divided among its
    rows. Short rows come first, all at once, so that they need not wait for a long one. The rest of the budget goes to
    the next rows in turn, side by side if each gets a piece that is worth it. Some row always gets on, and the first in
    turn waits for short ones only.
    """
    rows = Counter(row.namespace for row in entering)
    short = [row for row in entering if row.missing_tokens * rows[row.namespace] * len(rows) <= budget]
    chunks = _side_by_side(short, budget)
    budget -= sum(len(chunk.rows) * chunk.tokens for chunk in chunks)
    rest = [row for row in entering if row not in short]
    if rest and budget:
        beside = max(1, min(len(rest), budget // _LEAST_TOKENS))
        chunks.append(Chunk(rest[:beside], min(budget // beside, max(row.missing_tokens for row in rest[:beside]))))
    return chunks


def _side_by_side(short: Sequence[Row], budget: int) -> list[Chunk]:
    """`short` in one chunk if it fits with its padding, else one chunk for each namespace: short rows fit so."""
    short = sorted(short, key=lambda row: row.missing_tokens)
    if not short:
        return []
    if len(short) * short[-1].missing_tokens <= budget:
        return [Chunk(short, short[-1].missing_tokens)]
    names = dict.fromkeys(row.namespace for row in short)
    each = [[row for row in short if row.namespace == name] for name in names]
    return [Chunk(rows, rows[-1].missing_tokens) for rows in each]
