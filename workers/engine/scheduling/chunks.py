"""How much of which prompts a step takes in. Pure; no tensors here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from guideway.workers.engine.scheduling.row import Row

_LEAST_TOKENS: Final = 64
"""Below which it does not pay to take in one more long prompt at the same step."""
BESIDE_OTHERS: Final = 4
"""While rows of others decode, prompts get one in so many tokens of a step: each of them lets those wait. On a CPU; a
GPU takes hardly longer for some hundred tokens more."""
RECENT_STEPS: Final = 64
"""Who had a row so few steps ago is expected back."""


@dataclass(frozen=True)
class Chunk:
    """Pieces of several rows, taken in side by side and padded to `tokens`; a row that misses fewer takes fewer."""

    rows: list[Row]
    tokens: int


@dataclass(frozen=True)
class StepPlan:
    """What one step runs; rows that are in neither part pause."""

    decoding: list[Row]
    """Each takes in its last token and gets the next one."""
    chunks: list[Chunk]
    """Rows that have all of theirs with it get their next token as well."""


def budget_beside(
    decoding: Sequence[Row], entering: Sequence[Row], step_tokens: int, *, beside_others: int, expected: bool = False
) -> int:
    """Tokens of prompts, at least one, that a step of `step_tokens` takes in beside `decoding`.

    Rows that decode wait for the prompts that their step takes in. Where these may be somebody else's, or of the other
    lane, they wait for less: one in `beside_others` of a step's tokens. Who comes waits for the step that runs: where
    somebody is `expected` beside the backlog of others, a step takes in half of that. In such steps alone
    SmolLM2 on two cores answers 40 short requests a second, and 66 in whole ones.
    """
    parties = {(row.lane, row.namespace) for row in (*decoding, *entering)}
    parts = beside_others if decoding and len(parties) > 1 else 1
    if expected:
        parts = beside_others * max(1, beside_others // 2)
    most = step_tokens // parts
    return max(1, min(most, step_tokens - len(decoding)))


class Visitors:
    """Who asks one question after the other, beside others who have more waiting than there are seats."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], int] = {}
        """(lane, namespace) → the last step in which it had a row."""

    def expected(self, running: Iterable[Row], waiting: Container[tuple[str, str]], step: int) -> bool:
        """Whether somebody who has nothing waiting has a row now, or had one of late; to be asked at each step."""
        self._seen |= dict.fromkeys(((row.lane, row.namespace) for row in running), step)
        self._seen = {party: last for party, last in self._seen.items() if step - last <= RECENT_STEPS}
        return any(party not in waiting for party in self._seen)


def in_turn(entering: Sequence[Row], step: int) -> list[Row]:
    """`entering`, the oldest first, with the namespaces one after the other, another one first at each `step`."""
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
    """Who of `entering`, in turn, takes in how much of `budget` > 0 tokens, padding counted.

    Short ones first, all at once, as long as they leave the others their equal share, which is that of their namespace
    divided among its rows: they need not wait for a long one. What is left goes to the next in turn of the rest, side
    by side if each gets a piece worth its while. Some row always gets on, and the first in turn waits for the short
    ones at most.
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
    """`short` in one chunk if padding allows it, else in one for each namespace: these fit, by what is short."""
    short = sorted(short, key=lambda row: row.missing_tokens)
    if not short:
        return []
    if len(short) * short[-1].missing_tokens <= budget:
        return [Chunk(short, short[-1].missing_tokens)]
    names = dict.fromkeys(row.namespace for row in short)
    each = [[row for row in short if row.namespace == name] for name in names]
    return [Chunk(rows, rows[-1].missing_tokens) for rows in each]
