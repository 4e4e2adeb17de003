"""Who waits, and whose turn it is: lanes, and between namespaces fairness by tokens. No tensors here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from guideway.schemas.names import LANES, Lane
from guideway.workers.engine.scheduling.row import Row, RowStatus

_ONE_IN: Final = 8
"""While rows of both lanes wait, one in so many that are taken is of the batch lane."""


class FairQueue:
    """Owner of the queues, one for each lane and namespace, of what each namespace has had, and of each row's status.

    Within a lane it is the turn of the namespace whose rows have had the fewest tokens, taken in and generated; where
    two have had the same, of the one that was served longer ago. A namespace that comes back begins level with the one
    that has had the fewest of those that are here: it owes nothing for having been away, and is owed nothing. That is
    the virtual token counter of Sheng et al. 2024, https://arxiv.org/abs/2401.00588: deficit round robin needs to know
    what a row will cost before it runs, and nobody knows how long a text becomes.

    The interactive lane goes before the batch lane; but while both wait, one in eight rows taken is of the batch lane,
    so that it gets on whatever comes.
    """

    def __init__(self) -> None:
        self._queues: dict[str, dict[str, deque[Row]]] = {lane: {} for lane in LANES}
        """Per lane and namespace, the one to be served next first; no queue is empty."""
        self._had: dict[str, int] = {}
        """Tokens of each namespace. The order is that in which they were served, the longest ago first."""
        self._here: dict[str, set[Row]] = {}
        """The rows of each namespace, waiting or running; none is empty."""
        self._since_batch = 0
        """Rows taken of the interactive lane while the batch lane waited."""

    def __len__(self) -> int:
        return sum(len(queue) for lane in self._queues.values() for queue in lane.values())

    def __iter__(self) -> Iterator[Row]:
        """In no order that matters."""
        return (row for lane in self._queues.values() for queue in lane.values() for row in queue)

    def in_turn(self) -> Iterator[Row]:
        """All of them, each in the place in which it would come if those before it could not."""
        lanes = list(LANES)
        if self._since_batch >= _ONE_IN - 1:
            lanes.reverse()
        order = list(self._had)
        for lane in lanes:
            queues = self._queues[lane]
            for namespace in sorted(queues, key=lambda name: (self._had[name], order.index(name))):
                yield from queues[namespace]

    @property
    def namespaces(self) -> int:
        """How many have rows that wait or run."""
        return len(self._here)

    def has_lane(self, lane: Lane) -> bool:
        """Whether rows of this lane wait."""
        return bool(self._queues[lane])

    def has_namespace(self, namespace: str) -> bool:
        """Whether rows of this namespace wait."""
        return any(namespace in queues for queues in self._queues.values())

    @property
    def parties(self) -> set[tuple[str, str]]:
        """(lane, namespace) of all that wait."""
        return {(lane, name) for lane, queues in self._queues.items() for name in queues}

    def add(self, row: Row) -> None:
        """Let a row wait that has just come."""
        assert row.status is RowStatus.WAITING, "a row comes once"
        if not self._here:
            self._had.clear()
        if row.namespace not in self._here:
            least = min((self._had[name] for name in self._here), default=0)
            self._had[row.namespace] = max(self._had.pop(row.namespace, 0), least)
        self._here.setdefault(row.namespace, set()).add(row)
        self._queues[row.lane].setdefault(row.namespace, deque()).append(row)

    def put_back(self, row: Row) -> None:
        """Let a row that was taken wait again, before all others of its namespace."""
        assert row.status is RowStatus.RUNNING, "only a row that was taken can be put back"
        row.status = RowStatus.WAITING
        self._queues[row.lane].setdefault(row.namespace, deque()).appendleft(row)

    def take(self, row: Row) -> None:
        """Let a row run that waits."""
        assert row.status is RowStatus.WAITING, "only a row that waits can be taken"
        both = all(self._queues.values())
        self._remove(row)
        row.status = RowStatus.RUNNING
        self._since_batch = self._since_batch + 1 if both and row.lane == "interactive" else 0
        self._had[row.namespace] = self._had.pop(row.namespace)

    def forget(self, row: Row) -> None:
        """End a row, whether it waits, runs, or never came here; one that has ended already stays as it is."""
        here = self._here.get(row.namespace, set())
        if row in here:
            if row.status is RowStatus.WAITING:
                self._remove(row)
            here.remove(row)
            if not here:
                del self._here[row.namespace]
        row.status = RowStatus.ENDED

    def charge(self, namespace: str, tokens: int) -> None:
        """Its rows have had so many tokens."""
        self._had[namespace] += tokens

    def _remove(self, row: Row) -> None:
        queues = self._queues[row.lane]
        queue = queues[row.namespace]
        queue.remove(row)
        if not queue:
            del queues[row.namespace]
