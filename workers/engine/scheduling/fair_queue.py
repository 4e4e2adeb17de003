"""The rows that wait, and whose turn it is: lanes, and fairness by tokens between namespaces. No tensors here."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from guideway.schemas.names.topics import LANES, Lane
from guideway.workers.engine.scheduling.credit import Credit
from guideway.workers.engine.scheduling.row import Row, RowStatus

_ONE_IN: Final = 8
"""While rows of both lanes wait, one in so many rows taken is of the batch lane."""


class FairQueue:
    """Owner of the queues, one for each lane and namespace, of the tokens that each namespace has had, and of the
    rows' status.

    Within a lane the namespace has its turn whose rows have had the fewest tokens for its weight, taken in and
    generated; of equals the one that was served longer ago. A namespace that comes back begins with as many tokens as
    the one here that has had the fewest, so its absence neither costs it anything nor earns it anything. This is the
    virtual token counter of Sheng et al. 2024, https://arxiv.org/abs/2401.00588, with weights. Deficit round robin
    would need a row's cost before it runs, and nobody knows how long a text becomes.

    What a namespace has missed changes no turn, but it may let a few rows have more seats (`credit.py`).

    The interactive lane goes before the batch lane. While both wait, one in eight rows taken is of the batch lane, so
    that it always gets on.
    """

    def __init__(self) -> None:
        self._queues: dict[str, dict[str, deque[Row]]] = {lane: {} for lane in LANES}
        """By lane and namespace; the row to be served next comes first; no queue is empty."""
        self._had: dict[str, float] = {}
        """Tokens that each namespace has had, divided by its weight. The one that was served the longest ago comes
        first."""
        self._here: dict[str, set[Row]] = {}
        """The rows of each namespace, waiting or running; none is empty."""
        self._credit = Credit()
        self._level = 0.0
        """What was had, divided by weight, before all counts began at zero again."""
        self._since_batch = 0
        """Rows taken of the interactive lane while the batch lane waited."""

    def __len__(self) -> int:
        return sum(len(queue) for lane in self._queues.values() for queue in lane.values())

    def __iter__(self) -> Iterator[Row]:
        """All rows that wait, in no order that matters."""
        return (row for lane in self._queues.values() for queue in lane.values() for row in queue)

    def in_turn(self) -> Iterator[Row]:
        """All rows that wait; each would come if those before it could not."""
        lanes = list(LANES)
        if self._since_batch >= _ONE_IN - 1:
            lanes.reverse()
        order = {name: place for place, name in enumerate(self._had)}
        for lane in lanes:
            queues = self._queues[lane]
            for namespace in sorted(queues, key=lambda name: (self._had[name], order[name])):
                yield from queues[namespace]

    @property
    def namespaces(self) -> int:
        """How many namespaces have rows that wait or run."""
        return len(self._here)

    def has_lane(self, lane: Lane) -> bool:
        """Whether rows of this lane wait."""
        return bool(self._queues[lane])

    def has_namespace(self, namespace: str) -> bool:
        """Whether rows of this namespace wait."""
        return any(namespace in queues for queues in self._queues.values())

    @property
    def parties(self) -> set[tuple[str, str]]:
        """(lane, namespace) of all rows that wait."""
        return {(lane, name) for lane, queues in self._queues.items() for name in queues}

    def add(self, row: Row) -> None:
        """Let a row wait that has just come."""
        assert row.status is RowStatus.WAITING, "a row comes once"
        if not self._here:
            self._level += max(self._had.values(), default=0.0)
            self._had.clear()
        if row.namespace not in self._here:
            least = min((self._had[name] for name in self._here), default=0.0)
            self._had[row.namespace] = max(self._had.pop(row.namespace, 0.0), least)
            self._credit.rise(self._level + least)
        self._credit.come(row)
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
            self._credit.end(row)
            if not here:
                del self._here[row.namespace]
        row.status = RowStatus.ENDED

    def charge(self, row: Row, tokens: int) -> None:
        """Count `tokens` that a row, which is here, has taken in or generated."""
        self._had[row.namespace] += tokens / row.weight
        self._credit.charge(row, tokens)

    def has_credit(self, row: Row) -> bool:
        """Whether all rows of its namespace fit into what the namespace has missed."""
        return self._credit.covers(row)

    def _remove(self, row: Row) -> None:
        queues = self._queues[row.lane]
        queue = queues[row.namespace]
        queue.remove(row)
        if not queue:
            del queues[row.namespace]
