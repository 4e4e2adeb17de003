"""How many requests each namespace may publish into a lane, by how many of them are unanswered. Pure: takes `now`."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import cache
from typing import Final

import msgspec
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.progress import Progress
from guideway.delivery.intake import UNBOUNDED, Limit

QUEUE: Final = 256
"""How many requests of one lane may wait for or be in each of its workers. A worker runs a few at a time. The more of
the others its engine sees, the less they wait behind a long text."""
LEAST: Final = 8
"""Each namespace may have so much unanswered, however many namespaces there are."""
DRAIN_S: Final = 2.0
"""A lane may hold what its workers answer in so long, if that is more than `QUEUE` for each of them."""
RATE_S: Final = 0.5
"""The rate of answers is measured over so long."""
CROWDED: Final = 4
"""If a lane's lag is more than so many times its target, others have published into it too: this service before a
restart, or other services. Half of the lag may be transaction markers."""
STANDS_S: Final = 60.0
"""A partition where nothing is answered for so long, while others of its lane progress, does not count any more."""
BLIND_S: Final = 30.0
"""After so long without an answer about a lane, nothing is held back from it."""
HEAVY_BYTES: Final = 16_384
"""A request has weight 1, and 1 more for each so many bytes."""


class Party(msgspec.Struct, frozen=True):
    """A namespace in one lane: it shares the lane with the other namespaces."""

    namespace: str
    lane: str
    """The request topic; empty where the endpoint is gone, and nothing will be published."""


class Unanswered(msgspec.Struct, frozen=True):
    """One request that was published."""

    namespace: str
    weight: int


class _Lane:
    """What is known of one request topic."""

    def __init__(self) -> None:
        self.waiting: dict[int, dict[int, Unanswered]] = {}
        """By partition and offset."""
        self.weight: Counter[str] = Counter()
        """By namespace; no entry is zero."""
        self.drained: deque[tuple[float, int]] = deque()
        """(when, weight) of what was answered in the last `RATE_S`."""
        self.moved_at: dict[int, float] = {}
        """By partition: when something of ours was last answered there, or began to wait."""
        self.answered_at = float("-inf")
        self.seen: dict[int, tuple[Progress, float]] = {}
        """By partition: how far the workers are, and since when."""
        self.workers = 1
        self.blind_since: float | None = None

    def forget(self, partition: int, offsets: Collection[int]) -> int:
        """Forget these requests; returns their weight."""
        waiting = self.waiting[partition]
        gone = 0
        for one in [waiting.pop(offset) for offset in offsets]:
            gone += one.weight
            self.weight[one.namespace] -= one.weight
            if not self.weight[one.namespace]:
                del self.weight[one.namespace]
        if not waiting:
            del self.waiting[partition]
        return gone

    def give_up_what_stands(self, now: float) -> None:
        """Forget what waits in partitions that stand still: it must not hold up what goes through the others."""
        if now - self.answered_at < STANDS_S:
            for partition in [one for one in self.waiting if now - self.moved_at[one] >= STANDS_S]:
                self.forget(partition, list(self.waiting[partition]))

    def lag(self, now: float) -> int:
        """The lag of all partitions that progress."""
        return sum(one.lag for one, since in self.seen.values() if now - since < STANDS_S)


class Shares:
    """The requests that this process has published and that are unanswered, by lane and namespace.

    A lane's target is `queue` for each of its workers, or what they answer in `DRAIN_S`, if that is more. So much keeps
    the workers busy. What waits beyond it waits better in the topics of its own namespace, where it is in nobody's way.
    The target is divided by weight among the namespaces that have anything unanswered, so one that comes finds its
    share free.
    """

    def __init__(self, *, queue: int = QUEUE, weight: Callable[[str], float] = lambda namespace: 1.0) -> None:
        """weight: of a namespace in the fair share."""
        self._queue = queue
        self._weight = weight
        self._lanes: dict[str, _Lane] = {}

    # What is told ----------------------------------------------------------------------------------------------------

    def published(self, at: TopicPartition, offset: int, namespace: str, size_bytes: int, now: float) -> None:
        """A request was published, to this place in its lane."""
        lane = self._lanes.setdefault(at.topic, _Lane())
        if at.partition not in lane.waiting:
            lane.waiting[at.partition] = {}
            lane.moved_at[at.partition] = now
        one = Unanswered(namespace, 1 + size_bytes // HEAVY_BYTES)
        lane.waiting[at.partition][offset] = one
        lane.weight[namespace] += one.weight

    def answered(self, progress: Mapping[TopicPartition, Progress], now: float) -> None:
        """The workers of one model size have come so far (partition → what they have committed)."""
        for tp, one in progress.items():
            lane = self._lanes[tp.topic]
            lane.blind_since = None
            before, since = lane.seen.get(tp.partition, (None, now))
            same = before is not None and (before.low, len(before.done)) == (one.low, len(one.done))
            lane.seen[tp.partition] = (one, since if same else now)
            finished = [at for at in lane.waiting.get(tp.partition, ()) if at < one.low or at in one.done]
            if finished:
                lane.drained.append((now, lane.forget(tp.partition, finished)))
                lane.moved_at[tp.partition] = lane.answered_at = now
        for topic in {tp.topic for tp in progress}:
            self._lanes[topic].give_up_what_stands(now)

    def unknown(self, lanes: Collection[str], now: float) -> None:
        """Nobody could say what is answered in these lanes."""
        for topic in lanes:
            lane = self._lanes[topic]
            lane.blind_since = now if lane.blind_since is None else lane.blind_since

    def forget(self, lane: str) -> None:
        """The lane does not exist any more."""
        self._lanes.pop(lane, None)

    def workers(self, lanes: Collection[str], count: int) -> None:
        """So many workers serve these lanes."""
        for topic in lanes:
            self._lanes[topic].workers = max(1, count)

    # What is asked ---------------------------------------------------------------------------------------------------

    @property
    def lanes(self) -> list[str]:
        """The lanes in which anything is unanswered."""
        return [topic for topic, lane in self._lanes.items() if lane.waiting]

    def unanswered(self, lanes: Collection[str]) -> int:
        """The weight of all that is unanswered in these lanes."""
        return sum(self._lanes[lane].weight.total() for lane in lanes if lane in self._lanes)

    def waiting(self, namespace: str) -> int:
        """The weight of what this namespace has unanswered, over all lanes."""
        return sum(lane.weight[namespace] for lane in self._lanes.values())

    def namespaces(self) -> set[str]:
        """Those that have anything unanswered."""
        return {namespace for lane in self._lanes.values() for namespace in lane.weight}

    def target(self, lane: str, now: float) -> int:
        """How much may be unanswered in a lane, over all namespaces."""
        found = self._lanes.get(lane)
        if found is None:
            return self._queue
        while found.drained and now - found.drained[0][0] >= RATE_S:
            found.drained.popleft()
        drained = sum(weight for _, weight in found.drained)
        return max(self._queue * found.workers, int(drained / RATE_S * DRAIN_S))

    def limits(self, holding: Collection[Hashable], now: float) -> Limit:
        """How many records of a party may be in hand, while those of `holding` have some."""
        sharing: dict[str, set[str]] = {}
        for topic, lane in self._lanes.items():
            sharing[topic] = set(lane.weight)
        for party in holding:
            assert isinstance(party, Party)
            sharing.setdefault(party.lane, set()).add(party.namespace)

        @cache
        def of_lane(topic: str) -> tuple[float, int, bool]:
            """(the weights of all that share it, its target, whether others have published too much into it)."""
            target, lane = self.target(topic, now), self._lanes.get(topic)
            among = sum(map(self._weight, sharing.get(topic, ())))
            return among, target, lane is not None and lane.lag(now) > CROWDED * target

        def limit(party: Hashable) -> int:
            assert isinstance(party, Party)
            lane = self._lanes.get(party.lane)
            blind = lane is not None and lane.blind_since is not None and now - lane.blind_since >= BLIND_S
            if not party.lane or blind:
                return UNBOUNDED
            among, target, crowded = of_lane(party.lane)
            own = self._weight(party.namespace)
            if party.namespace not in sharing.get(party.lane, ()):
                among += own
            share = LEAST if crowded else max(LEAST, int(target * own / among))
            return max(0, share - (lane.weight[party.namespace] if lane is not None else 0))

        return limit
