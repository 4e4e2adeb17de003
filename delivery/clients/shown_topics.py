"""Which topics a cluster shows: what follows for whoever reads all of a kind. Pure."""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import Final

_LOOKS: Final = 3
"""A topic is gone if it was missing for so many looks: a broker that lags behind may not know one that is new."""
_SHARE_OF_LOOKS: Final = 0.2
"""Of the time, at most, for questions which topics there are: a cluster may have tens of thousands."""
_A_TOPIC_S: Final = 50e-6
"""Of this process, for what the cluster says of one topic."""
_LONGEST_REST_S: Final = 1.0


class ShownTopics:
    """What the cluster has said so far. All times are in seconds, of one clock."""

    def __init__(self, *, look_s: float, look_again_s: float) -> None:
        """look_s: between two looks. look_again_s: until a topic is tried again that may not be read."""
        self._look_s, self._look_again_s = look_s, look_again_s
        self.missing: dict[str, float] = {}
        """Topic that is read and is not shown at present → since when."""
        self._refused: dict[str, float] = {}
        """Topic that may not be read → when it is tried again."""
        self._asked_at, self._shown = float("-inf"), 0

    @property
    def left_out(self) -> Set[str]:
        """Topics that may not be read."""
        return self._refused.keys()

    def rest_s(self, now: float) -> float:
        """How long to wait before the cluster is asked again."""
        return max(0.0, min(_LONGEST_REST_S, self._shown * _A_TOPIC_S / _SHARE_OF_LOOKS) - (now - self._asked_at))

    def refused(self, topic: str, now: float) -> None:
        """The topic may not be read."""
        self._refused[topic] = now + self._look_again_s

    def heed(self, there: Set[str], read: Set[str], *, shown: int, now: float) -> tuple[Set[str], Set[str]]:
        """(topics to read as well, topics to forget), where the cluster shows `there` of the kind, `shown` in all."""
        self._asked_at, self._shown = now, shown
        self._refused = {topic: until for topic, until in self._refused.items() if until > now}
        since = {topic: self.missing.get(topic, now) for topic in read - there}
        gone = {topic for topic, at in since.items() if now - at >= _LOOKS * self._look_s}
        self.missing = {topic: at for topic, at in since.items() if topic not in gone}
        return there - read - self._refused.keys(), gone

    def forget(self, topics: Collection[str]) -> None:
        """These are not read any more."""
        self.missing = {topic: at for topic, at in self.missing.items() if topic not in topics}
