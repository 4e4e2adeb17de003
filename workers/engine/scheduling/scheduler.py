"""Which rows run, and how much of their prompts a step takes in: budgets, turns, deadlines. No tensors here."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field
from typing import Final

from guideway.workers.engine.scheduling.chunks import BESIDE_OTHERS, StepPlan, Visitors, planned
from guideway.workers.engine.scheduling.fair_queue import FairQueue
from guideway.workers.engine.scheduling.kept_seats import KeptSeats
from guideway.workers.engine.scheduling.room_shares import RoomShares
from guideway.workers.engine.scheduling.row import Row
from guideway.workers.engine.scheduling.seats import Holding, last_of_most, outsized, undisturbed_tokens, yielding

_ROOM_TOKENS: Final = 32
"""Room for further tokens that every row has when a row is admitted: else one would be preempted again at once."""


@dataclass(frozen=True)
class SchedulerOutput:
    """The rows that come and the rows that go, before a step runs."""

    expired: list[Row]
    """These are past their deadline; they have ended, whether they waited or ran."""
    preempted: list[Row]
    """These are to give up their seats and their place in the cache; they wait again."""
    admitted: list[Row]
    """These are to be seated; they count as running from here on."""
    unready: list[Row] = field(default_factory=list)
    """Only their missing guidance keeps them from a seat; they wait on, and others overtake them."""


class Scheduler:
    """Owner of the rows that wait (by a `FairQueue`, which decides whose turn it is) and of the rows that run.

    Seats. The row whose turn it is takes a free seat. Where no seat or no room is free, `seats.py` decides which rows
    give up theirs. So namespaces whose rows wait share the seats equally, and the interactive lane does not wait for
    the batch lane. A preempted row keeps what it has generated. It waits before all others of its namespace, takes in
    its prompt and its text again, and then keeps its seat for some tokens.

    Room. The keys and values of the running rows have room for `max_kv_tokens`, counted in whole pages of each row,
    because that is how they lie in memory. A row is admitted where it fits with some room to grow. A row that does not
    fit is not overtaken, or it would wait for ever; only one that would take more than its namespace's equal share is
    held back for a while (`room_shares.py`). Where the rows outgrow the room, such a row is preempted; else the last
    one admitted, of the batch lane if there is one, and of the namespace that holds most. The row that has run longest
    is never preempted, so some row always comes to its end.
    Prefixes. While a running row takes in a prefix, other rows with that prefix wait: they then need not compute it.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        max_step_tokens: int,
        max_kv_tokens: int = 2**62,
        page_tokens: int = 1,
        prefix_cache: Container[bytes] = (),
        beside_others: int = BESIDE_OTHERS,
    ) -> None:
        """max_rows: seats. max_step_tokens: of a step, prompts and generated tokens together. prefix_cache: the keys of
        the prefixes that are cached, at any time. beside_others: see `budget_beside`.
        """
        self._beside_others = beside_others
        self._max_rows, self._max_step_tokens = max_rows, max_step_tokens
        self._max_kv_tokens, self._page_tokens, self._prefix_cache = max_kv_tokens, page_tokens, prefix_cache
        self._waiting = FairQueue()
        self._running: dict[Row, int] = {}
        """Each running row → the number of generated tokens from which on it may be preempted for others. The row that
        was admitted first comes first."""
        self._steps = 0
        self._visitors = Visitors()
        self._kept, self._shares = KeptSeats(), RoomShares()
        self._unready: dict[Row, None] = {}
        """The rows that only their missing guidance kept from a seat at the last choice, in turn."""

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many rows run."""
        return len(self._running)

    def add(self, rows: Iterable[Row]) -> None:
        """Let `rows` wait for their turn."""
        for row in rows:
            self._waiting.add(row)

    def charge(self, row: Row, tokens: int) -> None:
        """Count `tokens` more for the namespace of `row`."""
        self._waiting.charge(row, tokens)

    def drop(self, rows: Iterable[Row]) -> None:
        """End `rows`, whether they wait or run; rows that are not here are ignored."""
        for row in rows:
            self._running.pop(row, None)
            self._waiting.forget(row)
            self._unready.pop(row, None)
            self._shares.forget(row)
            self._kept.end(row, self._steps, others_wait=self._waiting.has_namespace(row.namespace))

    def schedule(self, now: float, *, ready: Container[Row] | None = None) -> SchedulerOutput:
        """Choose the rows that come and the rows that go at `now` (Unix time in seconds).

        ready: the rows whose guidance is in memory, None for all rows; others overtake a row that is not among them.
        Only rows that would be admitted are looked up in it, so a long queue costs no look-ups.
        """
        expired = [row for row in (*self._running, *self._waiting) if row.is_late(now)]
        self.drop(expired)
        self._unready.clear()
        self._shares.begin_choice()
        if preempted := self.make_room():
            return SchedulerOutput(expired, preempted, [])
        admitted, preempted = self._admit(ready)
        return SchedulerOutput(expired, preempted, admitted, [*self._unready])

    def plan_step(self) -> StepPlan:
        """Plan what the next step runs of the seated rows, and count it for their namespaces; one call is one step."""
        self._steps += 1
        self._count_beyond()
        waiting = self._waiting.parties
        plan = planned(
            self._running,
            {row for row in self._running if self._waiting.has_credit(row)},
            self._steps,
            step_tokens=self._max_step_tokens,
            beside_others=self._beside_others,
            expected=self._visitors.expected(self._running, waiting, self._steps) and bool(waiting),
        )
        for row in plan.generating:
            self._waiting.charge(row, 1)
        return plan

    def upcoming(self, count: int) -> list[Row]:
        """The next `count` rows in turn; rows that only their missing guidance kept from a seat come first."""
        others = (row for row in self._waiting.in_turn() if row not in self._unready)
        return list(itertools.islice(itertools.chain(self._unready, others), count))

    # Rows that go ----------------------------------------------------------------------------------------------------

    def make_room(self) -> list[Row]:
        """Choose the rows that give up their seats because the running ones have outgrown the room."""
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
        return last_of_most(self._running)

    def _wait_again(self, rows: Iterable[Row]) -> None:
        """Let preempted `rows` wait again; the last of them comes back first."""
        for row in rows:
            row.preempted += 1
            self._kept.lose(row)
            self._waiting.put_back(row)

    def _may_go(self, row: Row) -> bool:
        return row.run_tokens >= self._running[row]

    # Rows that come --------------------------------------------------------------------------------------------------

    def _admit(self, ready: Container[Row] | None) -> tuple[list[Row], list[Row]]:
        """The rows that come, and the rows that give up their seats for them."""
        self._kept.release(self._steps, all_of_them=not self._running)
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
        """The row that comes next, and the rows that give up their seats for it; None if no row can come.

        in_work: the keys of the prefixes that running rows are taking in.
        """
        without_claim: set[tuple[str, str]] = set()
        holding = Holding(self._running, self._kept.namespaces, seats=self._max_rows)
        reach = sum(self._reach(other, _ROOM_TOKENS) for other in self._running)
        for row in self._waiting.in_turn():
            queue = row.lane, row.namespace
            if queue in without_claim or holding.is_full(row):
                continue
            if any(prefix.key in in_work and prefix.key not in self._prefix_cache for prefix in row.shared_prefixes):
                continue
            lacks_seat = len(self._running) + self._kept.of_others(row.namespace) >= self._max_rows
            lacks_room = not self._has_room(row, reach)
            if lacks_room:
                self._shares.lacks_room(row.namespace)
            giving: list[Row] | None = None
            held_back = holding.stands_out(row) and self._is_held_back(row, lacks_room=lacks_room)
            if not (held_back or lacks_seat or lacks_room):
                giving = []
            elif not held_back and holding.may_claim(
                row, lacks_room=lacks_room, has_credit=self._waiting.has_credit(row)
            ):
                giving = self._giving(row, admitted, lacks_room=lacks_room)
            if giving is not None:
                if ready is None or row in ready:
                    return row, giving
                self._unready[row] = None
                continue
            without_claim.add(queue)
            # Nobody overtakes a row that does not fit, or it would wait for ever.
            if not (lacks_seat or held_back):
                return None
        return None

    def _giving(self, row: Row, admitted: Collection[Row], *, lacks_room: bool) -> list[Row] | None:
        """The rows that give up their seats for `row`; None where it has to wait."""
        running = list(self._running)
        movable = {other for other in running if other not in admitted and self._may_go(other)}
        giving: list[Row] = []
        for other in yielding(
            row,
            running,
            movable,
            seats=self._max_rows,
            kept=self._kept.counts(),
            lacks_room=lacks_room,
            share=self._share,
            has_credit=self._waiting.has_credit,
        ):
            giving.append(other)
            running.remove(other)
            if self._fits([*running, row], _ROOM_TOKENS):
                return giving
        return None

    def _has_room(self, row: Row, reach: int) -> bool:
        """Whether `row` fits beside the running rows, which may grow to `reach` tokens."""
        return not self._running or reach + self._reach(row, _ROOM_TOKENS) <= self._max_kv_tokens

    def _is_held_back(self, row: Row, *, lacks_room: bool) -> bool:
        """Whether others come first though it is this row's turn, because it would keep them from the room."""
        others = [other for other in self._waiting if other.namespace != row.namespace]
        beside = [*self._running, *others[: self._max_rows - len(self._running)]]
        if not others or outsized([*beside, row], share=self._share) is not row:
            return False
        return self._shares.holds_back(row, self._steps, lacks_room=lacks_room)

    def _count_beyond(self) -> None:
        """Count this step for the namespace whose row has more than its share of the room while others lack room."""
        if self._waiting.namespaces < 2:
            self._shares.is_one_namespace()
        elif self._shares.is_scarce and (large := outsized(self._running, share=self._share)):
            self._shares.count_beyond(large.namespace)

    def _take(self, row: Row, *, given: bool) -> None:
        self._waiting.take(row)
        # Its guidance may have come while this choice was made.
        self._unready.pop(row, None)
        self._shares.take(row)
        self._kept.take(row, given=given and self._holds_no_more_than_its_part(row.namespace))
        stays = undisturbed_tokens(row, interactive_waits=self._waiting.has_lane("interactive"))
        self._running[row] = row.run_tokens + stays
        if not (row.token_ids or row.preempted):
            known = [prefix.tokens for prefix in row.shared_prefixes if prefix.key in self._prefix_cache]
            self._waiting.charge(row, row.prompt_tokens - max(known, default=0))

    def _holds_no_more_than_its_part(self, namespace: str) -> bool:
        """Whether it holds fewer seats than its equal part; seats that it has by its credit are not kept for it."""
        held = sum(row.namespace == namespace for row in self._running)
        return held < max(1, self._max_rows // max(1, self._waiting.namespaces))

    @property
    def _share(self) -> int:
        """The equal share of the room of each namespace that has rows here, tokens."""
        return self._max_kv_tokens // max(1, self._waiting.namespaces)

    def _fits(self, rows: Collection[Row], room: int) -> bool:
        """Whether `rows` fit with their next token and up to `room` more, if they may still generate so many."""
        return sum(self._reach(row, room) for row in rows) <= self._max_kv_tokens

    def _reach(self, row: Row, room: int) -> int:
        """The tokens of `row`, in whole pages, after its draft, its next one and up to `room` more."""
        most = max(row.room_tokens, row.total_tokens + min(room + 1, row.most_left))
        return -(-most // self._page_tokens) * self._page_tokens
