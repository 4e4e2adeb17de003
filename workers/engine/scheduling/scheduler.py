"""Which rows run, and how much of their prompts a step takes in: budgets, turns, deadlines. No tensors here."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field
from typing import Final

from guideway.workers.engine.scheduling.chunks import (
    BESIDE_OTHERS,
    StepPlan,
    Visitors,
    budget_beside,
    in_turn,
    share_out,
)
from guideway.workers.engine.scheduling.fair_queue import FairQueue
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.scheduling.seats import LEAST_RUN_TOKENS, Holding, outsized, run_tokens, yielding

_ROOM_TOKENS: Final = 32
"""Where a row is admitted, every row has room for so many further ones: it is not to go again at once."""

_KEPT_STEPS: Final = 32
"""So long a seat that was given up for a row is kept for its namespace once the row has ended: whoever asks one
question after the other need not have a row go for each."""

_PATIENCE_STEPS: Final = 256
"""So long a row that does not fit is overtaken, where it would take more than its namespace's share of the room."""


@dataclass(frozen=True)
class SchedulerOutput:
    """Who comes and who goes, before a step runs."""

    expired: list[Row]
    """Past their deadline, waiting or running; no longer with the scheduler."""
    preempted: list[Row]
    """To give up their seats and what is cached of them; they wait again."""
    admitted: list[Row]
    """To be seated; they count as running from here on."""
    unready: list[Row] = field(default_factory=list)
    """Would have been admitted, had their guidance been in memory; they wait on, and others overtake them."""


