"""Input topics that this user may not read: each is its owner's affair, and no other topic is to wait for it. Pure."""

from __future__ import annotations

from typing import Final

import structlog
from aiokafka.errors import TopicAuthorizationFailedError

log = structlog.get_logger(__name__)

_AGAIN_S: Final = 10.0


class Forbidden:
    """Owned by one pipeline. Times are in seconds of one clock."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._until: dict[str, float] = {}

    def note(self, error: TopicAuthorizationFailedError, now: float) -> None:
        """Brokers have refused a fetch: its topics are left alone for ten seconds, and it is logged."""
        named = error.args[0] if error.args else ()
        for topic in (named,) if isinstance(named, str) else named:
            self._until[topic] = now + _AGAIN_S
            log.error("a topic may not be read: grant Read on it", topic=topic, group=self._group)

    def allows(self, topic: str, now: float) -> bool:
        """Whether to fetch from it, as far as is known."""
        return self._until.get(topic, now) <= now
