"""How many tokens of which prompts a step takes in. Pure; no tensors here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from guideway.workers.engine.scheduling.row import Row

_LEAST_TOKENS: Final = 64
"""A piece of fewer tokens is not worth a place beside another long prompt in the same step."""
_PADDING_TOKENS: Final = 4096
"""So many padded keys and values more cost less than another pass."""
BESIDE_OTHERS: Final = 4
"""While rows of others decode, prompts get one in so many of a step's tokens, for each token of a prompt lets them
wait. This holds on a CPU; a GPU takes hardly longer for some hundred tokens more."""
_LONG_STEPS: Final = 4
"""A prompt that takes more than so many whole steps is long."""
_STEP_TOKENS: Final = 20
"""To read the weights takes a step as long as to compute so many tokens: with SmolLM2 as many on one busy core, and
twice as many on two that are quiet. Both times grow with the model alike."""
_KEYS: Final = 800
"""So many keys and values cost a token as much as all linears: with SmolLM2, for pieces of ten to sixteen tokens on two
cores that sum products in float32. By operations, 2 · parameters / (4 · layers · width), there would be five times as
many, but few tokens share what is read. Cores that multiply pairs of bfloat16 take half as long, and larger models have
more; their long prompts are taken in more cautiously than they need be."""
RECENT_STEPS: Final = 64
"""A namespace is expected back for so many steps after its last row."""


@dataclass(frozen=True)
class StepPlan:
    """What one step runs. Seated rows that are in neither part pause."""

    decoding: list[Row]
    """Each of these takes in its last token and gets the next one."""
    pieces: dict[Row, int]
    """Each of these takes in so many tokens, of its prompt or of those that it got at once. A row that then misses none
    gets its next token as well."""

    @property
    def generating(self) -> list[Row]:
        """The rows past their prompts that get their next token."""
        went_on = (row for row, tokens in self.pieces.items() if row.goes_on and tokens == row.missing_tokens)
        return [*self.decoding, *went_on]


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


def tokens_of_a_step(rows: int) -> float:
    """How many tokens could be computed in the time that each of so many rows has of a step: its part of what reading
    the weights costs, and its own token.
    """
    return _STEP_TOKENS / max(1, rows) + 1


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


def planned(
    running: Collection[Row],
    at_once: Collection[Row],
    step: int,
    *,
    step_tokens: int,
    beside_others: int,
    expected: bool,
) -> StepPlan:
    """What `step` runs of the `running` rows. Those that decode or go on are all in it. The others take in prompts; of
    these, the rows of `at_once` are few: they are not made to wait for others who are expected, and come first. The
    rest is as `budget_beside` and `share_out` say.

    A row that goes on takes in one token at least, as one that decodes. Further ones let others wait as prompts do, and
    are of the same budget: while there are prompts, of half of it, so that both get on.

    Long prompts are taken in little by little beside interactive rows of others (`little_by_little`).
    """
    decoding = [row for row in running if row.decodes]
    going = [row for row in running if row.goes_on]
    beside = [*decoding, *going]
    entering: list[Row] = []
    long: list[Row] = []
    others = {(row.lane, row.namespace) for row in beside if row.lane == "interactive"} if beside_others > 1 else set()
    for row in running:
        if not row.generates():
            slow = is_long(row, step_tokens) and bool(others - {(row.lane, row.namespace)})
            (long if slow else entering).append(row)
    # First, so that prompts of others that never end do not leave them nothing.
    slowly = little_by_little(in_turn(long, step), len(beside), step_tokens - len(beside))
    left = step_tokens - sum(slowly.values())
    budget = budget_beside(beside, entering, left, beside_others=beside_others)
    further = budget // 2 if entering else budget
    going_on: dict[Row, int] = {}
    for row in in_turn(going, step):
        going_on[row] = min(row.missing_tokens, 1 + further)
        further -= going_on[row] - 1
        budget -= going_on[row] - 1
    pieces = share_out(in_turn([row for row in entering if row in at_once], step), budget)
    most = budget_beside(beside, entering, left, beside_others=beside_others, expected=expected)
    budget = min(budget, most) - sum(pieces.values())
    if budget > 0:
        pieces |= share_out(in_turn([row for row in entering if row not in at_once], step), budget)
    return StepPlan(decoding, going_on | pieces | slowly)


def is_long(row: Row, step_tokens: int) -> bool:
    """Whether what the row takes in takes so many steps of `step_tokens` that others would wait for a long time: its
    prompt, or before that a beginning that it shares, for which other rows wait.
    """
    shared = (prefix.tokens for prefix in row.shared_prefixes if row.cached_tokens < prefix.tokens)
    return next(shared, row.total_tokens) - row.seated_tokens > _LONG_STEPS * step_tokens


def little_by_little(long: Sequence[Row], beside: int, most: int) -> dict[Row, int]:
    """How many tokens a step takes in of each of these prompts, so that it lasts at most half as long again as with the
    `beside` rows alone, which generate. At least one token is taken in; at most `most` are.

    A prompt gets about a third of the time so. Where it has many keys and values already, each token costs more.
    """
    pieces: dict[Row, int] = {}
    left = (_STEP_TOKENS + beside) / 2
    for row in long:
        cost = 1 + row.cached_tokens / _KEYS
        piece = min(row.missing_tokens, int(left / cost), most)
        if piece < 1 and not pieces and most > 0:
            piece = 1
        if piece < 1:
            break
        pieces[row] = piece
        left -= piece * cost
        most -= piece
    return pieces


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


def share_out(entering: Sequence[Row], budget: int) -> dict[Row, int]:
    """How many tokens a step takes in of each of `entering`, which is in turn, of `budget` > 0 tokens in all.

    A row is short if it misses no more than its equal share: its namespace's part of the budget, divided among its
    rows. Short rows come first, all at once, so that they need not wait for a long one. Then come the next rows in turn
    that fit as a whole. The rest of the budget goes to the rows after them, side by side if each gets a piece that is
    worth it. Some row always gets on, and the first in turn waits for short ones only.
    """
    rows = Counter(row.namespace for row in entering)
    short = [row for row in entering if row.missing_tokens * rows[row.namespace] * len(rows) <= budget]
    pieces = {row: row.missing_tokens for row in short}
    budget -= sum(pieces.values())
    rest = [row for row in entering if row not in pieces]
    fit = 0
    while fit < len(rest) and rest[fit].missing_tokens <= budget:
        pieces[rest[fit]] = rest[fit].missing_tokens
        budget -= rest[fit].missing_tokens
        fit += 1
    if not fit or budget >= _LEAST_TOKENS:
        beside = rest[fit:][: max(1, budget // _LEAST_TOKENS)]
        for left, row in zip(range(len(beside), 0, -1), beside, strict=True):
            if piece := min(row.missing_tokens, budget // left):
                pieces[row] = piece
                budget -= piece
    return pieces


def padded_groups(pieces: Sequence[tuple[Row, int]]) -> list[list[tuple[Row, int]]]:
    """`pieces`, a row's tokens each, in groups that may be run side by side, padded to their longest.

    In no group more than about half is padding, neither of the tokens that are computed nor of those attended to.
    """
    groups: list[list[tuple[Row, int]]] = []
    for row, tokens in sorted(pieces, key=lambda piece: (piece[1], piece[0].cached_tokens)):
        if groups and _pads_little([*groups[-1], (row, tokens)]):
            groups[-1].append((row, tokens))
        else:
            groups.append([(row, tokens)])
    return groups


def _pads_little(group: Sequence[tuple[Row, int]]) -> bool:
    computed = [tokens for _, tokens in group]
    attended = [row.cached_tokens + tokens for row, tokens in group]
    return (
        len(group) * max(computed) <= 2 * sum(computed)
        and len(group) * max(attended) <= 2 * sum(attended) + _PADDING_TOKENS
    )