class Scheduler:
    """Owner of who waits and who runs. Whose turn it is, is a matter of `FairQueue`.

    A row whose turn it is takes a free seat. Where none is free, or no room, `seats.py` says who gives up theirs: so
    seats are shared equally between namespaces whose rows wait, and the interactive lane does not wait for the batch
    lane. A row that gave up its seat keeps what it has generated, and takes it in again with its prompt when its turn
    comes, which is before all others of its namespace. Then it stays for a while whatever comes.

    Keys and values of the rows that run have room for `max_kv_tokens`, counted as rows times the longest of them, for
    so they lie in memory. A row is admitted where it fits with some room to grow. One that does not fit is not
    overtaken, or it would wait for ever. But one that stands out, and would take more than its namespace's equal share
    of the room from others that wait, is held back for `_PATIENCE_STEPS`, where it does not fit, and for as many steps
    as such rows of its namespace have kept others from the room before. Where rows grow beyond the room, such a row
    goes; else the last one admitted, of the batch lane if there is one, and of the namespace that holds most, but never
    the one that has run longest. So some row always comes to its end.

    A row waits as well while another one takes in a prefix that they share, and then need not compute it.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        max_step_tokens: int,
        max_kv_tokens: int = 2**62,
        prefix_cache: Container[bytes] = (),
        beside_others: int = BESIDE_OTHERS,
    ) -> None:
        """prefix_cache: the keys of those prefixes that are cached, at any time. beside_others: see `chunks.py`."""
        self._beside_others = beside_others
        self._max_rows = max_rows
        self._max_step_tokens = max_step_tokens
        self._max_kv_tokens = max_kv_tokens
        self._prefix_cache = prefix_cache
        self._waiting = FairQueue()
        self._running: dict[Row, int] = {}
        """→ How many tokens it has generated when it may have to go. The one that was admitted first comes first."""
        self._steps = 0
        self._visitors = Visitors()
        self._given: set[Row] = set()
        """Those that run, and whose seat another row gave up."""
        self._kept: deque[tuple[int, str]] = deque()
        """Seats that no row has: until which step, and for which namespace."""
        self._overtaken: dict[Row, int] = {}
        """Those that are held back → the step since which they are."""
        self._beyond: Counter[str] = Counter()
        """Steps of each namespace beyond its share of the room, while others waited for it."""
        self._lacking: set[str] = set()
        """Namespaces for whose next row there was no room at the last choice."""
        self._unready: dict[Row, None] = {}
        """Those that would have been admitted at the last choice, had their guidance been there; in turn."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, rows: Iterable[Row]) -> None:
        """Let `rows` wait for their turn."""
        for row in rows:
            self._waiting.add(row)

    def drop(self, rows: Iterable[Row]) -> None:
        """Forget `rows`, wherever they are: they have ended, or nobody wants them."""
        for row in rows:
            self._running.pop(row, None)
            self._waiting.forget(row)
            self._unready.pop(row, None)
            self._overtaken.pop(row, None)
            if row in self._given:
                self._given.remove(row)
                # Others of its namespace that wait have their turn, as everybody's.
                if not self._waiting.has_namespace(row.namespace):
                    self._kept.append((self._steps + _KEPT_STEPS, row.namespace))

    def schedule(self, now: float, *, ready: Container[Row] | None = None) -> SchedulerOutput:
        """Who comes and who goes at `now` (Unix time in seconds).

        ready: the rows whose guidance is in memory, None for all; others overtake a row that is not among them. Only
        rows that would be admitted are looked up.
        """
        expired = [row for row in (*self._running, *self._waiting) if row.is_late(now)]
        self.drop(expired)
        self._unready.clear()
        self._lacking.clear()
        if preempted := self._preempt():
            return SchedulerOutput(expired, preempted, [])
        admitted, preempted = self._admit(ready)
        return SchedulerOutput(expired, preempted, admitted, [*self._unready])

    def plan_step(self) -> StepPlan:
        """What the next step runs of the rows that are seated."""
        self._steps += 1
        decoding = [row for row in self._running if row.decodes]
        entering = [row for row in self._running if not row.decodes]
        for row in decoding:
            self._waiting.charge(row.namespace, 1)
        self._count_beyond()
        waiting = self._waiting.parties
        budget = budget_beside(
            decoding,
            entering,
            self._max_step_tokens,
            beside_others=self._beside_others,
            expected=self._visitors.expected(self._running, waiting, self._steps) and bool(waiting),
        )
        return StepPlan(decoding, share_out(in_turn(entering, self._steps), budget))

    def upcoming(self, count: int) -> list[Row]:
        """The next `count` rows in turn; first those that only their guidance kept from a seat."""
        others = (row for row in self._waiting.in_turn() if row not in self._unready)
        return list(itertools.islice(itertools.chain(self._unready, others), count))

    # Who goes --------------------------------------------------------------------------------------------------------

    def _preempt(self) -> list[Row]:
        preempted: list[Row] = []
        while len(self._running) > 1 and not self._fits(self._running, room=0):
            row = self._to_be_preempted()
            del self._running[row]
            preempted.append(row)
        self._wait_again(preempted)
        return preempted

    def _to_be_preempted(self) -> Row:
        large = outsized(self._running, share=self._share)
        if large is not None and self._waiting.namespaces > 1 and self._may_go(large):
            return large
        held: Counter[str] = Counter()
        for row in self._running:
            held[row.namespace] += row.total_tokens
        _, *others = self._running
        # Of those that are equal, `max` takes the first: the last one admitted.
        return max(reversed(others), key=lambda row: (row.lane == "batch", held[row.namespace]))

    def _wait_again(self, rows: Iterable[Row]) -> None:
        """The last of `rows` comes back first."""
        for row in rows:
            row.preempted += 1
            self._given.discard(row)
            self._waiting.put_back(row)

    def _may_go(self, row: Row) -> bool:
        return len(row.token_ids) >= self._running[row]

    # Who comes -------------------------------------------------------------------------------------------------------

    def _admit(self, ready: Container[Row] | None) -> tuple[list[Row], list[Row]]:
        """Those that come, and those that give up their seats for them."""
        while self._kept and (self._kept[0][0] <= self._steps or not self._running):
            self._kept.popleft()
        admitted: list[Row] = []
        gone: list[Row] = []
        in_work = {
            prefix.key for row in self._running for prefix in row.shared_prefixes if row.cached_tokens < prefix.tokens
        }
        while found := self._next(in_work, ready, admitted):
            row, giving = found
            for other in giving:
                del self._running[other]
            gone += giving
            self._take(row, given=bool(giving))
            in_work.update(prefix.key for prefix in row.shared_prefixes)
            admitted.append(row)
        self._wait_again(reversed(gone))
        return admitted, gone

    def _next(
        self, in_work: Collection[bytes], ready: Container[Row] | None, admitted: Collection[Row]
    ) -> tuple[Row, list[Row]] | None:
        """Who comes next, and who gives up a seat for it; rows with a prefix that is being taken in wait for that."""
        without_claim: set[tuple[str, str]] = set()
        holding = Holding(self._running, [namespace for _, namespace in self._kept], seats=self._max_rows)
        reach = max((self._reach(other, _ROOM_TOKENS) for other in self._running), default=0)
        for row in self._waiting.in_turn():
            queue = row.lane, row.namespace
            if queue in without_claim or any(
                prefix.key in in_work and prefix.key not in self._prefix_cache for prefix in row.shared_prefixes
            ):
                continue
            lacks_seat, lacks_room = not self._has_seat(row), not self._has_room(row, reach)
            if lacks_room:
                self._lacking.add(row.namespace)
            giving: list[Row] | None = None
            held_back = holding.stands_out(row) and self._is_held_back(row, lacks_room=lacks_room)
            if not (held_back or lacks_seat or lacks_room):
                giving = []
            elif not held_back and holding.may_claim(row, lacks_room=lacks_room):
                giving = self._giving(row, admitted, lacks_room=lacks_room)
            if giving is not None:
                if ready is None or row in ready:
                    return row, giving
                self._unready[row] = None
                continue
            without_claim.add(queue)
            # Nobody overtakes one that does not fit, or it would wait for ever.
            if not (lacks_seat or held_back):
                return None
        return None

    def _giving(self, row: Row, admitted: Collection[Row], *, lacks_room: bool) -> list[Row] | None:
        """Who gives up a seat for `row`; None where it has to wait."""
        running = list(self._running)
        movable = {other for other in running if other not in admitted and self._may_go(other)}
        giving: list[Row] = []
        kept = Counter(namespace for _, namespace in self._kept)
        seats, share = self._max_rows, self._share
        for other in yielding(row, running, movable, seats=seats, kept=kept, lacks_room=lacks_room, share=share):
            giving.append(other)
            running.remove(other)
            if self._fits([*running, row], _ROOM_TOKENS):
                return giving
        return None

    def _has_seat(self, row: Row) -> bool:
        kept = sum(namespace != row.namespace for _, namespace in self._kept)
        return len(self._running) + kept < self._max_rows

    def _has_room(self, row: Row, reach: int) -> bool:
        """Beside those that run, which are to come to `reach` tokens."""
        rows = len(self._running) + 1
        return rows == 1 or rows * max(reach, self._reach(row, _ROOM_TOKENS)) <= self._max_kv_tokens

    def _is_held_back(self, row: Row, *, lacks_room: bool) -> bool:
        """Whether the others come first though it is this row's turn, for it would keep them from the room."""
        others = [other for other in self._waiting if other.namespace != row.namespace]
        beside = [*self._running, *others[: self._max_rows - len(self._running)]]
        if not others or outsized([*beside, row], share=self._share) is not row:
            return False
        since = self._overtaken.setdefault(row, self._steps)
        patience = _PATIENCE_STEPS if lacks_room else 0
        return self._steps - since < patience + self._beyond[row.namespace]

    def _count_beyond(self) -> None:
        """Note whose row has more than its share of the room while others wait for room."""
        if self._waiting.namespaces < 2:
            self._beyond.clear()
        elif self._lacking and (large := outsized(self._running, share=self._share)):
            self._beyond[large.namespace] += bool(self._lacking - {large.namespace})

    def _take(self, row: Row, *, given: bool) -> None:
        self._waiting.take(row)
        # Its guidance may have come while this choice was made.
        self._unready.pop(row, None)
        if self._overtaken.pop(row, None) is not None:
            del self._beyond[row.namespace]
        kept = next((place for place in self._kept if place[1] == row.namespace), None)
        if kept is not None:
            self._kept.remove(kept)
        if given or kept is not None:
            self._given.add(row)
        stays = run_tokens(row) if row.preempted else 0
        if row.lane == "batch" and self._waiting.has_lane("interactive"):
            # It came in the batch lane's turn, which is to get on.
            stays = max(stays, LEAST_RUN_TOKENS)
        self._running[row] = len(row.token_ids) + stays
        if not (row.token_ids or row.preempted):
            known = [prefix.tokens for prefix in row.shared_prefixes if prefix.key in self._prefix_cache]
            self._waiting.charge(row.namespace, row.prompt_tokens - max(known, default=0))

    @property
    def _share(self) -> int:
        """Of the room, for each namespace that has rows here."""
        return self._max_kv_tokens // max(1, self._waiting.namespaces)

    def _fits(self, rows: Collection[Row], room: int) -> bool:
        """Whether `rows` have room for their next token and for `room` more, as far as they may come to that."""
        return len(rows) * max(self._reach(row, room) for row in rows) <= self._max_kv_tokens

    def _reach(self, row: Row, room: int) -> int:
        return row.total_tokens + 1 + min(room, row.most_left - 1)
